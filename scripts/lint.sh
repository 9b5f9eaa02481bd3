#!/usr/bin/env bash
# Checks what needs no build: formatting, line lengths, shell scripts.
#   scripts/lint.sh      prints each violation as FILE:LINE; exit 1 if there is any
# Debian: clang-format and shellcheck are installed when they are missing and we are root.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
columns=100

missing=()
for tool in clang-format shellcheck; do
    command -v $tool >/dev/null || missing+=("$tool")
done
if [ ${#missing[@]} -gt 0 ]; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "lint: please install ${missing[*]}" >&2
        exit 1
    fi
    apt-get update -q >/dev/null
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
        "${missing[@]}" >/dev/null
fi

failed=0
make -s format-check || failed=1

# Tables of Markdown may be longer; so may data, and output recorded by tests.
kinds='\.(c|h|cpp|sh|awk|py|mjs|md|cmake|txt)$|(^|/)Makefile$|^\.ci/'
mapfile -t texts < <(git ls-files | grep -E "$kinds" |
    grep -vE '^models/train/(tokens|merges)\.txt$')
long=$(LC_ALL=C.UTF-8 grep -nE "^.{$((columns + 1)),}" "${texts[@]}" |
    grep -vE '^[^:]*\.md:[0-9]+: *\|' || true)
if [ -n "$long" ]; then
    sed "s/^\([^:]*:[0-9]*\):.*/\1: longer than $columns columns/" <<<"$long"
    failed=1
fi

mapfile -t scripts < <(git ls-files | grep -E '\.sh$|^\.ci/')
shellcheck -x -S warning "${scripts[@]}" || failed=1
exit $failed
