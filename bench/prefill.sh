#!/usr/bin/env bash
# prefill.sh - a prompt of 2048 tokens over experts that do not fit: how close to what CPU and disk allow?
#
#   bench/prefill.sh [RATE...]     default: 500M 1G (../shared/tools/limit -r); none: no limit
#
# With 35 % of a 1.4 GB model as memory for its weights. A prompt that long needs about all experts, so
# the disk must deliver what is not kept at least once; `read` is what was read in all. `of bound` is
# the share reached of min(the same model's prompt speed all in memory in plain llama.cpp, 2048 tokens /
# the time to read the model once). Both with the same layout of weights and the same batch.
# Environment: OPTIONS for forebay bench (default --no-repack), BATCH (its default), ROUNDS (1). 3 minutes, 2 GB.
cd "$(dirname "$0")/.." || exit 1
. bench/lib.sh
[ $# -gt 0 ] || set -- 500M 1G
rounds=${ROUNDS:-1}
model prefill random -a qwen3moe --layers 8 --experts 64 --experts-used 8 --embd 2048 --ff 768 \
    --type Q4_K --vocab 32000
size=$(stat -c %s "$dir/prefill.gguf")

prompt() { # LIMIT-OPTION... -- OPTIONS...
    # shellcheck disable=SC2086 # options are words
    bench prefill "$@" --prompt-tokens 2048 -n 1 --warmup 0 --rounds "$rounds" \
        ${OPTIONS---no-repack} ${BATCH:+-b $BATCH}
}

prompt --
resident=$(figure forebay.prompt_tok_per_s.median)
echo "| disk | prompt, tokens/s (range) | all in memory | read | of bound | waiting | into place | scheduler | computing |"
echo "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
for rate in "$@"; do
    disk=$(disk_rate "$dir/prefill.gguf" "$rate")
    at_rate "$rate"
    prompt "${under[@]}" -- --weights-mem "$(percent_of prefill 35)"
    figure forebay.prompt_tok_per_s.{median,min,max} \
        forebay.prompt_{read_bytes,stall_s,unpack_s,scheduler_s,compute_s}.median |
        awk -F'\t' -v rate="$rate" -v disk="$disk" -v resident="$resident" -v size="$size" '{
            bound = 2048 * disk / size
            if (bound > resident || disk == 0) bound = resident
            printf "| %s (%.0f MB/s) | %.1f (%.1f to %.1f) | %.1f | %.2f of %.2f GB | %.2f | %.2f s | %.2f s | %.2f s | %.2f s |\n", \
                rate, disk / 1e6, $1, $2, $3, resident, $4 / 1e9, size / 1e9, $1 / bound, $5, $6, $7, $8
        }'
done
drop prefill
