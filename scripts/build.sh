#!/usr/bin/env bash
# Installs missing packages, fetches llama.cpp, configures the preset and builds it.
#   scripts/build.sh [PRESET]      release (default), asan or tsan
# FOREBAY_LLAMA_SOURCE=DIR in the environment builds against your own llama.cpp checkout.
# JOBS=N limits the parallel compilations (default: one per core).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
preset=${1:-release}
build=build/$preset

scripts/setup.sh
own=()
if [ -n "${FOREBAY_LLAMA_SOURCE:-}" ]; then
    own=("-DFOREBAY_LLAMA_SOURCE=$FOREBAY_LLAMA_SOURCE")
elif ! grep -qs '^FOREBAY_LLAMA_SOURCE:PATH=.' "$build/CMakeCache.txt"; then
    scripts/fetch-llama.sh
fi
if [ ! -e "$build/Makefile" ] || [ ${#own[@]} != 0 ]; then
    mkdir -p "$build"
    cmake --preset "$preset" ${own[@]+"${own[@]}"} >"$build/configure.log" 2>&1 || {
        cat "$build/configure.log" >&2
        exit 1
    }
fi
unset MAKELEVEL # else make takes itself for a sub-make and prints the directory
exec cmake --build "$build" --parallel "${JOBS:-$(getconf _NPROCESSORS_ONLN)}"
