#!/usr/bin/env bash
# prefill.sh - a prompt of 2048 tokens, with experts that do not fit, next to its bounds.
#
#   bench/prefill.sh [RATE...]     default: 500M 1G (../shared/tools/limit -r); none: no limit
#
# The memory for weights is 35 % of a 1.4 GB model. Such a long prompt needs nearly all experts, so
# those that are not in memory must be read at least once; `read` is the total. `of bound` is the
# achieved share of min(the prompt speed of the same model with all in memory, 2048 tokens / the
# time to read the model once). Both runs use the same layout of weights and the same batch size.
# Environment: OPTIONS for forebay bench (default --no-repack), BATCH (forebay's default), ROUNDS
# (1). Takes 3 minutes and 2 GB of disk.
cd "$(dirname "$0")/.." || exit 1
. bench/lib.sh
[ $# -gt 0 ] || set -- 500M 1G
[ "$*" = none ] || need_limit
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
echo "| disk | prompt, tokens/s (range) | all in memory | read | of bound | waiting |" \
    "unpacking | scheduler | computing |"
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
            printf "| %s (%.0f MB/s) | %.1f (%.1f to %.1f) | %.1f | %.2f of %.2f GB |" \
                " %.2f | %.2f s | %.2f s | %.2f s | %.2f s |\n", \
                rate, disk / 1e6, $1, $2, $3, resident, $4 / 1e9, size / 1e9, $1 / bound, \
                $5, $6, $7, $8
        }'
done
drop prefill
