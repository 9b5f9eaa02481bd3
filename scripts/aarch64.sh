#!/usr/bin/env bash
# Compiles every source file for 64-bit ARM: finds what only builds on this machine's processor.
# Nothing is linked or run. Objects go to build/aarch64. Debian: gcc-aarch64-linux-gnu is installed
# when it is missing and we are root.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
cross=aarch64-linux-gnu

scripts/setup.sh
scripts/fetch-llama.sh
if ! command -v $cross-gcc >/dev/null || ! command -v $cross-g++ >/dev/null; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "aarch64: please install g++-$cross" >&2
        exit 1
    fi
    DEBIAN_FRONTEND=noninteractive apt-get -y -q --no-install-recommends install g++-$cross >/dev/null
fi

# The libraries' headers do not depend on the processor, but the directory they are in also holds
# the C library's, which do.
out=build/aarch64
mkdir -p $out/include
for header in liburing.h liburing jansson.h jansson_config.h histedit.h cmocka.h; do
    for dir in /usr/include "/usr/include/$(cc -print-multiarch)"; do
        if [ -e "$dir/$header" ]; then
            ln -sfn "$dir/$header" $out/include/
        fi
    done
done

flags=(-O2 -g -fPIC -fvisibility=hidden -DFOREBAY_BUILD -DFOREBAY_LLAMA_LIB_DIR='""' -DOWN_MODELS_DIR='""' -Wall -Wextra
    -Iinclude -Isrc -isystem deps/llama/include -isystem "$out/include" -c)
n=0
failed=0
for file in src/*/*.c src/*/*.cpp tests/test_*.c; do
    case $file in
    *_macos.c | *'*'*) continue ;;
    *.cpp) compile=("$cross-g++" -std=gnu++17) ;;
    *) compile=("$cross-gcc" -std=gnu11 -D_GNU_SOURCE= -Wshadow -Wstrict-prototypes -Wmissing-prototypes) ;;
    esac
    object=$out/$(echo "$file" | tr / _).o
    n=$((n + 1))
    if [ "$object" -nt "$file" ] && [ -z "$(find src include tests -name '*.h' -newer "$object")" ]; then
        continue
    fi
    "${compile[@]}" "${flags[@]}" "$file" -o "$object" || failed=$((failed + 1))
done
echo "aarch64: $n files compiled, $failed failed"
[ $failed = 0 ]
