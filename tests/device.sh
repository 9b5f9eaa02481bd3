#!/usr/bin/env bash
# Tests layers offloaded to a GPU next to streamed weights, without a GPU: llama.cpp's Vulkan
# backend runs on Mesa's software driver. Every run must equal llama.cpp with the same layers on the
# same device.
#   tests/device.sh [CASE...]
# Cases: choice two dense ffns prompts experts biased stories, and for experts in slots: slots
# shrink batches governor levels topics archs placed; default: all.
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
cmake -S . -B "$build" -DFOREBAY_TESTS=ON -DFOREBAY_LLAMA_DIR="$root/deps/llama-vulkan" \
    >"$build/configure.log" 2>&1 || { cat "$build/configure.log" >&2; exit 1; }
cmake --build "$build" --parallel "${JOBS:-$(getconf _NPROCESSORS_ONLN)}" --target forebay_cli \
    test_exact_device >&2

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

# device_bytes MODEL OPTION...: what the model takes on the device, without a limit, when all logits
# are compared, which takes some more
device_bytes() {
    local try
    for try in 1 2 3 4 5; do
        if timeout 600 "$forebay" verify "$1" "${prompt[@]}" -n 1 -q --device Vulkan0 \
            --device-mem 1G --stats "$tmp/stats" "${@:2}" >/dev/null; then
            number device_bytes "$tmp/stats"
            return
        fi
        say "measuring failed, try $try"
    done
}

# verify MODEL TITLE OPTION...: a check; adds the device's line of the statistics to $tmp/held.
# Mesa's driver (22.3) now and then crashes in one of its own threads, also in plain llama.cpp: such
# a run is repeated.
verify() {
    local model=$1 what=$2 rc try
    shift 2
    for try in 1 2 3 4 5; do
        rc=0
        timeout 600 "$forebay" verify "$model" "${prompt[@]}" -n 4 "$@" \
            >"$tmp/out" 2>"$tmp/err" || rc=$?
        [ $rc = 139 ] || break
        echo "# the driver crashed, try $try"
    done
    held=$(sed -n 's/^device: //p' "$tmp/err" | paste -s -d ';')
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
    all=$(device_bytes "$model" -b 7)
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

# The software device twice, as two devices: each gets a part of the model.
two() {
    local all mem
    : >"$tmp/held"
    export GGML_VK_VISIBLE_DEVICES=0,0
    synth dense -a llama --embd 512 --heads 8 --ff 1024
    all=$(device_bytes "$tmp/dense.gguf" -b 7)
    for mem in $((all * 3 / 5)),$((all * 3 / 10)) $((all / 4)),$((all / 2)) $((all * 3 / 5)); do
        verify "$tmp/dense.gguf" "two devices, $mem" -b 7 --device Vulkan1,Vulkan0 \
            --device-mem $mem --weights-mem 2M
    done
    covered 'Vulkan1 holds 3 .*;Vulkan0 holds 3 .* \([12] with their FFNs' \
        "two: the named order counts"
    covered 'Vulkan1 holds 1 .*;Vulkan0 holds 3 ' "two: each has a room of its own"
    synth experts -a qwen3moe --embd 256 --heads 4 --ff 256 --experts 16 --experts-used 4
    all=$(device_bytes "$tmp/experts.gguf" -b 7)
    verify "$tmp/experts.gguf" "two devices, experts" -b 7 --device Vulkan0,Vulkan1 \
        --device-mem $((all / 3)),$((all / 3)) --weights-mem 4M
    covered 'Vulkan0 holds [1-5] .*;Vulkan1 holds [1-5] .* \([0-9] with their experts' \
        "two: layers with experts on both"
    verify "$tmp/experts.gguf" "two devices, slots on one" -b 7 --device Vulkan0,Vulkan1 \
        --device-mem $((all / 3)),$((all / 3)) --weights-mem 4M --device-experts slots
    covered 'Vulkan0 holds [1-5] .*;Vulkan1 holds [1-5] .* from [0-9]+ slots' "two: slots on one"
    export GGML_VK_VISIBLE_DEVICES=0
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

# The two forms of slots: the software driver's memory is the machine's, so that "slots" are those
# in RAM, and "copies" are in buffers of the driver.
forms=(slots copies)

# in_slots NAME MODEL LESS...: the device has room for everything, less LESS percent of the file
in_slots() {
    local name=$1 model=$2 size all less batch form
    size=$(stat -c %s "$model")
    all=$(device_bytes "$model" -b 7)
    for less in "${@:3}"; do
        for batch in 1 7; do
            for form in "${forms[@]}"; do
                verify "$model" "$name, $form, $less % too little, batch $batch" -b $batch \
                    --device Vulkan0 --device-experts "$form" \
                    --device-mem $((all - size * less / 100)) --weights-mem $((size * 3 / 4))
            done
        done
    done
}

# were_in_slots NAME: two checks; experts were in slots of both forms
were_in_slots() {
    covered 'computes their experts, from [0-9]+ slots in RAM' "$1: experts were in slots in RAM"
    covered 'computes their experts, from [0-9]+ slots,' "$1: experts were in slots of the device"
}

slots() {
    local all form ram
    : >"$tmp/held"
    synth experts -a qwen3moe --embd 256 --heads 4 --ff 256 --experts 16 --experts-used 4
    in_slots experts "$tmp/experts.gguf" 10 40 60
    synth biased -a gpt-oss --embd 256 --heads 4 --ff 256 --experts 16 --experts-used 4
    in_slots biased "$tmp/biased.gguf" 10 50
    were_in_slots slots
    # More threads and sequences; and RAM that holds one expert of each layer only, then less than a
    # token's experts of each layer (one pool for all), then all experts.
    all=$(device_bytes "$tmp/experts.gguf" -b 7)
    for form in "${forms[@]}"; do
        verify "$tmp/experts.gguf" "$form, four sequences" -b 7 --device Vulkan0 --parallel 4 \
            --device-experts "$form" --device-mem $((all - 8000000)) --weights-mem 8M
        verify "$tmp/experts.gguf" "$form, little RAM" -b 7 --device Vulkan0 -t 2 \
            --device-experts "$form" --device-mem $((all - 8000000)) --weights-mem 4M
    done
    for ram in 2500K 5M 30M; do
        verify "$tmp/experts.gguf" "slots, $ram in RAM" -b 7 --device Vulkan0 \
            --device-experts slots --device-mem $((all - 8000000)) --weights-mem $ram
    done
    # Layers of different types in one pool: its slots are no stack, so that units are copied.
    synth mixed -a qwen3moe --embd 256 --heads 4 --ff 256 --experts 16 --experts-used 4 \
        --type Q4_K_M
    verify "$tmp/mixed.gguf" "slots with gaps" -b 7 --device Vulkan0 --device-experts slots \
        --device-mem 4M --weights-mem 1500K
}

# Slots that are given up and regained between graphs: from every number to every other one.
shrink() {
    local batch all rc=0
    : >"$tmp/held"
    synth experts -a qwen3moe --embd 256 --heads 4 --ff 256 --experts 16 --experts-used 4
    all=$(device_bytes "$tmp/experts.gguf" -b 7)
    export FOREBAY_TEST_DEVICE_SLOTS
    for FOREBAY_TEST_DEVICE_SLOTS in 9,3,1,16,5 1,16 4,6; do
        for batch in 1 7; do
            verify "$tmp/experts.gguf" "slots $FOREBAY_TEST_DEVICE_SLOTS, batch $batch" -b $batch \
                --device Vulkan0 --device-experts copies --device-mem $((all - 10000000)) \
                --weights-mem 6M
        done
    done
    for FOREBAY_TEST_DEVICE_SLOTS in 2 12; do
        run_slots "$tmp/experts.gguf" $((all - 10000000)) 6M -b 1 -n 4 --tokens 1,2,3 || rc=1
        [ "$(number device_slots "$tmp/stats")" = $((6 * FOREBAY_TEST_DEVICE_SLOTS)) ] || rc=1
    done
    check $rc "shrink: the device has the slots that the test asks for"
    unset FOREBAY_TEST_DEVICE_SLOTS
}

# Batches for which kernels go through the stack expert by expert, and skip masked rows. Without
# fused nodes, whose shaders crash Mesa's driver after such a batch.
batches() {
    local batch all form
    : >"$tmp/held"
    synth experts -a qwen3moe --embd 256 --heads 4 --ff 256 --experts 16 --experts-used 4
    prompt=(--tokens "$(seq -s , 1 499),$(seq -s , 1 101)" --ignore-eos -t 1 -c 700)
    export GGML_VK_DISABLE_FUSION=1 GGML_VK_DISABLE_MULTI_ADD=1
    for batch in 12 100 600; do
        all=$(device_bytes "$tmp/experts.gguf" -b $batch)
        for form in "${forms[@]}"; do
            verify "$tmp/experts.gguf" "$form, batch $batch" -b $batch --device Vulkan0 \
                --device-experts "$form" --device-mem $((all - 9000000)) --weights-mem 6M
        done
    done
    verify "$tmp/experts.gguf" "slots, batch 100, all in RAM" -b 100 --device Vulkan0 \
        --device-experts slots --device-mem $((all - 9000000)) --weights-mem 30M
    were_in_slots batches
    unset GGML_VK_DISABLE_FUSION GGML_VK_DISABLE_MULTI_ADD
    prompt=("${first_prompt[@]}")
}

# Slots that shrink and grow while the device computes with them.
governor() {
    local rc try
    for try in 1 2 3 4 5; do
        rc=0
        FOREBAY_TEST_DEVICE=Vulkan0 timeout 900 "$build/tests/test_exact_device" \
            >"$tmp/out" 2>&1 || rc=$?
        [ $rc = 139 ] || break
        echo "# the driver crashed, try $try"
    done
    check $rc "governor: memory that is given back and regained"
    [ $rc = 0 ] || sed 's/^/# /' "$tmp/out"
}

# run_slots MODEL DEVICE-BYTES RAM OPTION...: a run with experts in slots; its figures: $tmp/stats
run_slots() {
    local try rc
    for try in 1 2 3 4 5; do
        rc=0
        timeout 600 "$forebay" run "$1" -q --ids --ignore-eos -t 1 -c 128 --device Vulkan0 \
            --device-experts copies --device-mem "$2" --weights-mem "$3" --stats "$tmp/stats" \
            "${@:4}" >"$tmp/ids" 2>"$tmp/err" || rc=$?
        [ $rc = 139 ] || break
        echo "# the driver crashed, try $try"
    done
    [ $rc = 0 ] || sed 's/^/# /' "$tmp/err"
    return $rc
}

# simulated KEY: of prompt and generated tokens together
simulated() {
    awk -v key="$1" '
        /^  "(decode|prefill)": / { counts = 1 }
        /^  }/ { counts = 0 }
        counts && $1 == "\"" key "\":" { sum += $2 }
        END { printf "%.0f", sum }' "$tmp/sim"
}

# A run moves what the simulation of its trace moves, to the byte.
levels() {
    local all less ram batch key run rc
    synth experts -a qwen3moe --embd 256 --heads 4 --ff 256 --experts 16 --experts-used 4
    all=$(device_bytes "$tmp/experts.gguf" -b 7)
    for less in 4000000 10000000 14000000; do
        for ram in 3M 6M 12M; do
            batch=$((less == 10000000 ? 7 : 1))
            rc=0
            run_slots "$tmp/experts.gguf" $((all - less)) $ram -b $batch -n 40 \
                --tokens "$(seq -s , 1 18)" --trace-out "$tmp/trace" || rc=1
            "$forebay" sim "$tmp/experts.gguf" --trace "$tmp/trace" --mem $ram --prefill \
                --device-slots $(($(number device_slots "$tmp/stats") / 6)) --warm-up 0 --json \
                >"$tmp/sim" || rc=1
            for key in device_requests device_hits device_copy_bytes device_back_bytes \
                expert_requests expert_hits; do
                run=$(number $key "$tmp/stats")
                [ "$run" = "$(simulated $key)" ] || {
                    echo "# $key: $run, simulated: $(simulated $key)"
                    rc=1
                }
            done
            run=$(number demand_bytes "$tmp/stats")
            run=$((run + $(number prefetch_used_bytes "$tmp/stats")))
            [ "$run" = "$(simulated expert_read_bytes)" ] || {
                echo "# read: $run, simulated: $(simulated expert_read_bytes)"
                rc=1
            }
            check $rc "levels: $(number device_slots "$tmp/stats") slots, RAM $ram, batch $batch:\
 $(number device_hits "$tmp/stats") hits on the device, $(number expert_hits "$tmp/stats") in RAM,\
 $run bytes read, $(number device_back_bytes "$tmp/stats") copied back"
        done
    done
}

# A trace of four topics of 20 tokens each: five experts of each layer, then five others, the first
# ones again, and five that were not used before.
topics_trace() {
    echo '{"model": "topics", "n_layer": 3, "n_expert": 16, "top_k": 4}'
    awk 'BEGIN {
        split("0 5 0 10", first)
        for (i = 0; i < 80; i++) {
            route = ""
            for (k = 0; k < 4; k++)
                route = route (k ? ", " : "[") first[int(i / 20) + 1] + (i + k) % 5
            printf "{\"phase\": \"decode\", \"layers\": [%s], %s], %s]]}\n", route, route, route
        }
    }'
}

# moved TOKENS DEVICE-BYTES RAM: what these first tokens read from the disk and copied to the
# device, in hundredths of a topic's bytes; fails unless it copied what missed the device
moved() {
    local unit=$((3 * 256 * 256 * 34 / 32)) up misses
    run_slots "$tmp/topics.gguf" "$2" "$3" -b 1 -p "w0 " -n "$1" || return 1
    up=$(number device_copy_bytes "$tmp/stats")
    misses=$(($(number device_requests "$tmp/stats") - $(number device_hits "$tmp/stats")))
    [ "$up" = $((unit * misses)) ] || return 1
    echo "$(($(number demand_bytes "$tmp/stats") * 100 / (15 * unit))) $((up * 100 / (15 * unit)))"
}

# What moves between the levels when the topic changes. The device has room for one: its experts are
# there after some tokens, those of the topic before in RAM as far as there is room, else on disk.
topics() {
    local all device ram topic rc last=1000 was read up first settled
    topics_trace >"$tmp/topics.jsonl"
    "$forebay" synth replay "$tmp/topics.jsonl" -o "$tmp/topics.gguf" --type Q8_0 --embd 256 \
        --ff 256 --heads 4 -q
    prompt=(-p "w0 " --ignore-eos -t 1 -c 128)
    all=$(device_bytes "$tmp/topics.gguf" -b 1)
    prompt=("${first_prompt[@]}")
    device=$((all - 6000000))
    for ram in 3M 5M 8M; do
        rc=0 was=
        for topic in 1 2 3 4; do
            moved $((20 * topic)) $device $ram >"$tmp/moved" || rc=1
            read -r read up <"$tmp/moved"
            was+=" $read"
            [ $topic != 3 ] || first=$read
        done
        # The third topic is the first one again: the more RAM, the less is read for it.
        [[ $was == " 100 200 "* ]] && [ "$first" -lt "$last" ] || rc=1
        last=$first
        check $rc "topics: RAM $ram, read after each topic:$was % of a topic's experts"
    done
    [ "$first" = 200 ] || rc=1
    check $rc "topics: one that RAM has room for is not read again"
    rc=0
    for topic in 1 2 3 4; do
        settled=$(moved $((20 * topic - 10)) $device 5M | cut -d " " -f 2) || rc=1
        up=$(moved $((20 * topic)) $device 5M | cut -d " " -f 2) || rc=1
        [ "$settled" = "$up" ] || rc=1
    done
    check $rc "topics: after ten tokens a topic's experts are on the device"
}

# Every architecture with experts; in some, nothing fits in slots at that size.
archs() {
    local model
    : >"$tmp/held"
    for model in "$models"/archs/*-moe-*.gguf "$models"/stories260K-moe*.gguf; do
        [ ! -f "$model" ] || in_slots "$(basename "$model" .gguf)" "$model" 25
    done
    [ ! -d "$models/archs" ] ||
        were_in_slots archs
}

# --device-experts auto measures the device once; then it chooses the same in every run, and has an
# estimate. One that is slower than the CPU, as this one, gets whole layers because it is named.
placed() {
    local all first again cache=$tmp/cache try rc=0
    : >"$tmp/held"
    synth experts -a qwen3moe --embd 256 --heads 4 --ff 256 --experts 16 --experts-used 4
    all=$(device_bytes "$tmp/experts.gguf" -b 7)
    mkdir -p "$cache"
    for try in 1 2 3 4 5; do # until the driver does not crash while it is measured
        FOREBAY_CACHE_DIR=$cache timeout 600 "$forebay" plan "$tmp/experts.gguf" -q -t 1 -c 128 \
            -b 7 --device Vulkan0 --device-mem $((all - 9000000)) --weights-mem 8M \
            >"$tmp/plan" && break
        say "measuring failed, try $try"
    done
    grep -q '^estimate: [0-9.]* tokens/s' "$tmp/plan" || rc=1
    check $rc "placed: an estimate with a device"
    cp "$cache/profile.json" "$tmp/profile.json"
    export FOREBAY_CACHE_DIR=$cache
    verify "$tmp/experts.gguf" "placed, first" -b 7 --device Vulkan0 \
        --device-mem $((all - 9000000)) --weights-mem 8M
    first=$held
    verify "$tmp/experts.gguf" "placed, again" -b 7 --device Vulkan0 \
        --device-mem $((all - 9000000)) --weights-mem 8M
    again=$held
    export FOREBAY_CACHE_DIR=/dev/null/none
    rc=0
    [ "$first" = "$again" ] || rc=1
    cmp -s "$cache/profile.json" "$tmp/profile.json" || rc=1
    check $rc "placed: the same choice by the same measurements"
    # Some layers whole, the others in slots.
    verify "$tmp/experts.gguf" "placed, 2 whole" -b 7 --device Vulkan0 --device-experts slots:2 \
        --device-mem $((all - 6000000)) --weights-mem 4M
    covered '\(2 with their experts\) and computes the experts of 4 from' "placed: both kinds"
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

[ $# -gt 0 ] || set -- choice two dense ffns prompts experts biased stories slots shrink batches \
    governor levels topics archs placed
for case in "$@"; do
    "$case"
done
echo "1..$n"
[ "$failed" = 0 ]
