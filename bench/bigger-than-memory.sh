#!/usr/bin/env bash
# bigger-than-memory.sh - Forebay and llama.cpp (mmap) on models of three times the memory limit.
#
#   bench/bigger-than-memory.sh [moe|dense...]     default: both
#
# A 10 GB mixture of experts that replays a real routing trace, and a 6.5 GB dense model, each under
# a memory limit of a third of the file (page cache included), with a cold page cache, alternating.
# Forebay runs with llama.cpp's default layout of weights and with weights as stored (--no-repack).
# llama.cpp's runs end after at most a minute of warming up and a minute of measuring.
# Environment: ROUNDS (2). Takes 40 minutes and 11 GB of disk.
cd "$(dirname "$0")/.." || exit 1
. bench/lib.sh
[ $# -gt 0 ] || set -- moe dense
need_limit
rounds=${ROUNDS:-2}

make_model() {
    case $1 in
    moe) model moe replay "$shared/traces/qwen3-30b-a3b-k6.jsonl" --expert-bytes 1.7M ;;
    dense) model dense random -a llama --type Q4_K --size 6.5G --vocab 32000 ;;
    *)
        usage
        exit 2
        ;;
    esac
}

echo "| model | limit, peak | weights | Forebay, tokens/s (range) | llama.cpp (range) |" \
    "times llama.cpp | hits | U |"
echo "| --- | --- | --- | --- | --- | --- | --- | --- |"
for kind in "$@"; do
    make_model "$kind"
    lim=$(($(percent_of "$kind" 100) / 3 >> 20))
    for layout in "" --no-repack; do
        # --mem is 48 MiB less than the limit: pages of the program's files and of the kernel count.
        # shellcheck disable=SC2086 # no layout is no argument
        bench "$kind" -m ${lim}M -- --vs llama.cpp --mem $((lim - 48))M --tokens 0 -n 100 \
            --warmup 8 --seconds 60 --rounds "$rounds" $layout
        figure {forebay,llama.cpp,forebay_over_llama.cpp}.decode_tok_per_s.{median,min,max} \
            forebay.{hit_rate,disk_utilisation}.median |
            awk -F'\t' -v kind="$kind" -v lim="$lim" -v peak="$(peak)" -v layout="$layout" '{
                printf "| %s | %d MiB, %d | %s | %.2f (%.2f to %.2f) |" \
                    " %.3f (%.3f to %.3f) | %.1f (%.1f to %.1f) | %.1f %% | %.2f |\n", \
                    kind, lim, peak, layout == "" ? "repacked" : "as stored", \
                    $1, $2, $3, $4, $5, $6, $7, $8, $9, $10 * 100, $11
            }'
    done
    drop "$kind"
done
