#!/usr/bin/env bash
# peer.sh - a 4.7 GB mixture of experts under memory limits: Forebay, and llama.cpp's mmap in turns.
#
#   bench/peer.sh [LIMIT...]       default: 2G 3G
#
# The model: 12 layers x 128 experts, 8 used, width 2048, expert FFN 768, Q4_K, 152k tokens of
# vocabulary, random weights. Greedy, 64 tokens after a prompt of 8, all of which count: what each
# program has in memory when it begins to generate is what the prompt needed. llama.cpp makes a token
# in seconds, so its runs end after a minute; the tokens that it made are given. WARMUP=N leaves out
# the first N tokens of both, which shows how each goes on once it has seen the experts that such a
# text uses. Each run begins with none of the model in the page cache; both programs are under the
# limit (cgroup, page cache included), and Forebay gets --mem of 48 MiB less: pages of the programs' own
# files and the kernel's count, too.
# Environment: OPTIONS for forebay bench (none), ROUNDS (2), WARMUP (0). 5 minutes, 5 GB of disk.
cd "$(dirname "$0")/.." || exit 1
. bench/lib.sh
[ $# -gt 0 ] || set -- 2G 3G
rounds=${ROUNDS:-2}
peer_model

echo "| limit | Forebay, tokens/s (range) | llama.cpp (tokens measured) | times llama.cpp | hits | U | peak |"
echo "| --- | --- | --- | --- | --- | --- | --- |"
for lim in "$@"; do
    # shellcheck disable=SC2086 # options are words
    bench peer -m "$lim" -- --vs llama.cpp --mem $(($(numfmt --from=iec "$lim") - (48 << 20))) \
        --tokens 1,2,3,4,5,6,7,8 -n 64 --warmup "${WARMUP:-0}" --seconds 60 --rounds "$rounds" ${OPTIONS:-}
    figure {forebay,llama.cpp,forebay_over_llama.cpp}.decode_tok_per_s.{median,min,max} \
        llama.cpp.runs.0.tokens forebay.{hit_rate,disk_utilisation}.median |
        awk -F'\t' -v lim="$lim" -v peak="$(peak)" '{
            printf "| %s | %.2f (%.2f to %.2f) | %.3f (%.3f to %.3f; %d) | %.1f (%.1f to %.1f) | %.1f %% | %.2f | %d MiB |\n", \
                lim, $1, $2, $3, $4, $5, $6, $10, $7, $8, $9, $11 * 100, $12, peak
        }'
done
drop peer
