#!/usr/bin/env bash
# Checks that the libraries export their public functions and nothing else.
#   tests/check-exports.sh LIBFOREBAY PLUGIN
set -euo pipefail
header=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/include/forebay.h
failed=0

# check NUMBER TITLE EXPECTED GOT: passes if the two sorted lists are equal
check() {
    if [ "$3" = "$4" ]; then
        echo "ok $1 - $2"
    else
        echo "not ok $1 - $2"
        diff <(echo "$3") <(echo "$4") | sed -n 's/^</# missing:/p; s/^>/# unexpected:/p'
        failed=1
    fi
}

exported() {
    nm -D --defined-only "$1" | awk '$2 != "A" { print $3 }' | LC_ALL=C sort
}

# All functions that forebay.h declares with FOREBAY_API.
declared=$(tr '\n' ' ' <"$header" | grep -oE 'FOREBAY_API [^;(]*\(' |
    grep -oE 'forebay_[a-z0-9_]+ *\($' | tr -d ' (' | LC_ALL=C sort)
echo "1..2"
check 1 "libforebay exports the functions of forebay.h" "$declared" "$(exported "$1")"
check 2 "the plug-in exports its two entry points" \
    "$(printf 'ggml_backend_init\nggml_backend_score')" "$(exported "$2")"
exit $failed
