#!/usr/bin/env bash
# roofline.sh - decoding next to the bounds of disk and CPU, over memory budgets and disk speeds.
#
#   bench/roofline.sh [--quick] [--report] [MODEL...]
#
# A MODEL is TRACE:EXPERT-SIZE:LAYERS: a trace of ../shared/traces, made into a runnable model that
# repeats its routing. Default:
#   qwen3-30b-a3b-k6:900K:16 olmoe-1b-7b:2600K:12 gpt-oss-120b-k2:8M:3
# Each runs with 10, 20, 35, 50 and 75 % of its file as memory for weights, and with the disk
# limited to 500M, 1G and 1500M bytes/s (../shared/tools/limit). The figures:
#
#   disk bound      speed of fio under the same limit, just before / bytes read per token
#   compute bound   tokens/s of the same model with all in memory, just before
#   U               achieved speed / disk bound
#   of roofline     achieved speed / min(disk bound, compute bound)
#   simulated       the same for the speed that `forebay sim` reaches with the run's routing, on a
#                   disk of exactly the measured speed and with a perfect lookahead of one layer.
#                   (Less than 1, because tokens differ in their misses and the next token's experts
#                   are not known while the disk is idle.)
#
# At 1G llama.cpp (mmap) runs, too, alternating with Forebay, both under a memory limit of the
# budget plus 400 MiB. Results are stored in $BENCH_DIR/roofline.tsv, so models can be run one by
# one. --report only prints the table and draws $BENCH_DIR/roofline-*.svg from the stored results.
# --quick runs four cells, without llama.cpp. Models are made when needed and deleted (KEEP=1 keeps
# them).
# Environment: OPTIONS for forebay bench (default --no-repack: weights as stored), ROUNDS (2),
# SECONDS_EACH (4: time limit of warming up and of measuring). Takes 30 minutes and 4 GB of disk.
cd "$(dirname "$0")/.." || exit 1
. bench/lib.sh
options=${OPTIONS---no-repack} rounds=${ROUNDS:-2} seconds=${SECONDS_EACH:-4}
budgets="10 20 35 50 75" rates="500M 1G 1500M" llama_rate=1G report=
models=(qwen3-30b-a3b-k6:900K:16 olmoe-1b-7b:2600K:12 gpt-oss-120b-k2:8M:3)
results=$dir/roofline.tsv
while [[ ${1:-} == --* ]]; do
    case $1 in
    --quick)
        budgets="20 50" rates="500M 1G" llama_rate="" rounds=1
        models=(qwen3-30b-a3b-k6:900K:16)
        ;;
    --report) report=1 ;;
    *) usage; exit 2 ;;
    esac
    shift
done
[ $# -eq 0 ] || models=("$@")
[ -n "$report" ] || { need_limit; need_fio; }

run='--tokens 0 -n 256 --warmup 128'

# simulated NAME BYTES: prints the simulated tokens/s with that much memory for weights.
simulated() {
    local layout=--repack
    [[ $options != *--no-repack* ]] || layout=
    # shellcheck disable=SC2086 # no layout is no argument
    "$forebay" sim "$dir/$1.gguf" --trace "$dir/$1.gguf.trace" --mem "$2" --disk "$disk" $layout \
        --lookahead 1 --compute "$(awk "BEGIN { print 1e3 / $compute }")" --warm-up 128 --json |
        awk -f bench/flatten.awk | awk '$1 == "decode.tok_per_s" { print $2 }'
}

# cell NAME BUDGET RATE: prints one line of results.
cell() {
    local disk compute file_share under=(-r "$3") versus=() llama=-
    disk=$(disk_rate "$dir/$1.gguf" "$3")
    # shellcheck disable=SC2086 # options are words
    bench "$1" -- $run --seconds "$seconds" --rounds 1 $options
    compute=$(figure forebay.decode_tok_per_s.median)
    file_share=$(percent_of "$1" "$2")
    if [ "$3" = "$llama_rate" ]; then
        under+=(-m $((file_share + (400 << 20))))
        versus=(--vs llama.cpp)
    fi
    # shellcheck disable=SC2086 # options are words
    bench "$1" "${under[@]}" -- $run --seconds "$seconds" --rounds "$rounds" \
        --weights-mem "$file_share" $options "${versus[@]}"
    [ "$3" != "$llama_rate" ] || llama=$(figure llama.cpp.decode_tok_per_s.median)
    printf '%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "$disk" "$compute" "$llama" \
        "$(figure forebay.{decode_tok_per_s.{median,min,max},token_read_bytes.median} \
            forebay.{hit_rate,disk_bytes_per_s,token_s,token_scheduler_s,token_unpack_s}.median)" \
        "$(simulated "$1" "$file_share")"
}

one_model() { # TRACE SIZE LAYERS
    local name=$1-$2 rate budget
    model "$name" replay "$shared/traces/$1.jsonl" --expert-bytes "$2" --layers "$3"
    # shellcheck disable=SC2086 # options are words
    "$forebay" run "$dir/$name.gguf" --tokens 0 -n 384 --temp 0 --ignore-eos -q --ids $options \
        --trace-out "$dir/$name.gguf.trace" >"$dir/log"
    grep -qs . "$results" && sed -i "/^$name\t/d" "$results"
    for rate in $rates; do
        for budget in $budgets; do
            cell "$name" "$budget" "$rate" | tee -a "$results" >&2
        done
    done
    drop "$name"
}

# table: prints the stored results as tables and plots them (data: $dir/NAME.dat).
table() {
    awk -F'\t' -v dir="$dir" '
    function least(a, b) { return a < b ? a : b }
    $1 != name {
        name = $1; dat = dir "/roofline-" name ".dat"; printf "" >dat
        printf "\n%s\n\n", name
        print "| disk | memory | hits | read per token | tokens/s (range) | all in memory | U |" \
            " of roofline | simulated | scheduler | llama.cpp |"
        print "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    }
    $16 > 0 { # else written by an older version of this script
        bound = $10 > 0 ? $4 / $10 : 1e9; roof = least(bound, $5); cells++
        if (bound <= $5) { limited++; busy += $7 / bound >= 0.85 }
        near += $7 / roof >= 0.9
        possible += $16 / roof >= 0.9
        as_simulated += $7 / $16 >= 0.95
        printf "| %s (%.0f MB/s) | %d %% | %.1f %% | %.1f MB | %.2f (%.2f to %.2f) | %.1f |" \
            " %.2f%s | %.2f | %.2f | %.1f %% | %s |\n", \
            $3, $4 / 1e6, $2, $11 * 100, $10 / 1e6, $7, $8, $9, $5, \
            $7 / bound, bound <= $5 ? "" : " (CPU)", $7 / roof, $16 / roof, $14 / $13 * 100, $6
        k = $3 == "500M" ? 0 : $3 == "1G" ? 1 : 2
        printf "Forebay, %s\tpoints\t%d\t%s\t%s\t%s\t%s\n", $3, k, $2, $7, $8, $9 >dat
        printf "roofline, %s\tdashed\t%d\t%s\t%s\n", $3, k, $2, roof >dat
        if ($6 != "-") printf "llama.cpp (mmap), %s\tpoints\t7\t%s\t%s\n", $3, $2, $6 >dat
    }
    END {
        printf "\nU >= 0.85 in %d of %d cells that the disk limits; ", busy, limited
        printf ">= 0.9 of the roofline in %d of %d cells, simulated in %d; ", near, cells, possible
        printf ">= 0.95 of the simulated speed in %d\n", as_simulated
    }' "$results"
    local data
    for data in "$dir"/roofline-*.dat; do
        awk -v title="$(basename "$data" .dat): decode speed, disk limited" -v log_y=1 \
            -v ylabel="tokens/s" -v xlabel="memory for weights, % of the model" \
            -f bench/plot.awk "$data" >"${data%.dat}.svg"
    done
}

if [ -z "$report" ]; then
    for spec in "${models[@]}"; do
        IFS=: read -r trace size layers <<<"$spec"
        one_model "$trace" "$size" "$layers"
    done
fi
table
