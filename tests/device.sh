#!/usr/bin/env bash
# Layers on a GPU next to streamed weights, tested without a GPU: llama.cpp's Vulkan back end on
# Mesa's software driver. Every run must equal llama.cpp with the same layers on the same device.
#   tests/device.sh [CASE...]      cases are names of models below; all unless given
# Fetches the Vulkan libraries (once, some 90 MB) into deps/llama-vulkan, installs the driver when
# it may, and builds into build/vulkan. Reports in TAP. The first run compiles shaders for minutes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
build=build/vulkan
models=${FOREBAY_SHARED:-../shared}/models

say() { echo "device: $1" >&2; }

if [ "$(uname -s)-$(uname -m)" != Linux-x86_64 ]; then
    say "made for Linux on x86-64 only"
    echo "1..0 # SKIP"
    exit 0
fi

# --- Driver, libraries, build ---------------------------------------------------------------------

have_driver() {
    ldconfig -p | grep -q 'libvulkan\.so\.1' && ls /usr/share/vulkan/icd.d/lvp_icd*.json >/dev/null 2>&1
}
if ! have_driver; then
    packages="mesa-vulkan-drivers libvulkan1"
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        say "Mesa's software Vulkan driver is missing. As root: apt-get install $packages"
        exit 1
    fi
    say "installing $packages"
    # shellcheck disable=SC2086 # a list of words
    DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120 -y -q --no-install-recommends \
        install $packages >/dev/null
fi
scripts/setup.sh
scripts/fetch-llama.sh linux-x64-vulkan --into deps/llama-vulkan
mkdir -p "$build"
cmake -S . -B "$build" -DFOREBAY_TESTS=OFF -DFOREBAY_LLAMA_DIR="$root/deps/llama-vulkan" \
    >"$build/configure.log" 2>&1 || { cat "$build/configure.log" >&2; exit 1; }
cmake --build "$build" --parallel "${JOBS:-$(getconf _NPROCESSORS_ONLN)}" --target forebay_cli >&2

export GGML_VK_VISIBLE_DEVICES=0 # llama.cpp hides devices that are processors, unless told
forebay=$root/$build/forebay
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

# --- Checks ---------------------------------------------------------------------------------------

n=0
failed=0
check() { # RC WHAT
    n=$((n + 1))
    if [ "$1" = 0 ]; then
        echo "ok $n - $2"
    else
        echo "not ok $n - $2"
        failed=$((failed + 1))
    fi
}

# More than one pass, the last of them shorter; one thread, so that busy machines do.
prompt=(--tokens 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18 --ignore-eos -t 1 -c 128)

number() { sed -n "s/.*\"$1\": \([0-9]*\).*/\1/p" "$2"; }

# verify MODEL WHAT OPTION...: a check; what the device holds is added to $tmp/held
verify() {
    local model=$1 what=$2 rc=0 held
    shift 2
    timeout 600 "$forebay" verify "$model" "${prompt[@]}" -n 4 "$@" >"$tmp/out" 2>"$tmp/err" || rc=$?
    held=$(sed -n 's/^device: //p' "$tmp/err")
    echo "${held:-nothing}" >>"$tmp/held"
    check $rc "$what: ${held:-nothing on the device}, $(head -n 1 "$tmp/out")"
    [ $rc = 0 ] || sed 's/^/# /' "$tmp/err"
}

# covered REGEX WHAT: some run of the model had this on the device
covered() {
    grep -qE "$1" "$tmp/held" && check 0 "$2" || check 1 "$2"
}

# every_split NAME MODEL: from all of the model on the device to nothing, at two budgets each. Seven
# tokens a pass: Mesa's compiler (22.3) crashes on llama.cpp's shader for experts in large batches.
every_split() {
    local name=$1 model=$2 size all percent share
    size=$(stat -c %s "$model")
    : >"$tmp/held"
    "$forebay" run "$model" "${prompt[@]}" -b 7 -n 1 -q --ids --device Vulkan0 --device-mem 1G \
        --stats "$tmp/stats" >/dev/null
    all=$(number device_bytes "$tmp/stats")
    for percent in 100 75 50 30 20 12; do
        for share in 40 75; do
            verify "$model" "$name, $percent % of the device, $share % in memory" -b 7 \
                --device Vulkan0 --device-mem $((all * percent / 100)) \
                --weights-mem $((size * share / 100))
        done
    done
    verify "$model" "$name, no device" -b 7 --device none --weights-mem $((size / 2))
    covered 'holds ([0-9]+) of \1 layers' "$name: all layers were on the device"
    covered 'holds ([1-9]|1[0-9]) of ' "$name: layers were on the device"
    covered 'holds 0 of |^nothing' "$name: no layer was on the device"
}

synth() {
    "$forebay" synth random --type Q8_0 --layers 6 --vocab 500 -q -o "$tmp/$1.gguf" "${@:2}"
}

dense() {
    synth dense -a llama --embd 512 --heads 8 --ff 1024
    every_split dense "$tmp/dense.gguf"
}

experts() {
    synth experts -a qwen3moe --embd 256 --heads 4 --ff 256 --experts 16 --experts-used 4
    every_split experts "$tmp/experts.gguf"
    covered '\(0 with their experts\)' "experts: streamed, with layers on the device"
    # Large batches need more experts at once than there are slots.
    verify "$tmp/experts.gguf" "experts, one large pass" -b 32 --device Vulkan0 --device-mem 3M \
        --weights-mem 4M
}

# Biases of experts, and sinks in the attention.
biased() {
    synth biased -a gpt-oss --embd 256 --heads 4 --ff 256 --experts 16 --experts-used 4
    every_split biased "$tmp/biased.gguf"
}

stories() {
    local model
    for model in stories260K stories260K-moe8; do
        [ ! -f "$models/$model.gguf" ] || every_split $model "$models/$model.gguf"
    done
}

# A software device is taken only by its name.
choice() {
    synth choice -a llama --embd 256 --heads 4 --ff 256
    local run=("$forebay" run "$tmp/choice.gguf" "${prompt[@]}" -n 1 -q --ids --stats "$tmp/stats")
    "${run[@]}" >/dev/null && grep -q '"device_name": "none"' "$tmp/stats" && check 0 "auto" || check 1 "auto"
    "${run[@]}" --device Vulkan0 >/dev/null && grep -q '"device_name": "Vulkan0"' "$tmp/stats" &&
        check 0 "by name" || check 1 "by name"
    local rc=0
    "${run[@]}" --device Vulkan7 >/dev/null 2>"$tmp/err" || rc=$?
    [ $rc = 2 ] && grep -q 'Vulkan0 (llvmpipe' "$tmp/err" && check 0 "no such device" ||
        check 1 "no such device"
}

[ $# -gt 0 ] || set -- choice dense experts biased stories
for case in "$@"; do
    "$case"
done
echo "1..$n"
[ "$failed" = 0 ]
