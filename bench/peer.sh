#!/usr/bin/env bash
# peer.sh - a 4.7 GB mixture of experts under memory limits, in Forebay and llama.cpp (mmap).
#
#   bench/peer.sh [LIMIT...]       default: 2G 3G
#
# The model: 12 layers x 128 experts, 8 used, width 2048, expert FFN 768, Q4_K, 152k tokens of
# vocabulary, random weights. Greedy decoding of 64 tokens after a prompt of 8; all of them count,
# so each program starts with only those weights in memory that the prompt needed. llama.cpp needs
# seconds for a token, so its runs end after a minute; the table says how many tokens it generated.
# WARMUP=N leaves out the first N tokens of both programs, which shows their speed once they have
# read the experts that such a text uses. Each run starts with none of the model in the page cache.
# Both programs are under the limit (cgroup, page cache included); Forebay gets a --mem of 48 MiB
# less, because pages of the program's files and of the kernel count, too.
# Environment: OPTIONS for forebay bench (none), ROUNDS (2), WARMUP (0). Takes 5 minutes and 5 GB of
# disk.
cd "$(dirname "$0")/.." || exit 1
. bench/lib.sh
[ $# -gt 0 ] || set -- 2G 3G
need_limit
rounds=${ROUNDS:-2}
peer_model

echo "| limit | Forebay, tokens/s (range) | llama.cpp (tokens measured) | times llama.cpp |" \
    "hits | U | peak |"
echo "| --- | --- | --- | --- | --- | --- | --- |"
for lim in "$@"; do
    # shellcheck disable=SC2086 # options are words
    bench peer -m "$lim" -- --vs llama.cpp --mem $(($(numfmt --from=iec "$lim") - (48 << 20))) \
        --tokens 1,2,3,4,5,6,7,8 -n 64 --warmup "${WARMUP:-0}" --seconds 60 --rounds "$rounds" \
        ${OPTIONS:-}
    figure {forebay,llama.cpp,forebay_over_llama.cpp}.decode_tok_per_s.{median,min,max} \
        llama.cpp.runs.0.tokens forebay.{hit_rate,disk_utilisation}.median |
        awk -F'\t' -v lim="$lim" -v peak="$(peak)" '{
            printf "| %s | %.2f (%.2f to %.2f) | %.3f (%.3f to %.3f; %d) |" \
                " %.1f (%.1f to %.1f) | %.1f %% | %.2f | %d MiB |\n", \
                lim, $1, $2, $3, $4, $5, $6, $10, $7, $8, $9, $11 * 100, $12, peak
        }'
done
drop peer
