#!/usr/bin/env bash
# header.sh - time to inspect and plan a model of a trillion parameters, before weights are read.
#
#   bench/header.sh [ROUNDS]       default: 10
#
# The model's large weights are holes in a sparse file, so it takes no disk space; only its header
# is read. `plan` gets the disk's speed as an option, because measuring the disk takes about half a
# second. The processors are measured first (some seconds). Prints seconds: median (range).
cd "$(dirname "$0")/.." || exit 1
. bench/lib.sh
rounds=${1:-10}
[[ $rounds =~ ^[1-9][0-9]*$ ]] || { usage; exit 2; }
rm -f "$dir/header.gguf"
"$forebay" synth sparse --params 1T -q -o "$dir/header.gguf"

# line COMMAND...: one line of the table.
line() {
    local i
    for ((i = 0; i < rounds; i++)); do
        ${BENCH_TURN:-} bash -c 'TIMEFORMAT=%R; time "$@" >/dev/null' - "$@" 2>&1
    done | sort -n | awk -v what="${*:2:1}" '
        { s[NR] = $1 }
        END { printf "| `%s` | %.3f (%.3f to %.3f) |\n", what, s[int((NR + 1) / 2)], s[1], s[NR] }'
}

"$forebay" plan "$dir/header.gguf" --mem 8G --disk 1G -q >/dev/null # measures the processors
echo "| 1T parameters, 527 GiB | seconds |"
echo "| --- | --- |"
line "$forebay" inspect "$dir/header.gguf"
line "$forebay" plan "$dir/header.gguf" --mem 8G --disk 1G -q
drop header
