#!/usr/bin/env bash
# Compiles every source file for 64-bit ARM, to find code that builds only for this machine's
# processor. Nothing is linked or run. Objects go to build/aarch64. On Debian, as root, a missing
# cross compiler is installed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
cross=aarch64-linux-gnu

scripts/setup.sh
scripts/fetch-llama.sh
if ! command -v $cross-gcc >/dev/null || ! command -v $cross-g++ >/dev/null; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "aarch64: $cross-g++ is missing. Install g++-$cross." >&2
        exit 1
    fi
    DEBIAN_FRONTEND=noninteractive apt-get -y -q --no-install-recommends install "g++-$cross" \
        >/dev/null
fi

# The libraries' headers do not depend on the processor, but they lie in the same directory as the C
# library's headers, which do. So the compiler gets a directory with links to the former only.
out=build/aarch64
mkdir -p $out/include
for header in liburing.h liburing jansson.h jansson_config.h histedit.h cmocka.h; do
    for dir in /usr/include "/usr/include/$(cc -print-multiarch)"; do
        if [ -e "$dir/$header" ]; then
            ln -sfn "$dir/$header" $out/include/
        fi
    done
done

flags=(-O2 -g -fPIC -fvisibility=hidden -Wall -Wextra
    -DFOREBAY_BUILD -DFOREBAY_LLAMA_LIB_DIR='""' -DOWN_MODELS_DIR='""' -DTESTS_DIR='""'
    -Iinclude -Isrc -isystem deps/llama/include -isystem "$out/include" -c)
n=0
failed=0
for file in src/*/*.c src/*/*.cpp tests/test_*.c; do
    case $file in
    *_macos.c | *'*'*) continue ;;
    *.cpp) compile=("$cross-g++" -std=gnu++17) ;;
    *)
        compile=("$cross-gcc" -std=gnu11 -D_GNU_SOURCE=
            -Wshadow -Wstrict-prototypes -Wmissing-prototypes)
        ;;
    esac
    object=$out/$(echo "$file" | tr / _).o
    n=$((n + 1))
    if [ "$object" -nt "$file" ] &&
        [ -z "$(find src include tests -name '*.h' -newer "$object")" ]; then
        continue
    fi
    "${compile[@]}" "${flags[@]}" "$file" -o "$object" || failed=$((failed + 1))
done
echo "aarch64: $n files compiled, $failed failed"
[ $failed = 0 ]
