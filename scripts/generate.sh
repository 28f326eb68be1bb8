#!/usr/bin/env bash
# Generates Go and OpenAPI from proto/api into DIR/tandem and DIR/openapi, with
# the buf binary given.
#
# usage: scripts/generate.sh BUF DIR
set -euo pipefail
buf=$1 dir=$2

# buf prefixes its output with a directory; its template names gen below that.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# The plugins' versions are gen/go.mod's alone, not the workspace's.
GOWORK=off "$buf" generate --output "$work"

# Only a complete generation replaces the last one.
mkdir -p "$dir"
rm -rf "$dir/tandem" "$dir/openapi"
mv "$work/gen/tandem" "$work/gen/openapi" "$dir/"
