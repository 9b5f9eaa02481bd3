#!/usr/bin/env bash
# Fetches the pinned llama.cpp (headers and prebuilt libraries) into deps/llama.
#
#   scripts/fetch-llama.sh [PLATFORM] [--into DIR]
#
# PLATFORM is linux-x64, linux-arm64, mac-arm64-metal, mac-x64, linux-x64-vulkan or linux-x64-cuda;
# default: this machine's platform, without CUDA or Vulkan. DIR defaults to deps/llama.
# The archives come from npm and are checked against scripts/llama.lock; nothing in them is run.
# Does nothing if DIR already holds the pinned version. DIR is replaced as a whole or not at all.
#
#   DIR/include           llama.h, ggml*.h, gguf.h, ggml-backend-impl.h
#   DIR/include/common    headers of libllama-common (with jinja/, which common/chat.h includes)
#   DIR/include/vendor    headers that those include
#   DIR/lib               libllama, libggml, libggml-base, libllama-common, libggml-cpu-*, ...
#   DIR/LICENSE           llama.cpp's licence
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
lock=$root/scripts/llama.lock
into=$root/deps/llama
platform=

die() {
    echo "fetch-llama: $1" >&2
    shift
    for line in "$@"; do echo "  $line" >&2; done
    exit 1
}

usage() {
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}"
}

default_platform() {
    case $(uname -s)-$(uname -m) in
    Linux-x86_64) echo linux-x64 ;;
    Linux-aarch64 | Linux-arm64) echo linux-arm64 ;;
    Darwin-arm64) echo mac-arm64-metal ;;
    Darwin-x86_64) echo mac-x64 ;;
    *) die "no prebuilt llama.cpp for $(uname -s) on $(uname -m)." \
        "Build against your own checkout: cmake -DFOREBAY_LLAMA_SOURCE=DIR." ;;
    esac
}

# locked NAME: prints "VERSION INTEGRITY" from the lock file.
locked() {
    awk -v name="$1" '$1 == name { print $2, $3; found = 1 } END { exit !found }' "$lock" ||
        die "$1 is not in scripts/llama.lock."
}

# fetch NAME VERSION INTEGRITY DIR: downloads one archive, verifies it and unpacks it into DIR.
fetch() {
    local name=$1 version=$2 want=$3 dir=$4 file got
    echo "fetch-llama: getting $name@$version" >&2
    mkdir -p "$dir"
    (cd "$dir" && npm pack "$name@$version" --ignore-scripts --loglevel=error) \
        >/dev/null 2>"$dir/pack.err" || {
        sed 's/^/  /' "$dir/pack.err" >&2
        die "npm could not download $name@$version." \
            "Check the network and \`npm config get registry\`, then run this again."
    }
    file=$(echo "$dir"/*.tgz)
    got=sha512-$(node -e '
        const archive = require("fs").readFileSync(process.argv[1]);
        const hash = require("crypto").createHash("sha512").update(archive);
        process.stdout.write(hash.digest("base64"));
    ' "$file")
    if [ "$want" = - ]; then
        echo "fetch-llama: no pinned hash for $name (got $got)" >&2
    elif [ "$got" != "$want" ]; then
        die "$name@$version is not the archive that scripts/llama.lock pins." \
            "expected $want" "got      $got"
    fi
    tar -xzf "$file" -C "$dir"
    rm "$file"
}

while [ $# -gt 0 ]; do
    case $1 in
    -h | --help)
        usage
        exit 0
        ;;
    --into)
        [ $# -ge 2 ] || die "--into needs a directory."
        into=$2
        shift 2
        ;;
    -*) die "unknown option $1 (see --help)." ;;
    *)
        platform=$1
        shift
        ;;
    esac
done
[ -n "$platform" ] || platform=$(default_platform)

source_lock=$(locked node-llama-cpp)
binary_lock=$(locked "@node-llama-cpp/$platform")
# The number after "headers" grows whenever this script puts more files into DIR.
stamp="$platform $binary_lock source $source_lock headers 2"
if [ -f "$into/.stamp" ] && [ "$(cat "$into/.stamp")" = "$stamp" ]; then
    exit 0
fi

for tool in npm node git tar; do
    command -v "$tool" >/dev/null ||
        die "\`$tool\` is missing." "Run scripts/setup.sh to install it."
done

mkdir -p "$(dirname "$into")"
tmp=$(mktemp -d "$(dirname "$into")/.fetch-llama.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
trap 'exit 130' INT TERM

# shellcheck disable=SC2086 # version and hash are two words
{
    fetch "@node-llama-cpp/$platform" $binary_lock "$tmp/binary"
    fetch node-llama-cpp $source_lock "$tmp/source"
}
bundle=$tmp/source/package/llama/gitRelease.bundle
git clone --quiet --no-checkout "$bundle" "$tmp/git" 2>"$tmp/git.err" ||
    die "cannot read llama.cpp's source bundle." "$(cat "$tmp/git.err")"
git -C "$tmp/git" -c advice.detachedHead=false checkout --quiet HEAD -- \
    LICENSE include ggml/include ggml/src/ggml-backend-impl.h common vendor/nlohmann

out=$tmp/out
mkdir -p "$out/lib" "$out/include/common/jinja" "$out/include/vendor"
cp "$tmp/git/include/"*.h "$tmp/git/ggml/include/"*.h "$tmp/git/ggml/src/ggml-backend-impl.h" \
    "$out/include/"
cp "$tmp/git/common/"*.h "$out/include/common/"
cp "$tmp/git/common/jinja/"*.h "$out/include/common/jinja/"
cp -R "$tmp/git/vendor/nlohmann" "$out/include/vendor/"
cp "$tmp/git/LICENSE" "$out/"
found=
for file in "$tmp/binary/package/bins/$platform/"*; do
    case $file in
    *.so | *.so.* | *.dylib | *.metal | *.metallib)
        cp "$file" "$out/lib/"
        found=1
        ;;
    esac
done
[ -n "$found" ] || die "@node-llama-cpp/$platform has no libraries in bins/$platform."
echo "$stamp" >"$out/.stamp"

if [ -e "$into" ]; then
    mv "$into" "$tmp/old"
fi
mv "$out" "$into"
echo "fetch-llama: llama.cpp for $platform is in $into" >&2
