#!/usr/bin/env bash
# Runs a model bigger than its memory limit, runs llama.cpp under the same limit for comparison, and
# verifies the logits. docs/DEMO.md has a transcript.
#   scripts/demo.sh            makes the model in build/demo if it is missing, then runs all steps
#   scripts/demo.sh --clean    removes build/demo
# DEMO_MIB=N makes a model of N MiB (default 3072, or 1024 if the disk has no room for that);
# DEMO_REQUEST=TEXT asks for another story.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
small=models/fable-moe.gguf
dir=build/demo
forebay=build/release/forebay
llama=build/release/tests/stock_llama
llama_seconds=30
request=${DEMO_REQUEST:-Tell me a story about a robot who wants to dance.}
prompt="<|user|>$request<|story|>"

if [ "${1:-}" = --clean ]; then
    rm -rf "$dir"
    exit 0
fi

say() {
    echo
    printf '%s\n' "$@"
}
run() {
    printf '$ %s\n' "$*" >&2
    "$@"
}
field() { sed -n "s/.*\"$1\": \([0-9.e+-]*\).*/\1/p" "$dir/stats.json"; }
# forget FILE: drops the file from the page cache.
forget() { dd if="$1" iflag=nocache count=0 status=none 2>/dev/null || true; }

mkdir -p "$dir"
free_mib=$(($(df -Pk "$dir" | awk 'NR == 2 { print $4 }') / 1024))
mib=${DEMO_MIB:-$([ "$free_mib" -gt 4096 ] && echo 3072 || echo 1024)}
limit=$((mib / 4))
mem=$((limit - limit / 16))M # the limit also covers the page cache and the kernel's memory
model=$dir/fable-$mib.gguf

small_mb=$((($(wc -c <"$small") + 500000) / 1000000))
say "1. The model. $small was made for this project: a mixture of experts that" \
    "   tells stories, $small_mb MB in size. To make it bigger than its memory limit, it is" \
    "   inflated to $mib MiB: each of its 256 experts gets neurons that add nothing, so it must" \
    "   still tell the same story."
if [ "$model" -nt "$small" ]; then
    echo "The model of an earlier run is used: $model"
elif [ "$free_mib" -lt $((mib + 256)) ]; then
    echo "Not enough disk space for the model ($free_mib MiB free). Try DEMO_MIB=$((free_mib / 2))."
    exit 1
else
    run "$forebay" synth inflate "$small" --size "${mib}M" -o "$model"
fi

limited=(scripts/limit.sh "${limit}M")
if ! why=$("${limited[@]}" 2>&1); then
    limited=()
fi
forget "$model"
say "2. Forebay runs it in $limit MiB, a quarter of its size."
if [ ${#limited[@]} -gt 0 ]; then
    echo "   The kernel enforces this limit: it would kill a program that needs more."
else
    echo "   Only Forebay itself keeps to this limit ($why)."
fi
printf '\n> %s\n\n' "$request"
${limited[@]+"${limited[@]}"} "$forebay" run "$model" --mem "$mem" -p "$prompt" -n 400 \
    --stats "$dir/stats.json" | tee "$dir/story"
ours=$(field decode_tok_per_s)

say "3. Does the small model tell the same story?"
"$forebay" run "$small" -p "$prompt" -n 400 -q >"$dir/original"
if cmp -s "$dir/story" "$dir/original"; then
    echo "Yes, word for word."
else
    echo "No. The small model says:"
    cat "$dir/original"
fi

if [ ${#limited[@]} -gt 0 ]; then
    forget "$model"
    say "4. llama.cpp with its default settings (memory-mapped file) runs the model in the same" \
        "   $limit MiB, for at most $llama_seconds seconds."
    printf '\n> %s\n\n' "$request"
    "${limited[@]}" "$llama" "$model" 400 "$(nproc)" 1 1 -p "$prompt" $llama_seconds \
        2>"$dir/llama" || cat "$dir/llama"
    theirs=$(sed -n 's/^decode_tok_per_s //p' "$dir/llama")
    awk -v a="$ours" -v b="${theirs:-0}" 'BEGIN {
        if (b > 0)
            printf "\nForebay: %.1f tokens/s. llama.cpp: %.2f tokens/s. %.0f times as fast.\n",
                a, b, a / b
        else printf "\nForebay: %.1f tokens/s. llama.cpp: no token within that time.\n", a
    }'
else
    say "4. llama.cpp is not run: without an enforced limit it would use all the memory there is."
fi

say "5. Are these llama.cpp's results? llama.cpp, with memory for the whole model, computes the" \
    "   beginning of the story again, and so does Forebay in its $mem. Every logit is compared" \
    "   bit by bit. This takes a few seconds."
rc=0
"$forebay" verify "$model" --mem "$mem" -p "$prompt" -n 48 --quiet || rc=$?
[ $rc = 0 ] || [ $rc = 3 ] || exit $rc
[ $rc = 0 ] || echo "llama.cpp does not have enough memory for this model here. Try DEMO_MIB=1024."

say "Ask for another story: $forebay chat $model --mem $mem" \
    "Run your own model:    $forebay run MODEL.gguf -p 'Once upon a time'" \
    "make demo-clean removes the demo's model ($mib MiB)."
