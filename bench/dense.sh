#!/usr/bin/env bash
# dense.sh - decoding with a dense model of twice its memory, next to the disk's bound.
#
#   bench/dense.sh [RATE...]       default: 500M 1G 1500M (../shared/tools/limit -r); none: no limit
#
# A token needs every weight once, and those that are not resident are read. So the bound of
# tokens/s is the disk's speed / the bytes that are not resident. The disk is measured with fio
# under the same limit, just before. `of disk` is the achieved share of this bound; `read per token`
# shows whether more was read than necessary.
# Environment: OPTIONS for forebay bench (default --no-repack), ROUNDS (2). Takes 3 minutes and 2 GB
# of disk.
cd "$(dirname "$0")/.." || exit 1
. bench/lib.sh
[ $# -gt 0 ] || set -- 500M 1G 1500M
[ "$*" = none ] || need_limit
rounds=${ROUNDS:-2}
model dense random -a llama --type Q4_K --size 2G --vocab 32000

echo "| disk | not resident | read per token | tokens/s (range) | of disk | waiting | computing |" \
    "scheduler |"
echo "| --- | --- | --- | --- | --- | --- | --- | --- |"
for rate in "$@"; do
    disk=$(disk_rate "$dir/dense.gguf" "$rate")
    at_rate "$rate"
    # shellcheck disable=SC2086 # options are words
    bench dense "${under[@]}" -- --tokens 1,2 -n 8 --warmup 2 --rounds "$rounds" \
        --weights-mem "$(percent_of dense 50)" ${OPTIONS---no-repack}
    figure streamed_bytes forebay.{token_read_bytes.median,decode_tok_per_s.{median,min,max}} \
        forebay.token_{s,demand_stall_s,prefetch_stall_s,compute_s,scheduler_s}.median |
        awk -F'\t' -v rate="$rate" -v disk="$disk" '{
            printf "| %s (%.0f MB/s) | %.1f MB | %.1f MB | %.3f (%.3f to %.3f) | %.3f |" \
                " %.1f %% | %.1f %% | %.2f %% |\n", \
                rate, disk / 1e6, $1 / 1e6, $2 / 1e6, $3, $4, $5, (disk > 0 ? $3 * $1 / disk : 0), \
                ($7 + $8) / $6 * 100, $9 / $6 * 100, $10 / $6 * 100
        }'
done
drop dense
