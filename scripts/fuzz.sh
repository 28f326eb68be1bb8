#!/usr/bin/env bash
# Runs each fuzz target for a while: go test takes one target of one package at
# a time.
#
# usage: scripts/fuzz.sh DURATION MODULE...
set -euo pipefail
duration=$1
shift

found=
while IFS=: read -r file line; do
  found=yes
  target=${line#func }
  target=${target%%(*}
  echo "== $(dirname "$file") $target"
  go test "./$(dirname "$file")" -run '^$' -fuzz "^$target\$" -fuzztime "$duration"
done < <(grep -rE --include='*_test.go' '^func Fuzz[A-Z]' "$@" | sort)

if [ -z "$found" ]; then
  echo "fuzz: no fuzz target found in $*" >&2
  exit 1
fi
