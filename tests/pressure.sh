#!/usr/bin/env bash
# pressure.sh - runs random models under random memory limits; in every second run the limit is
# lowered by up to 40 % while tokens are generated.
#
#   tests/pressure.sh [N [SEED [FOREBAY]]]      N pairs of runs (100), random numbers from SEED (1)
#
# A pair uses one model of 100 to 600 MB: the first run generates without a limit, the second one in
# a cgroup (v1 or v2) with a limit. The pair passes if the second run was not killed, never exceeded
# the limit, and generated the same tokens. The limit is lowered in steps of 5 % every 50 to 100 ms.
# If the kernel refuses a limit below the memory in use (v1), the step is tried again; if it stays
# refused, the pair fails. Needs root, cgroups, and 1.5 GB of space in TMPDIR; otherwise the test is
# skipped.
set -u
export FOREBAY_CACHE_DIR=/dev/null/none # no cache directory
n=${1:-100}
RANDOM=${2:-1}
forebay=${3:-$(dirname "$0")/../build/release/forebay}
name=forebay-pressure.$$
dir=$(mktemp -d)
trap 'rmdir "$group" 2>/dev/null; rm -rf "$dir"' EXIT
trap 'exit 130' INT TERM

# --- The cgroup -------------------------------------------------------------------------------

skip() {
    echo "1..1"
    echo "ok 1 # SKIP $*"
    exit 0
}
group=
[ "$(uname)" = Linux ] || skip "cgroups need Linux"
if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
    group=/sys/fs/cgroup/$name
    limit_file=memory.max peak_file=memory.peak events_file=memory.events
    { echo +memory >/sys/fs/cgroup/cgroup.subtree_control; } 2>/dev/null
else
    group=/sys/fs/cgroup/memory/$name
    limit_file=memory.limit_in_bytes peak_file=memory.max_usage_in_bytes
    events_file=memory.oom_control
fi
mkdir "$group" 2>/dev/null || skip "no permission to create a cgroup"
[ -w "$group/$limit_file" ] || skip "no memory controller"
rmdir "$group"

field() { # NAME FILE -> its value, 0 if missing
    awk -v name="$1" '$1 == name { n = $2 } END { print n + 0 }' "$2" 2>/dev/null
}
set_limit() { # MIB
    { echo $(($1 << 20)) >"$group/$limit_file"; } 2>/dev/null
}
within() { # LOW HIGH -> a random number between them
    echo $(($1 + (RANDOM * 32768 + RANDOM) % ($2 - $1 + 1)))
}
one_of() { # WORD... -> one of them
    shift $((RANDOM % $#))
    echo "$1"
}

# --- A pair -----------------------------------------------------------------------------------

make_model() { # sets arch, type, size
    local experts=() embd
    # Not deepseek2 with AMX: llama.cpp v0.5.0 cannot compute with its 3-d weights in that layout
    # (tests/exact.h), so that its tokens differ from run to run.
    local mla=deepseek2
    ! grep -qs amx_tile /proc/cpuinfo || mla=qwen3moe
    arch=$(one_of llama qwen3 gemma3 phi3 qwen3moe mixtral gpt-oss qwen2moe "$mla")
    size=$(within 100 600)
    embd=$(one_of 512 768 1024)
    case $arch in
    llama | qwen3 | gemma3 | phi3) type=$(one_of Q4_K_M Q8_0 Q4_0 F16 Q6_K) ;;
    *)
        type=$(one_of Q4_K_M Q8_0 Q4_0 MXFP4_MOE IQ4_XS)
        experts=(--experts "$(one_of 8 16 32 64 128)" --experts-used "$(one_of 1 2 4 8)")
        ;;
    esac
    "$forebay" synth random -a "$arch" --type "$type" --size "${size}M" --embd "$embd" --heads 8 \
        --vocab "$(within 1000 8000)" "${experts[@]}" -o "$dir/model.gguf" >"$dir/synth.log" 2>&1
}

# The smallest budget in MiB, from the hint of the error.
least_mib() {
    "$forebay" run "$dir/model.gguf" "${options[@]}" --mem 1 -n 1 2>&1 |
        sed -n 's/.*--mem \([0-9]*\)M.*/\1/p' | head -1
}

# Lowers the limit from $limit to $final MiB. Sets lowered: the limit reached; refused: a limit that
# the kernel refused, if any.
lower() { # PID
    local step=$((limit / 20)) to tries
    refused=
    lowered=$limit
    while [ "$lowered" -gt "$final" ]; do
        to=$((lowered - step > final ? lowered - step : final))
        for ((tries = 0; tries < 500; tries++)); do
            kill -0 "$1" 2>/dev/null || return
            set_limit $to && break
            sleep 0.01
        done
        if [ $tries = 500 ]; then
            refused=$to
            return
        fi
        lowered=$to
        sleep "0.0$(within 50 99)"
    done
}

run_limited() { # TOKENS. Sets rc, peak, killed, lowered.
    mkdir "$group" && set_limit "$limit" || return 1
    [ ! -f "$group/memory.swap.max" ] || echo 0 >"$group/memory.swap.max"
    : >"$dir/got"
    (
        echo "$BASHPID" >"$group/cgroup.procs"
        exec "$forebay" run "$dir/model.gguf" "${options[@]}" "${budget[@]}" -n "$1" --ids \
            --stats "$dir/stats.json" >"$dir/got" 2>"$dir/err"
    ) &
    local pid=$!
    lowered=$limit refused=
    while [ ! -s "$dir/got" ] && kill -0 $pid 2>/dev/null; do
        sleep 0.02
    done
    [ "$final" = "$limit" ] || lower $pid
    wait $pid
    rc=$?
    killed=$(field oom_kill "$group/$events_file")
    peak=$(($(cat "$group/$peak_file" 2>/dev/null || echo 0) >> 20))
    for _ in 1 2 3 4 5 6 7 8 9 10; do # its last pages may not be freed yet
        rmdir "$group" 2>/dev/null && break
        sleep 0.1
    done
}

# Sets verdict.
try_pair() { # NUMBER
    make_model || { verdict="FAILED: synth: $(tail -1 "$dir/synth.log")" && return; }
    options=(-t 1 -c 1200 -b "$(one_of 32 128 512)" --ignore-eos
        --tokens "$(within 300 900),$(within 300 900),$(within 300 900)")
    [ $((RANDOM % 3)) != 0 ] || options+=(--no-repack)
    local tokens cut=0 seconds
    for seconds in 4 20 60; do # longer on busy machines
        timeout -s INT $seconds "$forebay" run "$dir/model.gguf" "${options[@]}" -n 1000 --ids -q \
            >"$dir/want"
        [ ! -s "$dir/want" ] || break
    done
    tokens=$(wc -l <"$dir/want") # an interrupt may have cut the last line
    head -n "$tokens" "$dir/want" >"$dir/whole" && mv "$dir/whole" "$dir/want"
    least=$(least_mib)
    if [ "$tokens" = 0 ] || [ -z "$least" ]; then
        verdict="FAILED: no reference"
        return
    fi
    [ $(($1 % 2)) = 1 ] || cut=$(one_of "$(within 5 40)" "$(within 33 40)")
    # A sixteenth of the limit, plus half of that at the start, is not available to weights.
    final=$(((least + 32) * 100 / 88))
    # In every second pair the limit is only slightly above the minimum.
    local most=$((final > size ? final + 64 : size + 64))
    [ $((RANDOM % 2)) = 0 ] || most=$((final + final / 8))
    final=$(within $final $most)
    limit=$((final * 100 / (100 - cut)))
    [ "$cut" != 0 ] || limit=$final
    budget=()
    [ $((RANDOM % 2)) = 0 ] || budget=(--mem "${limit}M") # may exceed the free memory
    run_limited "$tokens" || { verdict="FAILED: no cgroup" && return; }
    shrinks=$(sed -n 's/.*"governor_shrinks": \([0-9]*\).*/\1/p' "$dir/stats.json" 2>/dev/null)
    if [ "$killed" != 0 ]; then
        verdict="FAILED: killed, out of memory"
    elif [ "$rc" != 0 ]; then
        verdict="FAILED: exit status $rc: $(tail -2 "$dir/err" | head -1)"
    elif [ "$peak" -gt "$limit" ]; then
        verdict="FAILED: over the limit"
    elif ! cmp -s "$dir/want" "$dir/got"; then
        verdict="FAILED: different tokens"
    elif [ -n "$refused" ]; then
        verdict="FAILED: the limit could not be lowered to $refused"
    else
        verdict=ok
        [ "$lowered" = "$final" ] || verdict="ok (ended at limit $lowered)"
    fi
}

# --- All --------------------------------------------------------------------------------------

passed=0 failed=0
format='%4s  %-10s %-10s %6s %7s %7s %7s %6s %8s  %s\n'
# shellcheck disable=SC2059
printf "$format" pair arch type MB needs limit lowered peak shrinks verdict
for ((i = 1; i <= n; i++)); do
    limit=- final=- peak=- shrinks=- least=- lowered=
    rm -f "$dir/stats.json"
    try_pair $i
    case $verdict in ok*) passed=$((passed + 1)) ;; *) failed=$((failed + 1)) ;; esac
    [ "$final" != "$limit" ] && to=$final || to=-
    # shellcheck disable=SC2059
    printf "$format" $i "$arch" "$type" "$size" "$least" "$limit" "$to" "$peak" "${shrinks:--}" \
        "$verdict"
    rm -f "$dir/model.gguf"
done
echo "$passed passed, $failed failed"
[ $failed = 0 ]
