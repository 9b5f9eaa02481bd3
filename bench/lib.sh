# lib.sh - functions shared by the scripts here. Source it after `cd` to the root of the project.
#
#   BENCH_DIR       directory for models and results (default /tmp/forebay-bench)
#   FOREBAY_SHARED  directory with traces and the limit tool (default ../shared)
#   OPTIMIZE        1: make a sidecar of each model (forebay optimize), for runs without --no-repack
#   BENCH_TURN      command that runs each measurement when it is its turn (default: none)
#
# Limiting memory or the disk needs root (cgroups); measuring needs a quiet machine. Each script
# starts with an empty cache directory, inside BENCH_DIR: nothing is known of models and machine.
# shellcheck shell=bash
set -euo pipefail
dir=${BENCH_DIR:-/tmp/forebay-bench}
shared=${FOREBAY_SHARED:-../shared}
limit=$shared/tools/limit
forebay=build/release/forebay
mkdir -p "$dir"
export FOREBAY_CACHE_DIR=$dir/cache LC_ALL=C

# usage: prints the comment at the top of the script.
usage() { sed -n '2,/^[^#]/ { /^#/ s/^# \{0,1\}//p }' "bench/${0##*/}"; }

case ${1:-} in -h | --help) usage; exit ;; esac
rm -rf "$FOREBAY_CACHE_DIR"
[ -x "$forebay" ] || { echo "$forebay is missing. Run: make build" >&2; exit 1; }

# need_limit: fails if the limit tool is missing.
need_limit() {
    [ -x "$limit" ] && return
    echo "$limit is missing. bench/README.md says what the benchmarks need." >&2
    exit 1
}

# need_fio: fails if fio is missing.
need_fio() {
    command -v fio >/dev/null && return
    echo "fio is missing. On Debian: apt-get install fio" >&2
    exit 1
}

# model NAME SYNTH-ARGUMENTS...: makes $dir/NAME.gguf if it is missing, and syncs it, so that its
# pages can be dropped from the page cache.
model() {
    local file=$dir/$1.gguf
    shift
    if [ ! -s "$file" ]; then
        echo "making ${file##*/}" >&2
        "$forebay" synth "$@" -q -o "$file.part"
        mv "$file.part" "$file"
        sync "$file"
    fi
    if [ -n "${OPTIMIZE:-}" ] && [ ! -s "$file.forebay" ]; then
        "$forebay" optimize "$file" -q
        sync "$file.forebay"
    fi
}

# drop NAME: deletes the model and what belongs to it, unless KEEP is set.
drop() { [ -n "${KEEP:-}" ] || rm -f "$dir/$1.gguf" "$dir/$1.gguf".*; }

# percent_of NAME PERCENT: prints that share of the model's file size, in bytes.
percent_of() { echo $(($(stat -c %s "$dir/$1.gguf") * $2 / 100)); }

# disk_rate FILE RATE: prints the bytes per second that fio reads under that limit (`none`: no
# limit): random blocks of 4 MiB, 16 in flight, for four seconds after two that do not count,
# because throttling allows a burst at first. Prints 0 if there is no fio.
disk_rate() {
    local under=("$limit" -r "$2" -d "$1" --)
    [ "$2" != none ] || under=()
    if ! command -v fio >/dev/null; then
        echo 0
        return
    fi
    ${BENCH_TURN:-} "${under[@]}" fio --name=read --filename="$1" --readonly --rw=randread \
        --bs=4M --direct=1 --ioengine=io_uring --iodepth=16 --ramp_time=2 --runtime=4 \
        --time_based --minimal 2>/dev/null |
        awk -F';' '{ printf "%.0f\n", $7 * 1024 }'
}

# at_rate RATE: sets `under` to the options of `bench` for this limit of the disk (`none`: no
# limit).
at_rate() {
    under=(-r "$1")
    [ "$1" != none ] || under=()
}

# bench NAME [LIMIT-OPTION...] -- OPTIONS...: runs `forebay bench` on the model, under the limits,
# if any, and writes its figures to $dir/figures, one per line.
bench() {
    local file=$dir/$1.gguf under=("$limit")
    shift
    while [ "$1" != -- ]; do
        under+=("$1")
        shift
    done
    shift
    [ ${#under[@]} -gt 1 ] && under+=(-d "$file" --) || under=()
    ${BENCH_TURN:-} "${under[@]}" "$forebay" bench "$file" -q --json "$@" \
        >"$dir/bench.json" 2>"$dir/log" ||
        { cat "$dir/log" >&2; return 1; }
    awk -f bench/flatten.awk "$dir/bench.json" >"$dir/figures"
}

# figure NAME...: prints figures of the last bench on one line, separated by tabs.
figure() {
    awk -v names="$*" '
        { value[$1] = $2 }
        END {
            n = split(names, name, " ")
            for (i = 1; i <= n; i++) printf "%s%s", value[name[i]], i < n ? "\t" : "\n"
        }' "$dir/figures"
}

# peak: prints the peak memory of the last bench in MiB, as the limit tool saw it. Needs a memory
# limit.
peak() { sed -n 's/^limit: peak \([0-9]*\) MiB.*/\1/p' "$dir/log"; }

# Makes the 4.7 GB model that peer.sh describes.
peer_model() {
    model peer random -a qwen3moe --layers 12 --experts 128 --experts-used 8 --embd 2048 --ff 768 \
        --type Q4_K --vocab 152000
}
