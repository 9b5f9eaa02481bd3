#!/usr/bin/env bash
# The quick part of the tests in a copy of the tree that has no ../shared beside it, which is what
# everybody outside has. The copy is in build/bare, and llama.cpp comes from deps/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
tree=build/bare/forebay

mkdir -p "$tree"
# Files that are gone from the tree must go from the copy, but its build may stay.
find "$tree" -mindepth 1 -maxdepth 1 ! -name build ! -name deps -exec rm -rf {} +
git ls-files -z | xargs -0 cp --parents -t "$tree"
[ ! -d deps ] || cp -R -n deps "$tree/"
cd "$tree"
exec scripts/check.sh release quick
