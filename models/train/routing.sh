#!/usr/bin/env bash
# Prints the hit rates of the model card: traces of some sampled stories, in simulated caches.
#   models/train/routing.sh [FOREBAY]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
forebay=$(realpath "${1:-build/release/forebay}")
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
# A larger model with the same routing, run in a quarter of its size.
"$forebay" synth inflate models/fable-moe.gguf --size 64M -q -o "$dir/wide.gguf"
for seed in 1 2 3; do
    "$forebay" run "$dir/wide.gguf" -t 1 -q --weights-mem 16M -n 700 --ignore-eos --temp 0.7 \
        --seed $seed -p "Once upon a time" --trace-out "$dir/trace" >/dev/null
    for slots in 8 16 32; do
        "$forebay" sim "$dir/wide.gguf" --trace "$dir/trace" --slots $slots --policy lru |
            sed -n "s/^all */seed $seed, $slots of 64 experts: slots, lru, optimum: /p"
    done
done
