# traces.sh - what the scripts that replay routing traces share. Source it first, without arguments:
# the script's own, trace files, become absolute paths (none: those in $FOREBAY_SHARED/traces), and
# the directory becomes the project's root. Sets $forebay.
# shellcheck shell=bash
set -eu
for trace in "$@"; do
    path=$(realpath -e "$trace")
    shift
    set -- "$@" "$path"
done
cd "$(dirname "$0")/.."
# shellcheck disable=SC2034 # for the script
forebay=build/release/forebay
[ $# -gt 0 ] || set -- "${FOREBAY_SHARED:-../shared}"/traces/*.jsonl
[ -r "$1" ] || {
    echo "$1 is missing. bench/README.md says what the benchmarks need." >&2
    exit 1
}

# field TRACE KEY: a number in the trace's head.
field() { head -n 1 "$1" | sed -n "s/.*\"$2\": *\([0-9]*\).*/\1/p"; }
