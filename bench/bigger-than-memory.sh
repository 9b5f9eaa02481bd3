#!/usr/bin/env bash
# bigger-than-memory.sh - Strata and llama.cpp (mmap) on models three times the memory they may use.
#
#   bench/bigger-than-memory.sh [ROUNDS]
#
# Makes a 10 GB mixture of experts that replays a real routing trace and a 6.5 GB dense model, runs
# both programs on each under a memory limit of a third of the file, alternating, cold, and prints
# a table: every run, medians, ratios pair by pair. Needs root (cgroups), 20 GB of disk in
# $BENCH_DIR (default /tmp/strata-bench), a quiet machine, and the traces and limit tool in ../shared.
set -eu
cd "$(dirname "$0")/.."
rounds=${1:-3}
dir=${BENCH_DIR:-/tmp/strata-bench}
shared=${STRATA_SHARED:-../shared}
limit=$shared/tools/limit
strata=build/release/strata
stock=build/release/tests/stock_llama
threads=$(nproc)
out=$dir/results.tsv
mkdir -p "$dir"

model() { # FILE COMMAND...: make it once
    local file=$1
    shift
    [ -s "$file" ] || "$strata" synth "$@" -o "$file" >&2
}
model "$dir/moe.gguf" replay "$shared/traces/qwen3-30b-a3b-k6.jsonl" --expert-bytes 1.7M
model "$dir/dense.gguf" random --arch llama --type Q4_K --size 6.5G --vocab 32000

field() { sed -n "s/.*\"$1\": \([0-9.e+-]*\).*/\1/p" "$2"; }

run_strata() { # MODEL N LIMIT MEM
    "$limit" -m "$3" -c -- "$strata" run "$1" --tokens 0 -n "$2" --ids --mem "$4" --ctx 256 --batch 64 \
        --threads "$threads" $MODE --stats "$dir/stats.json" >"$dir/ids" 2>"$dir/log"
    local peak
    peak=$(sed -n 's/^limit: peak \([0-9]*\) MiB of \([0-9]*\) MiB.*/\1/p' "$dir/log")
    printf '%s\t%s\t%s\t%s\t%s\n' "$(field decode_tok_per_s "$dir/stats.json")" "$peak" \
        "$(field decode_read_bytes "$dir/stats.json")" "$(field disk_bytes_per_s "$dir/stats.json")" \
        "$(field hit_rate "$dir/stats.json")"
}

run_llama() { # MODEL N LIMIT
    "$limit" -m "$3" -c -- "$stock" "$1" "$2" "$threads" 0 1 0 2>"$dir/log" |
        sed -n 's/^decode_tok_per_s //p'
}

: >"$out"
for kind in moe dense; do
    file=$dir/$kind.gguf
    size=$(($(stat -c %s "$file") >> 20))
    lim=$((size / 3))
    mem=$((lim - 48)) # the page cache of the program's own files and the kernel's memory count too
    case $kind in moe) n=64 m=6 ;; dense) n=8 m=2 ;; esac
    for round in $(seq "$rounds"); do
        for MODE in "" --no-repack; do
            printf '%s\t%s\tstrata%s\t%s\n' $kind "$round" "$MODE" \
                "$(run_strata "$file" $n ${lim}M ${mem}M)" | tee -a "$out" >&2
        done
        printf '%s\t%s\tllama.cpp\t%s\n' $kind "$round" "$(run_llama "$file" $m ${lim}M)" |
            tee -a "$out" >&2
    done
done

awk -F'\t' '
function median(list, n,   a, i, j, t) {
    split(list, a, " ")
    for (i = 1; i <= n; i++) for (j = i + 1; j <= n; j++) if (a[j] < a[i]) { t = a[i]; a[i] = a[j]; a[j] = t }
    return a[int((n + 1) / 2)] " (" a[1] " to " a[n] ")"
}
{
    key = $1 "\t" $3
    speed[key] = speed[key] " " $4; count[key]++; order[key] = NR
    value[$1, $2, $3] = $4
    if ($5 > peak[$1]) peak[$1] = $5
    rounds[$1] = $2 > rounds[$1] ? $2 : rounds[$1]
}
END {
    print "| model | program | tokens/s, median (range) | times llama.cpp, pair by pair |"
    print "| --- | --- | --- | --- |"
    split("moe dense", kinds, " "); split("strata|strata--no-repack|llama.cpp", programs, "|")
    for (k = 1; k <= 2; k++) for (p = 1; p <= 3; p++) {
        key = kinds[k] "\t" programs[p]; ratios = ""
        for (r = 1; r <= rounds[kinds[k]]; r++) ratios = ratios sprintf(" %.1f", value[kinds[k], r, programs[p]] / value[kinds[k], r, "llama.cpp"])
        printf "| %s | %s | %s |%s |\n", kinds[k], programs[p], median(speed[key], count[key]), ratios
    }
}' "$out"
