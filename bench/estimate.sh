#!/usr/bin/env bash
# estimate.sh - estimated next to achieved speed, for six pairs of model and budget.
#
#   bench/estimate.sh [RATE...]        default: 500M 1G 1500M (disk speeds)
#
# Makes replay models of three routing traces and a dense model (some 6 GB in $BENCH_DIR, default
# /tmp/forebay-estimate), limits the disk with ../shared/tools/limit, and runs each pair twice with
# a cache directory of its own: the first run knows nothing of the model, the second the history of
# the first. Prompts are a full batch of 512 tokens. Prints one line per run and, at the end, the
# errors of the second runs. Needs root (cgroups) and a quiet machine.
set -eu
cd "$(dirname "$0")/.."
dir=${BENCH_DIR:-/tmp/forebay-estimate}
shared=${FOREBAY_SHARED:-../shared}
forebay=build/release/forebay
export FOREBAY_CACHE_DIR=$dir/cache
[ -x "$shared/tools/limit" ] || {
    echo "$shared/tools/limit is missing. bench/README.md says what the benchmarks need." >&2
    exit 1
}
mkdir -p "$dir"
rm -rf "$FOREBAY_CACHE_DIR"
[ $# -gt 0 ] || set -- 500M 1G 1500M

model() { # NAME SYNTH-ARGUMENTS...: makes $dir/NAME.gguf if it is missing
    local file=$dir/$1.gguf
    shift
    [ -s "$file" ] || "$forebay" synth "$@" -o "$file" >&2
}
model olmoe replay "$shared/traces/olmoe-1b-7b.jsonl" --expert-bytes 1M
model qwen3 replay "$shared/traces/qwen3-30b-a3b-k6.jsonl" --expert-bytes 900K --layers 16
model gptoss replay "$shared/traces/gpt-oss-120b-k2.jsonl" --expert-bytes 900K --layers 16
model dense random --arch llama --type Q4_K --size 1.5G --vocab 32000

# MODEL PERCENT-OF-WEIGHTS TOKENS
pairs="olmoe 20 48
olmoe 50 48
qwen3 35 48
gptoss 75 48
dense 40 10
dense 100 24"

field() { sed -n "s/.*\"$1\": \([0-9.e+-]*\).*/\1/p" "$2"; }
# Tokens below 60, which every model has.
prompt=$(seq 1 512 | awk '{ printf "%s%d", (NR > 1 ? "," : ""), $1 % 60 }')

out=$dir/results.tsv
: >"$out"
printf 'disk\tmodel\tbudget\trun\testimated\tachieved\toff\tprompt estimated\tachieved\toff\thits\n'
for rate in "$@"; do
    while read -r name share n; do
        file=$dir/$name.gguf
        mem=$(($(stat -c %s "$file") * share / 100))
        [ "$share" = 100 ] && mem=$((mem * 2))
        rm -rf "$FOREBAY_CACHE_DIR/models"
        for run in 1 2; do
            "$shared/tools/limit" -m 8G -r "$rate" -c -- "$forebay" run "$file" \
                --tokens "$prompt" -n "$n" --ids --ignore-eos --weights-mem $mem --ctx 640 -q \
                --stats "$dir/stats.json" >/dev/null 2>"$dir/log" || { cat "$dir/log" >&2; exit 1; }
            awk -v OFS='\t' -v rate="$rate" -v name="$name" -v share="$share" -v run=$run \
                -v p="$(field estimated_tok_per_s "$dir/stats.json")" \
                -v a="$(field decode_tok_per_s "$dir/stats.json")" \
                -v pp="$(field estimated_prompt_tok_per_s "$dir/stats.json")" \
                -v pa="$(field prompt_tok_per_s "$dir/stats.json")" \
                -v h="$(field hit_rate "$dir/stats.json")" 'BEGIN {
                print rate, name, share " %", run,
                    sprintf("%.2f", p), sprintf("%.2f", a), sprintf("%+.0f %%", (p / a - 1) * 100),
                    sprintf("%.1f", pp), sprintf("%.1f", pa),
                    sprintf("%+.0f %%", (pp / pa - 1) * 100), sprintf("%.1f %%", h * 100)
            }' | tee -a "$out"
        done
    done <<<"$pairs"
done
awk -F'\t' '
    function size(text) { text += 0; return text < 0 ? -text : text }
    $4 == 2 { n++; d += size($7) <= 15; p += size($10) <= 25 }
    END {
        printf "second runs: decode within 15 %% in %d of %d, prompts within 25 %% in %d of %d\n",
            d, n, p, n
    }' "$out"
