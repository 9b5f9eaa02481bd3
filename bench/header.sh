#!/usr/bin/env bash
# header.sh - how long a model of a trillion parameters takes before any of it is read.
#
#   bench/header.sh [ROUNDS]       default: 10
#
# The model's large weights are holes in the file, so it takes no disk; only its header is read.
# `plan` is given the disk's speed: otherwise it measures the disk, for about half a second. The
# processors are measured before, once for each machine (some seconds). Seconds: median (range).
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
