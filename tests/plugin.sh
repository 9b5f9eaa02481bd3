#!/usr/bin/env bash
# plugin.sh - the plug-in in a program that knows nothing of it: the same tokens and logits, with
# and without, loaded through mmap and without, streaming or not.
#
#   tests/plugin.sh BUILD_DIR MODEL...
set -u
build=$1
shift
passed=0 failed=0
ran() { # MODEL THREADS REPACK MMAP -> ids and checksum
    "$build/tests/stock_llama" "$1" 12 "$2" "$3" "$4" 2>"$build/tests/plugin.err" | grep -v tok_per_s
}
for model in "$@"; do
    for repack in 0 1; do
        for mmap in 0 1; do
            want=$(ran "$model" 1 $repack $mmap)
            for mem in "" 1 ; do # 1 byte: too little, must fail with a word, not with wrong tokens
                got=$(GGML_BACKEND_PATH=$build/libggml-forebay.so FOREBAY_REPACK=$repack \
                    FOREBAY_MEM=$mem ran "$model" 1 $repack $mmap)
                name="$(basename "$model") repack=$repack mmap=$mmap mem=${mem:-default}"
                if [ -n "$mem" ]; then
                    grep -q "too small" "$build/tests/plugin.err" && [ -z "$(echo "$got" | grep logits)" ]
                else
                    [ -n "$want" ] && [ "$got" = "$want" ] &&
                        grep -q "of weights:" "$build/tests/plugin.err"
                fi
                if [ $? = 0 ]; then
                    passed=$((passed + 1))
                else
                    failed=$((failed + 1))
                    echo "plugin: FAILED $name"
                    sed 's/^/    /' "$build/tests/plugin.err"
                fi
            done
        done
    done
done
echo "$passed passed, $failed failed"
[ $failed = 0 ]
