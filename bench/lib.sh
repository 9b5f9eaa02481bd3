# lib.sh - what the scripts here share. Sourced after `cd` to the root of the project.
#
#   BENCH_DIR      where models and results go (default /tmp/forebay-bench)
#   FOREBAY_SHARED  traces and the limit tool (default ../shared)
#   OPTIMIZE       1: make a sidecar of each model (forebay optimize), for runs without --no-repack
#   BENCH_TURN     a command that runs each measurement when it is its turn (default: none)
#
# Limiting memory or the disk needs root (cgroups); measuring needs a quiet machine. Each script
# begins with nothing known of models and machine: what runs leave behind is kept in BENCH_DIR.
# shellcheck shell=bash
set -euo pipefail
dir=${BENCH_DIR:-/tmp/forebay-bench}
shared=${FOREBAY_SHARED:-../shared}
limit=$shared/tools/limit
forebay=build/release/forebay
mkdir -p "$dir"
export FOREBAY_CACHE_DIR=$dir/cache LC_ALL=C
rm -rf "$FOREBAY_CACHE_DIR"
[ -x "$forebay" ] || { echo "$forebay is missing: make build" >&2; exit 1; }

# usage: prints the comment on top of the script.
usage() { sed -n '2,/^[^#]/ { /^#/ s/^# \{0,1\}//p }' "bench/${0##*/}"; }

# model NAME SYNTH-ARGUMENTS...: makes $dir/NAME.gguf unless it is there. Its pages are written back,
# so that the page cache can forget them.
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

# percent_of NAME PERCENT: so much of the model's file, in bytes.
percent_of() { echo $(($(stat -c %s "$dir/$1.gguf") * $2 / 100)); }

# disk_rate FILE RATE: bytes per second that fio reads at random under that limit, in 4 MiB blocks
# of which 16 are open, for four seconds after two: throttling lets each burst through at first.
# `none`: no limit. Without fio: 0.
disk_rate() {
    local under=("$limit" -r "$2" -d "$1" --)
    [ "$2" != none ] || under=()
    if ! command -v fio >/dev/null; then
        echo 0
        return
    fi
    ${BENCH_TURN:-} "${under[@]}" fio --name=read --filename="$1" --readonly --rw=randread --bs=4M --direct=1 \
        --ioengine=io_uring --iodepth=16 --ramp_time=2 --runtime=4 --time_based --minimal 2>/dev/null |
        awk -F';' '{ printf "%.0f\n", $7 * 1024 }'
}

# at_rate RATE: sets `under` to the options of `bench` that limit the disk so. `none`: no limit.
at_rate() {
    under=(-r "$1")
    [ "$1" != none ] || under=()
}

# bench NAME [LIMIT-OPTION...] -- OPTIONS...: runs `forebay bench` on the model, under a limit if any
# are given; its figures go to $dir/figures, one per line.
bench() {
    local file=$dir/$1.gguf under=("$limit")
    shift
    while [ "$1" != -- ]; do
        under+=("$1")
        shift
    done
    shift
    [ ${#under[@]} -gt 1 ] && under+=(-d "$file" --) || under=()
    ${BENCH_TURN:-} "${under[@]}" "$forebay" bench "$file" -q --json "$@" >"$dir/bench.json" 2>"$dir/log" ||
        { cat "$dir/log" >&2; return 1; }
    awk -f bench/flatten.awk "$dir/bench.json" >"$dir/figures"
}

# figure NAME...: of the last bench; several on one line, separated by tabs.
figure() {
    awk -v names="$*" '
        { value[$1] = $2 }
        END {
            n = split(names, name, " ")
            for (i = 1; i <= n; i++) printf "%s%s", value[name[i]], i < n ? "\t" : "\n"
        }' "$dir/figures"
}

# peak: MiB, as the limit tool saw it in the last bench (with a memory limit only).
peak() { sed -n 's/^limit: peak \([0-9]*\) MiB.*/\1/p' "$dir/log"; }

# The model that Forebay is compared on with others: 4.7 GB, see peer.sh.
peer_model() {
    model peer random -a qwen3moe --layers 12 --experts 128 --experts-used 8 --embd 2048 --ff 768 \
        --type Q4_K --vocab 152000
}
