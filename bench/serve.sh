#!/usr/bin/env bash
# serve.sh - the gain of requests that share passes: one client and eight, on streamed models.
#
#   bench/serve.sh [TOKENS]
#
# Makes mixtures of experts that replay real routing traces and a dense model, serves each with a
# part of its weights in memory and with all of them, and requests TOKENS tokens (default 32; a
# third for the dense model) with 1 client and with 8. The clients of a mixture start at different
# tokens of the trace, so that they need different experts. The disk is limited to RATE (default
# 1000M), so that its speed does not change. Speeds are those of passes without prompts, from
# /metrics.
#
#   bound: rows / max(bytes read per pass / disk, time of such a pass with all weights in memory)
#
# Environment: RATE, THREADS (default: all processors), PORT (18555), MODELS (qwen3 gpt-oss dense).
# Needs curl, root (cgroups) and 5 GB of disk; see lib.sh.
cd "$(dirname "$0")/.." || exit 1
. bench/lib.sh
need_limit
tokens=${1:-32}
rate=${RATE:-1000M}
threads=${THREADS:-$(nproc)}
port=${PORT:-18555}
url=http://127.0.0.1:$port
server=
trap '[ -z "$server" ] || kill -INT "$server" 2>/dev/null || true' EXIT

model serve-qwen3 replay "$shared/traces/qwen3-30b-a3b-k6.jsonl" --layers 16 --expert-bytes 1M
model serve-gpt-oss replay "$shared/traces/gpt-oss-120b-k2.jsonl" --layers 16 --expert-bytes 1M
model serve-dense random --arch llama --type Q4_K --size 1G --vocab 32000

metric() { awk -v name="forebay_$1" '$1 == name { print $2 }' "$2"; }

start() { # MODEL WEIGHTS_BYTES
    # shellcheck disable=SC2016 # the inner shell writes its process id, which exec passes on
    "$limit" -r "$rate" -d "$1" -- bash -c 'echo $$ >"$0"; exec "$@"' "$dir/serve.pid" \
        "$forebay" serve "$1" --weights-mem "$2" -c 256 --batch 64 --parallel 8 -t "$threads" \
        --port "$port" -q 2>"$dir/serve.log" &
    for _ in $(seq 600); do
        if curl -sf "$url/health" >/dev/null; then
            server=$(cat "$dir/serve.pid")
            return
        fi
        sleep 0.1
    done
    cat "$dir/serve.log" >&2
    exit 1
}

stop() {
    kill -TERM "$server"
    wait
    server=
}

ask() { # CLIENT TOKENS
    curl -sf "$url/v1/completions" -o /dev/null -d "{\"prompt\": \"w$(($1 * 13)) \",
        \"max_tokens\": $2, \"temperature\": 0, \"ignore_eos\": true}"
}

measure() { # CLIENTS TOKENS: prints tokens/s, bytes, seconds and rows per pass on one line
    local pids=() i
    ask 9 4
    curl -sf "$url/metrics" >"$dir/before"
    for i in $(seq 0 $(($1 - 1))); do
        ask "$i" "$2" &
        pids+=($!)
    done
    for i in "${pids[@]}"; do wait "$i"; done
    sleep 0.5
    curl -sf "$url/metrics" >"$dir/after"
    for name in rows seconds passes read_bytes; do
        echo "$(metric decode_${name}_total "$dir/after")" \
            "$(metric decode_${name}_total "$dir/before")"
    done | awk '{ d[NR] = $1 - $2 }
        END { printf "%g %g %g %g\n", d[1] / d[2], d[4] / d[3], d[2] / d[3], d[1] / d[3] }'
}

echo "| model | weights in memory | clients | tokens/s | times one client | rows per pass |" \
    "read per pass | from the disk | computing | bound | of the bound |"
echo "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
for kind in ${MODELS:-qwen3 gpt-oss dense}; do
    n=$tokens percent=25
    [ "$kind" != dense ] || n=$((tokens / 3)) percent=50
    start "$dir/serve-$kind.gguf" "$(percent_of "serve-$kind" 200)"
    all1=$(measure 1 "$n")
    all8=$(measure 8 "$n")
    stop
    start "$dir/serve-$kind.gguf" "$(percent_of "serve-$kind" $percent)"
    part1=$(measure 1 "$n")
    part8=$(measure 8 "$n")
    stop
    echo "$all1 $all8 $part1 $part8" |
        awk -v kind="$kind" -v percent=$percent -v disk="$(numfmt --from=iec "$rate")" '
        function row(clients, rate, bytes, rows, compute, one,    read_s, bound) {
            read_s = bytes / disk
            bound = rows / (read_s > compute ? read_s : compute)
            printf "| %s | %d %% | %d | %.2f | %.2f | %.1f | %.0f MB | %.0f ms | %.0f ms |" \
                " %.2f | %.2f |\n",
                kind, percent, clients, rate, rate / one, rows, bytes / 1e6, read_s * 1e3,
                compute * 1e3, bound, rate / bound
        }
        function all(clients, rate, rows, compute, one) {
            printf "| %s | all | %d | %.2f | %.2f | %.1f | 0 | 0 | %.0f ms | | |\n", kind, clients,
                rate, rate / one, rows, compute * 1e3
        }
        {
            row(1, $9, $10, $12, $3, $9); row(8, $13, $14, $16, $7, $9)
            all(1, $1, $4, $3, $1); all(8, $5, $8, $7, $1)
        }'
done
