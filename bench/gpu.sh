#!/usr/bin/env bash
# gpu.sh - a mixture of experts whose experts do not all fit on a GPU: whole layers, or slots.
#
#   bench/gpu.sh DEVICE [MODEL]
#
#   DEVICE   ggml's name of it: CUDA0, Vulkan0, MTL0 (a wrong name lists those that there are)
#   MODEL    default: one with 16 layers of 64 experts, 8 used, that replays a routing trace
#
# For a quarter, a half and all of the experts' bytes on the device, and none: decoding and prompts
# with `--device-experts layers`, which is llama.cpp's -ncmoe with Forebay's layers on the CPU, and
# with `slots`. The rest of the model is on the device in every run. Alternating.
# Environment: FOREBAY (program), ROUNDS (2), TOKENS (64), PROMPT (512), EXPERT (size of an expert
# of the default model, 3M), MEM (for weights in RAM; default: all fit). Takes 3 minutes on a GPU.
cd "$(dirname "$0")/.." || exit 1
given=${FOREBAY:-}
. bench/lib.sh
forebay=${given:-$forebay}
[ $# -ge 1 ] || { usage >&2; exit 2; }
device=$1
rounds=${ROUNDS:-2}
tokens=${TOKENS:-64}
prompt=${PROMPT:-512}
if [ $# -lt 2 ]; then
    model gpu replay "$shared/traces/olmoe-1b-7b.jsonl" --expert-bytes "${EXPERT:-3M}"
    set -- "$device" "$dir/gpu.gguf"
fi
gguf=$2

number() { sed -n "s/.*\"$1\": \([0-9.]*\).*/\1/p" "$dir/stats"; }

# once DEVICE-BYTES HOW TOKENS PROMPT: one run; its figures are in $dir/stats
once() {
    local ids=$4
    "$forebay" run "$gguf" --tokens "$(seq -s , 1 "$ids")" --ignore-eos -n "$3" -q --ids \
        -c $((ids + $3 + 8)) -b "$ids" --device "$device" --device-mem "$1" \
        --device-experts "$2" ${MEM:+--weights-mem "$MEM"} --stats "$dir/stats" >/dev/null
}

experts=$("$forebay" inspect "$gguf" --json | awk '
    /"role": "expert (up|gate|down|gate and up)"/ { wanted = 1 }
    /"bytes":/ && wanted { sub(/,/, ""); sum += $2; wanted = 0 }
    END { print sum }')
once 1T layers 1 "$prompt"
all=$(number device_bytes)
rest=$((all - experts))
echo "experts $((experts >> 20)) MiB, the rest on $device $((rest >> 20)) MiB"
echo
echo "| experts on the device | | decode tok/s | prompt tok/s | hits | copied MiB/token |"
echo "| --- | --- | --- | --- | --- | --- |"
for share in 0 25 50 100; do
    for how in layers slots; do : >"$dir/$share-$how"; done
    for ((round = 0; round < rounds; round++)); do
        for how in layers slots; do
            once $((rest + experts * share / 100 + (1 << 20))) $how "$tokens" "$prompt"
            echo "$(number decode_tok_per_s) $(number prompt_tok_per_s) $(number device_requests)" \
                "$(number device_hits) $(number device_copy_bytes)" >>"$dir/$share-$how"
        done
    done
    for how in layers slots; do
        awk -v share=$share -v how=$how -v tokens=$((tokens + prompt)) '
            { d = d < $1 ? $1 : d; p = p < $2 ? $2 : p; r = $3; h = $4; b = $5 }
            END {
                hits = r > 0 ? sprintf("%.1f %%", 100 * h / r) : ""
                printf "| %d %% | %s | %.2f | %.1f | %s | %.1f |\n", share, how, d, p, hits,
                    b / tokens / 1048576
            }' "$dir/$share-$how"
    done
done
[ "$gguf" != "$dir/gpu.gguf" ] || drop gpu
