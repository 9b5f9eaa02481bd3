#!/usr/bin/env bash
# Tests layers offloaded to a GPU next to streamed weights, without a GPU: llama.cpp's Vulkan
# backend runs on Mesa's software driver. Every run must equal llama.cpp with the same layers on the
# same device.
#   tests/device.sh [CASE...]
# Cases: choice dense ffns prompts experts biased stories, and for experts in slots: slots batches
# topics archs; default: all.
# Fetches the Vulkan libraries (90 MB, once) into deps/llama-vulkan, installs the driver if run as
# root, and builds into build/vulkan. Prints TAP. The first run compiles shaders for minutes.
set -euo pipefail
export FOREBAY_CACHE_DIR=/dev/null/none # no cache directory
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
build=build/vulkan
models=${FOREBAY_SHARED:-../shared}/models

say() { echo "device: $1" >&2; }

if [ "$(uname -s)-$(uname -m)" != Linux-x86_64 ]; then
    say "runs on Linux on x86-64 only"
    echo "1..0 # SKIP"
    exit 0
fi

# --- Driver, libraries, build ---------------------------------------------------------------------

have_driver() {
    ldconfig -p | grep -q 'libvulkan\.so\.1' &&
        ls /usr/share/vulkan/icd.d/lvp_icd*.json >/dev/null 2>&1
}
if ! have_driver; then
    packages="mesa-vulkan-drivers libvulkan1"
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        say "Mesa's software Vulkan driver is missing. As root: apt-get install $packages"
        exit 1
    fi
    say "installing $packages"
    # shellcheck disable=SC2086 # a list of words
    DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120 -y -q \
        --no-install-recommends install $packages >/dev/null
fi
scripts/setup.sh
scripts/fetch-llama.sh linux-x64-vulkan --into deps/llama-vulkan
mkdir -p "$build"
cmake -S . -B "$build" -DFOREBAY_TESTS=OFF -DFOREBAY_LLAMA_DIR="$root/deps/llama-vulkan" \
    >"$build/configure.log" 2>&1 || { cat "$build/configure.log" >&2; exit 1; }
cmake --build "$build" --parallel "${JOBS:-$(getconf _NPROCESSORS_ONLN)}" --target forebay_cli >&2

export GGML_VK_VISIBLE_DEVICES=0 # by default llama.cpp hides software devices
forebay=$root/$build/forebay
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

# --- Checks ---------------------------------------------------------------------------------------

n=0
failed=0
check() { # RC TITLE
    n=$((n + 1))
    if [ "$1" = 0 ]; then
        echo "ok $n - $2"
    else
        echo "not ok $n - $2"
        failed=$((failed + 1))
    fi
}

# Several passes, the last one shorter; one thread, so that the tests also run on busy machines.
# shellcheck disable=SC2054 # the commas are part of the value
prompt=(--tokens 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18 --ignore-eos -t 1 -c 128)

first_prompt=("${prompt[@]}")

number() { sed -n "s/.*\"$1\": \([0-9]*\).*/\1/p" "$2"; }

# verify MODEL TITLE OPTION...: a check; adds the device's line of the statistics to $tmp/held.
# Mesa's driver (22.3) now and then crashes in one of its own threads, also in plain llama.cpp: such
# a run is repeated.
verify() {
    local model=$1 what=$2 rc held try
    shift 2
    for try in 1 2 3 4 5; do
        rc=0
        timeout 600 "$forebay" verify "$model" "${prompt[@]}" -n 4 "$@" \
            >"$tmp/out" 2>"$tmp/err" || rc=$?
        [ $rc = 139 ] || break
        echo "# the driver crashed, try $try"
    done
    held=$(sed -n 's/^device: //p' "$tmp/err")
    echo "${held:-nothing}" >>"$tmp/held"
    check $rc "$what: ${held:-nothing on the device}, $(head -n 1 "$tmp/out")"
    [ $rc = 0 ] || sed 's/^/# /' "$tmp/err"
}

# covered REGEX TITLE: a check; some run of the model had a matching placement on the device
covered() {
    local rc=0
    grep -qE "$1" "$tmp/held" || rc=$?
    check $rc "$2"
}

# every_split NAME MODEL: from all of the model on the device to nothing, with two budgets each.
# Seven tokens per pass, because Mesa's compiler (22.3) crashes on llama.cpp's shader for experts in
# large batches.
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
                --device Vulkan0 --device-mem $((all * percent / 100 + 1024)) \
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

# FFNs of a dense model that stay with the CPU beside all attention on the device: in memory, and
# from the disk through a ring that is smaller than they are.
ffns() {
    local all percent ram
    : >"$tmp/held"
    synth ffns -a llama --embd 512 --heads 8 --ff 1024
    all=$(device_bytes "$tmp/ffns.gguf" -b 7)
    for percent in 90 70 56; do
        for ram in 2M 20M; do
            verify "$tmp/ffns.gguf" "ffns, $percent % of the device, RAM $ram" -b 7 \
                --device Vulkan0 --device-mem $((all * percent / 100)) --weights-mem $ram
        done
    done
    covered 'holds 6 of 6 layers \([4-5] with their FFNs\)' "ffns: most were on the device"
    covered 'holds 6 of 6 layers \([0-2] with their FFNs\)' "ffns: few were on the device"
}

# Prompts that the device computes with weights of the CPU: FFNs, whole layers, and all that is in
# the models of other architectures, from RAM and from the disk. llama.cpp's variable lowers the
# number of rows from which on it does so, because Mesa's compiler takes long for the shaders of
# large batches. Single tokens are the CPU's.
prompts() {
    local all percent model layer=$((3 * 512 * 1024 * 34 / 32)) ffns rc=0
    : >"$tmp/held"
    export GGML_OP_OFFLOAD_MIN_BATCH=2
    synth prompts -a llama --embd 512 --heads 8 --ff 1024
    all=$(device_bytes "$tmp/prompts.gguf" -b 7)
    for percent in 90 50 25; do
        verify "$tmp/prompts.gguf" "prompts, $percent % of the device" -b 7 --device Vulkan0 \
            --device-mem $((all * percent / 100)) --weights-mem 3M
    done
    covered 'holds 6 of 6 layers \([1-5] with their FFNs\)' "prompts: FFNs were the CPU's"
    covered 'holds [1-5] of 6 layers,' "prompts: whole layers were the CPU's"
    verify "$tmp/prompts.gguf" "prompts, four sequences" -b 7 --device Vulkan0 --parallel 4 \
        --device-mem $((all * 9 / 10)) --weights-mem 20M
    # Each matrix is copied once per pass: of 7, 7 and 4 tokens.
    "$forebay" run "$tmp/prompts.gguf" "${prompt[@]}" -b 7 -n 4 -q --ids --device Vulkan0 \
        --device-mem $((all * 9 / 10)) --weights-mem 3M --stats "$tmp/stats" >/dev/null
    ffns=$(sed -n 's/.*6 of 6 layers (\([0-9]\) with .*/\1/p' "$tmp/held" | head -n 1)
    [ "$(number device_copy_bytes "$tmp/stats")" = $((3 * (6 - ffns) * layer)) ] || rc=1
    check $rc "prompts: each matrix was copied once per pass"
    for model in "$models"/archs/{gemma3,jamba,phi3,qwen2}-dense-*.gguf; do
        [ ! -f "$model" ] || verify "$model" "prompts, $(basename "$model" .gguf)" -b 7 \
            --device Vulkan0 --device-mem 600K --weights-mem 500K
    done
    unset GGML_OP_OFFLOAD_MIN_BATCH
}

experts() {
    synth experts -a qwen3moe --embd 256 --heads 4 --ff 256 --experts 16 --experts-used 4
    every_split experts "$tmp/experts.gguf"
    covered '\(0 with their experts\)' "experts: streamed, with layers on the device"
    # Large batches need more experts at once than there are slots.
    verify "$tmp/experts.gguf" "experts, one large pass" -b 32 --device Vulkan0 --device-mem 3M \
        --weights-mem 4M
}

# An architecture with biases of experts and attention sinks.
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

# --- Experts in slots -----------------------------------------------------------------------------

# device_bytes MODEL OPTION...: what the model takes on the device, without a limit
device_bytes() {
    "$forebay" run "$1" "${prompt[@]}" -n 1 -q --ids --device Vulkan0 --device-mem 1G \
        --stats "$tmp/stats" "${@:2}" >/dev/null
    number device_bytes "$tmp/stats"
}

# in_slots NAME MODEL LESS...: the device has room for everything, less LESS percent of the file
in_slots() {
    local name=$1 model=$2 size all less batch
    size=$(stat -c %s "$model")
    all=$(device_bytes "$model" -b 7)
    for less in "${@:3}"; do
        for batch in 1 7; do
            verify "$model" "$name, $less % too little, batch $batch" -b $batch --device Vulkan0 \
                --device-experts slots --device-mem $((all - size * less / 100)) \
                --weights-mem $((size * 3 / 4))
        done
    done
}

slots() {
    : >"$tmp/held"
    synth experts -a qwen3moe --embd 256 --heads 4 --ff 256 --experts 16 --experts-used 4
    in_slots experts "$tmp/experts.gguf" 10 40 60
    synth biased -a gpt-oss --embd 256 --heads 4 --ff 256 --experts 16 --experts-used 4
    in_slots biased "$tmp/biased.gguf" 10 50
    covered 'computes their experts, from [0-9]+ slots' "slots: experts were in slots"
    # More threads and sequences; and RAM that holds one expert of each layer only.
    local all
    all=$(device_bytes "$tmp/experts.gguf" -b 7)
    verify "$tmp/experts.gguf" "slots, four sequences" -b 7 --device Vulkan0 --parallel 4 \
        --device-experts slots --device-mem $((all - 8000000)) --weights-mem 8M
    verify "$tmp/experts.gguf" "slots, little RAM" -b 7 --device Vulkan0 -t 2 \
        --device-experts slots --device-mem $((all - 8000000)) --weights-mem 4M
}

# Batches for which kernels go through the stack expert by expert, and skip masked rows. Without
# fused nodes, whose shaders crash Mesa's driver after such a batch.
batches() {
    local batch all
    : >"$tmp/held"
    synth experts -a qwen3moe --embd 256 --heads 4 --ff 256 --experts 16 --experts-used 4
    prompt=(--tokens "$(seq -s , 1 499),$(seq -s , 1 101)" --ignore-eos -t 1 -c 700)
    export GGML_VK_DISABLE_FUSION=1 GGML_VK_DISABLE_MULTI_ADD=1
    for batch in 12 100 600; do
        all=$(device_bytes "$tmp/experts.gguf" -b $batch)
        verify "$tmp/experts.gguf" "slots, batch $batch" -b $batch --device Vulkan0 \
            --device-experts slots --device-mem $((all - 9000000)) --weights-mem 6M
    done
    covered 'computes their experts, from [0-9]+ slots' "batches: experts were in slots"
    unset GGML_VK_DISABLE_FUSION GGML_VK_DISABLE_MULTI_ADD
    prompt=("${first_prompt[@]}")
}

# What moves between the tiers. The model repeats the same tokens, so that the same experts are used
# again: they are on the device; the more RAM is behind it, the less is read from the disk; and what
# is copied is what missed.
topics() {
    local all ram unit last=-1 now rc=0
    synth experts -a qwen3moe --embd 256 --heads 4 --ff 256 --experts 16 --experts-used 4
    all=$(device_bytes "$tmp/experts.gguf" -b 7)
    for ram in 4M 9M 30M; do
        "$forebay" run "$tmp/experts.gguf" "${prompt[@]}" -b 1 -n 60 -q --ids --device Vulkan0 \
            --device-experts slots --device-mem $((all - 10000000)) --weights-mem $ram \
            --lookahead 0 --stats "$tmp/stats" >/dev/null
        now=$(number read_bytes "$tmp/stats")
        [ "$last" = -1 ] || [ "$now" -lt "$last" ] || rc=1
        last=$now
        unit=$((3 * 256 * 256 * 34 / 32))
        [ "$(number device_copy_bytes "$tmp/stats")" = $((unit *
            ($(number device_requests "$tmp/stats") - $(number device_hits "$tmp/stats")))) ] ||
            rc=1
        [ "$(number device_hits "$tmp/stats")" -gt 0 ] || rc=1
    done
    check $rc "topics: more RAM, fewer reads; what misses is copied"
}

# Every architecture with experts; in some, nothing fits in slots at that size.
archs() {
    local model
    : >"$tmp/held"
    for model in "$models"/archs/*-moe-*.gguf "$models"/stories260K-moe*.gguf; do
        [ ! -f "$model" ] || in_slots "$(basename "$model" .gguf)" "$model" 25
    done
    [ ! -d "$models/archs" ] ||
        covered 'computes their experts, from [0-9]+ slots' "archs: experts were in slots"
}

# uses TITLE DEVICE OPTION...: a check; a run of choice.gguf with these options uses this device
uses() {
    local rc=0
    "$forebay" run "$tmp/choice.gguf" "${prompt[@]}" -n 1 -q --ids --stats "$tmp/stats" "${@:3}" \
        >/dev/null || rc=$?
    [ $rc != 0 ] || grep -q "\"device_name\": \"$2\"" "$tmp/stats" || rc=1
    check $rc "$1"
}

# A software device is used only if it is named. The error for an unknown device lists the known
# ones.
choice() {
    synth choice -a llama --embd 256 --heads 4 --ff 256
    uses "auto" none
    uses "by name" Vulkan0 --device Vulkan0
    local rc=0
    "$forebay" run "$tmp/choice.gguf" "${prompt[@]}" -n 1 -q --device Vulkan7 >/dev/null \
        2>"$tmp/err" || rc=$?
    if [ $rc = 2 ] && grep -q 'Vulkan0 (llvmpipe' "$tmp/err"; then
        rc=0
    else
        rc=1
    fi
    check $rc "no such device"
}

[ $# -gt 0 ] || set -- choice dense ffns prompts experts biased stories slots batches topics archs
for case in "$@"; do
    "$case"
done
echo "1..$n"
[ "$failed" = 0 ]
