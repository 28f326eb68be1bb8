#!/bin/sh
# Fails with advice unless the Go command here can build what go.work asks for.
need=$(sed -n 's/^go //p' go.work)
if ! command -v go >/dev/null; then
  echo "Tandem needs Go $need or newer, and there is no go command in PATH: see https://go.dev/doc/install" >&2
  exit 1
fi
# In this directory, so that a go command that fetches toolchains may do so.
if ! said=$(go version 2>&1); then
  echo "Tandem needs Go $need or newer; the go command in PATH says: $said" >&2
  exit 1
fi
have=${said#go version go}
have=${have%% *}
if ! printf '%s\n%s\n' "$need" "$have" | sort -V -C; then
  echo "Tandem needs Go $need or newer, found $have ($(command -v go)): see https://go.dev/doc/install" >&2
  exit 1
fi
