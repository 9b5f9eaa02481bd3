#!/usr/bin/env bash
# The main job in a minute or two: a model bigger than the memory it may use, then the proof.
#   scripts/demo.sh            makes build/demo/moe.gguf once, runs it, verifies it
#   scripts/demo.sh --clean    removes it
# DEMO_MEM=SIZE sets the memory limit (default 700M).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
dir=build/demo
model=$dir/moe.gguf
strata=build/release/strata

# A mixture of experts in the proportions of the large ones: 1.6 GiB, of which a token needs 14 %.
shape=(--arch qwen3moe --type Q4_K --layers 20 --experts 64 --experts-used 8 --embd 1024 --ff 768)
mem=${DEMO_MEM:-700M}
# Random weights: token numbers, not text; sampled, because their likeliest token soon repeats.
input=(--tokens "1,2,3,4,5,6,7,8" --temp 1 --seed 1 --ignore-eos)

if [ "${1:-}" = --clean ]; then
    rm -rf "$dir"
    exit 0
fi

say() { printf '\n%s\n' "$@"; }
run() {
    printf '$ %s\n' "$*" >&2
    "$@"
}

if [ ! -e "$model" ]; then
    say "1. Making a mixture-of-experts model with random weights (once; make demo-clean removes it)."
    mkdir -p "$dir"
    run "$strata" synth random "${shape[@]}" -o "$model"
else
    say "1. The model is there from last time: $model"
fi

say "2. Running it in $mem of memory: experts are read from the disk when a token needs them."
run "$strata" run "$model" --mem "$mem" "${input[@]}" -n 32 --ids >"$dir/ids"
tr '\n' ' ' <"$dir/ids"
echo

say "3. Are these llama.cpp's results? Comparing every logit of both, bit by bit."
run "$strata" verify "$model" --mem "$mem" "${input[@]}" -n 8 --quiet

say "Now yours: $strata run MODEL.gguf -p 'Once upon a time'"
