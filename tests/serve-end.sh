#!/usr/bin/env bash
# How `forebay serve` begins and ends as a process: ports, keys, signals. Reports in TAP.
#   tests/serve-end.sh FOREBAY MODEL
set -uo pipefail
export FOREBAY_CACHE_DIR=/dev/null/none # no cache directory
forebay=$1 model=$2
dir=$(mktemp -d)
trap 'kill -9 $pid 2>/dev/null; rm -rf "$dir"' EXIT
pid=
n=0

# check NAME COMMAND...
check() {
    n=$((n + 1))
    if "${@:2}"; then
        echo "ok $n - $1"
    else
        echo "not ok $n - $1"
        tail -qc 400 "$dir/log" "$dir/answer" 2>/dev/null | sed 's/^/# /'
    fi
}

# start OPTION...: sets $pid and $port.
start() {
    "$forebay" serve "$model" --port 0 -t 1 "$@" 2>"$dir/log" &
    pid=$!
    for _ in $(seq 600); do
        port=$(sed -n 's/^serving: .*:\([0-9][0-9]*\) .*/\1/p' "$dir/log")
        [ -z "$port" ] || return 0
        sleep 0.1
    done
    return 1
}

# ask PATH BODY: writes the whole answer to $dir/answer, until the connection is closed.
ask() {
    exec 3<>"/dev/tcp/127.0.0.1/$port"
    printf 'POST %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n' "$1" >&3
    printf 'Content-Length: %d\r\n\r\n%s' "${#2}" "$2" >&3
    cat <&3 >"$dir/answer"
    exec 3<&-
}

# ends WITHIN_MS CODE: the server has ended by then, with this exit code.
ends() {
    local end=$(($(date +%s%N) / 1000000 + $1)) code
    while kill -0 "$pid" 2>/dev/null; do
        [ $(($(date +%s%N) / 1000000)) -lt "$end" ] || return 1
        sleep 0.02
    done
    wait "$pid"
    code=$?
    [ "$code" = "$2" ] || { echo "# exit code $code"; return 1; }
}

begun() { # waits until the answer has begun
    for _ in $(seq 500); do
        ! grep -q "$1" "$dir/answer" 2>/dev/null || return 0
        sleep 0.02
    done
    return 1
}

long='{"prompt":"Once","max_tokens":100000,"ignore_eos":true,"stream":true}'
slow=(--weights-mem 2500K --io "fault:sync,late_ms=200")
echo 1..14

# A stream that is cut off by each of the signals.
for signal in TERM INT HUP; do
    start --ctx 20000 --parallel 1 --drain 1
    rm -f "$dir/answer"
    ask /v1/completions "$long" &
    begun 'data:'
    kill -$signal "$pid"
    check "SIG$signal ends the server after the drain" ends 4000 0
    wait $!
    check "SIG$signal: the stream ends with an error" grep -q 'data: {"error"' "$dir/answer"
done

# A second signal does not wait for the drain.
start --ctx 20000 --parallel 1 --drain 100
rm -f "$dir/answer"
ask /v1/completions "$long" &
begun 'data:'
kill -TERM "$pid"
sleep 0.3
kill -TERM "$pid"
check "a second signal ends the server at once" ends 2500 0
wait $!

# A pass that takes longer than that: the process ends all the same.
start "${slow[@]}" --drain 1
rm -f "$dir/answer"
ask /v1/completions "$long" &
sleep 0.5
kill -TERM "$pid"
check "a pass that does not end does not keep the process" ends 7000 1
wait $!
check "this is reported" grep -q 'ended by force' "$dir/log"

# One port, one server; the second fails before it reads the model.
start
"$forebay" serve "$dir/missing.gguf" --port "$port" 2>"$dir/second"
check "a port that is taken is refused at once" grep -q "cannot listen on 127.0.0.1, port $port" \
    "$dir/second"
kill -TERM "$pid"
check "an idle server ends at once" ends 3000 0

"$forebay" serve "$model" --port 0 --api-key '' 2>"$dir/log"
check "an empty --api-key is refused" [ $? = 2 ]
FOREBAY_API_KEY='' "$forebay" serve "$model" --port 0 2>"$dir/log"
check "an empty FOREBAY_API_KEY is refused" [ $? = 2 ]

start --host 0.0.0.0
kill -TERM "$pid"
wait "$pid"
check "a server without a key on a network warns" grep -q 'anyone who can reach 0.0.0.0' "$dir/log"
