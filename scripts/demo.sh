#!/usr/bin/env bash
# A model bigger than its memory tells a story; llama.cpp tries; then the proof.
#   scripts/demo.sh            makes a model in build/demo once, runs it, compares, verifies
#   scripts/demo.sh --clean    removes it
# DEMO_MIB=N makes a model of N MiB (default 3072, or 1024 where the disk has no room for that);
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
forget() { dd if="$1" iflag=nocache count=0 status=none 2>/dev/null || true; } # the page cache

mkdir -p "$dir"
free_mib=$(($(df -Pk "$dir" | awk 'NR == 2 { print $4 }') / 1024))
mib=${DEMO_MIB:-$([ "$free_mib" -gt 4096 ] && echo 3072 || echo 1024)}
limit=$((mib / 4))
mem=$((limit - limit / 16))M # what else runs in the limit needs a little, too
model=$dir/fable-$mib.gguf

say "1. The model. $small was made for this project: a mixture of experts that tells" \
    "   stories, only $((($(wc -c <"$small") + 500000) / 1000000)) MB large. To be too big for its memory, it is inflated to $mib MiB: each of its" \
    "   256 experts gets neurons that add nothing, so that it must still tell the same story."
if [ "$model" -nt "$small" ]; then
    echo "It is there from last time: $model"
elif [ "$free_mib" -lt $((mib + 256)) ]; then
    echo "The disk has no room for it: $free_mib MiB free. Try DEMO_MIB=$((free_mib / 2))."
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
    echo "   The kernel enforces that: more, and the program would be killed."
else
    echo "   Forebay keeps to that by itself ($why)."
fi
printf '\n> %s\n\n' "$request"
${limited[@]+"${limited[@]}"} "$forebay" run "$model" --mem "$mem" --batch 32 -p "$prompt" -n 400 \
    --stats "$dir/stats.json" | tee "$dir/story"
ours=$(field decode_tok_per_s)

say "3. Is it the story that the small model tells, in plain llama.cpp?"
"$forebay" run "$small" -p "$prompt" -n 400 -q >"$dir/original"
if cmp -s "$dir/story" "$dir/original"; then
    echo "Yes, word for word."
else
    echo "No! The small one says:"
    cat "$dir/original"
fi

if [ ${#limited[@]} -gt 0 ]; then
    forget "$model"
    say "4. The same with llama.cpp as it comes (memory-mapped file), in the same $limit MiB, for at most $llama_seconds seconds."
    printf '\n> %s\n\n' "$request"
    "${limited[@]}" "$llama" "$model" 400 "$(nproc)" 1 1 -p "$prompt" $llama_seconds \
        2>"$dir/llama" || cat "$dir/llama"
    theirs=$(sed -n 's/^decode_tok_per_s //p' "$dir/llama")
    awk -v a="$ours" -v b="${theirs:-0}" 'BEGIN {
        if (b > 0) printf "\nForebay: %.1f tokens/s. llama.cpp: %.2f tokens/s. %.0f times as fast.\n", a, b, a / b
        else printf "\nForebay: %.1f tokens/s. llama.cpp: not one token in that time.\n", a
    }'
else
    say "4. llama.cpp in the same memory is left out: without a limit it would take all there is."
fi

say "5. Are these llama.cpp's results? With memory for all of it, llama.cpp computes the beginning of" \
    "   the story again; then Forebay does, in its $mem; every logit is compared, bit by bit. This takes a few seconds."
rc=0
"$forebay" verify "$model" --mem "$mem" --batch 32 -p "$prompt" -n 48 --quiet || rc=$?
[ $rc = 0 ] || [ $rc = 3 ] || exit $rc
[ $rc = 0 ] || echo "This machine has not the memory to let llama.cpp show that; DEMO_MIB=1024 makes a smaller model."

say "Now ask for your own:   $forebay chat $model --mem $mem --batch 32" \
    "or take your own model: $forebay run MODEL.gguf -p 'Once upon a time'" \
    "make demo-clean removes what was made here ($mib MiB)."
