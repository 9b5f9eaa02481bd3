#!/usr/bin/env bash
# serve.sh - what requests gain from sharing passes: one client and eight, on streamed models.
#
#   bench/serve.sh [TOKENS]
#
# Makes a mixture of experts that replays a real routing trace and a dense model, serves each with
# part of its weights in memory and with all of them, and asks with 1 and with 8 clients for TOKENS
# tokens each (default 48); the clients of the mixture start at different tokens of the trace, so that
# they need different experts. Speeds are those of passes without prompts, from /metrics.
#
#   bound: rows / max(bytes read per pass / disk, time of the same pass with all weights in memory)
#
# Needs curl and 4 GB of disk; see lib.sh.
cd "$(dirname "$0")/.."
. bench/lib.sh
tokens=${1:-48}
threads=${THREADS:-$(nproc)}
port=${PORT:-18555}
url=http://127.0.0.1:$port
server=
trap '[ -z "$server" ] || kill -INT "$server" 2>/dev/null || true' EXIT

model serve-moe replay "$shared/traces/qwen3-30b-a3b-k6.jsonl" --layers 16 --expert-bytes 1M
model serve-dense random --arch llama --type Q4_K --size 1G --vocab 32000

metric() { awk -v name="strata_$1" '$1 == name { print $2 }' "$2"; }

start() { # MODEL WEIGHTS_BYTES
    "$strata" serve "$1" --weights-mem "$2" -c 256 --batch 64 --parallel 8 -t "$threads" \
        --port "$port" -q 2>"$dir/serve.log" &
    server=$!
    for _ in $(seq 600); do
        curl -sf "$url/health" >/dev/null && return
        kill -0 "$server" 2>/dev/null || break
        sleep 0.1
    done
    cat "$dir/serve.log" >&2
    exit 1
}

stop() {
    kill -TERM "$server"
    wait "$server" || true
    server=
}

ask() { # CLIENT
    local prompt="w$(($1 * 13)) "
    curl -sf "$url/v1/completions" -o /dev/null -d \
        "{\"prompt\": \"$prompt\", \"max_tokens\": $tokens, \"temperature\": 0, \"ignore_eos\": true}"
}

measure() { # CLIENTS: one line "tok/s bytes-per-pass seconds-per-pass rows-per-pass disk"
    local pids=() i
    ask 9 # fills the caches
    curl -sf "$url/metrics" >"$dir/before"
    for i in $(seq 0 $(($1 - 1))); do
        ask "$i" &
        pids+=($!)
    done
    for i in "${pids[@]}"; do wait "$i"; done
    sleep 0.3
    curl -sf "$url/metrics" >"$dir/after"
    for name in decode_rows_total decode_seconds_total decode_passes_total decode_read_bytes_total; do
        echo "$(metric $name "$dir/after") $(metric $name "$dir/before")"
    done | awk -v disk="$(metric disk_bytes_per_second "$dir/after")" '
        { d[NR] = $1 - $2 }
        END { printf "%g %g %g %g %g\n", d[1] / d[2], d[4] / d[3], d[2] / d[3], d[1] / d[3], disk }'
}

echo "| model | weights in memory | clients | tokens/s | rows a pass | read a pass | disk | compute a pass | bound | of the bound | times one client |"
echo "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
for kind in moe dense; do
    file=$dir/serve-$kind.gguf
    case $kind in moe) percent=25 ;; dense) percent=50 ;; esac
    start "$file" "$(percent_of serve-$kind 200)"
    all1=$(measure 1)
    all8=$(measure 8)
    stop
    start "$file" "$(percent_of serve-$kind $percent)"
    part1=$(measure 1)
    part8=$(measure 8)
    stop
    echo "$all1 $all8 $part1 $part8" | awk -v kind=$kind -v percent=$percent '
        function row(clients, rate, bytes, rows, disk, compute, one) {
            read_s = bytes / disk; bound = rows / (read_s > compute ? read_s : compute)
            printf "| %s | %d %% | %d | %.2f | %.1f | %.1f MB | %.2f GB/s | %.1f ms | %.2f | %.2f | %.2f |\n",
                kind, percent, clients, rate, rows, bytes / 1e6, disk / 1e9, compute * 1e3, bound,
                rate / bound, rate / one
        }
        {
            row(1, $11, $12, $14, $15, $3, $11); row(8, $16, $17, $19, $20, $8, $11)
            printf "| %s | all | 1 | %.2f | %.1f |\n| %s | all | 8 | %.2f | %.1f |\n", kind, $1, $4, kind, $6, $9
        }'
done
