#!/usr/bin/env bash
# plugin.sh - the plug-in in a program that does not know Forebay: with it and without, the tokens
# and logits are the same, whether llama.cpp uses mmap or not, and repacks or not.
#
#   tests/plugin.sh BUILD_DIR MODEL...
set -u
export FOREBAY_CACHE_DIR=/dev/null/none # no cache directory
build=$1
shift
log=$build/tests/plugin.err
passed=0 failed=0
ran() { # MODEL THREADS REPACK MMAP -> ids and checksum
    "$build/tests/stock_llama" "$1" 12 "$2" "$3" "$4" 2>"$log" | grep -v tok_per_s
}
is_right() { # MEM WANT GOT -> whether the run with this FOREBAY_MEM did what it should
    if [ -n "$1" ]; then # 1 byte is too little: an error, and no tokens
        grep -q "too small" "$log" && [[ "$3" != *logits* ]]
    else
        [ -n "$2" ] && [ "$3" = "$2" ] && grep -q "of weights:" "$log"
    fi
}
for model in "$@"; do
    for repack in 0 1; do
        for mmap in 0 1; do
            want=$(ran "$model" 1 $repack $mmap)
            for mem in "" 1; do
                got=$(GGML_BACKEND_PATH=$build/libggml-forebay.so FOREBAY_REPACK=$repack \
                    FOREBAY_MEM=$mem ran "$model" 1 $repack $mmap)
                if is_right "$mem" "$want" "$got"; then
                    passed=$((passed + 1))
                else
                    failed=$((failed + 1))
                    echo "plugin: FAILED $(basename "$model") repack=$repack mmap=$mmap" \
                        "mem=${mem:-default}"
                    sed 's/^/    /' "$log"
                fi
            done
        done
    done
done
echo "$passed passed, $failed failed"
[ $failed = 0 ]
