#!/usr/bin/env bash
# Golden tests of the command line.
#   tests/golden/run.sh PROGRAM [CASE...]     UPDATE=1: overwrite expected files that do not match
#
# A case is a set of files in this directory:
#   NAME.cmd      a shell script, run in an empty directory; `forebay` is PROGRAM
#                 first line `# needs: models`: skipped if $MODELS does not exist
#                 first line `# needs: disk`: runs in a directory on a real disk, not on tmpfs
#   NAME.stdout   expected output                NAME.stderr   the same (no file: not compared)
#   NAME.exit     expected exit code (no file: 0)
# In an expected file a line `~ REGEX` matches one whole line by an extended regular expression, and
# a line `...` matches any number of lines. Variables for cases: $MODELS (../shared/models), $FABLE
# (the model in models/), $GOLDEN (this directory); in the output their values are replaced by their
# names.
set -uo pipefail

GOLDEN=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
MODELS=${FOREBAY_SHARED:-$GOLDEN/../../../shared}/models
[ ! -d "$MODELS" ] || MODELS=$(cd "$MODELS" && pwd)
FABLE=$(cd "$GOLDEN/../../models" && pwd)/fable-moe.gguf
export GOLDEN MODELS FABLE

if [ ! -x "${1:-}" ]; then
    echo "usage: $0 PROGRAM [CASE...]" >&2
    exit 2
fi
program=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
shift
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
mkdir "$tmp/bin"
ln -s "$program" "$tmp/bin/forebay"
export PATH=$tmp/bin:$PATH LC_ALL=C FOREBAY_CACHE_DIR=/dev/null/none # no cache directory

# matches EXPECTED ACTUAL: succeeds if the files agree, patterns included
matches() {
    cmp -s "$1" "$2" && return 0
    grep -qE '^(~ |\.\.\.$)' "$1" || return 1
    awk '
        function same(want, got) {
            return want ~ /^~ / ? got ~ "^(" substr(want, 3) ")$" : want == got
        }
        FILENAME == ARGV[1] { want[++n] = $0; next }
        { got[++m] = $0 }
        END {
            for (i = j = 1; i <= n; i++) {
                if (want[i] == "...") {
                    if (i == n) exit 0
                    while (j <= m && !same(want[i + 1], got[j])) j++
                } else if (j > m || !same(want[i], got[j++])) {
                    exit 1
                }
            }
            exit j <= m
        }' "$1" "$2"
}

# compare NAME KIND: compares (or overwrites) one stream; prints the differences
compare() {
    local expected=$GOLDEN/$1.$2 actual=$tmp/$2
    if [ "${UPDATE:-0}" != 0 ] && { [ -e "$expected" ] || [ "$2" != stderr ]; }; then
        if [ ! -e "$expected" ] || ! matches "$expected" "$actual"; then
            cp "$actual" "$expected"
        fi
        return 0
    fi
    if [ ! -e "$expected" ]; then
        [ "$2" = stderr ] && return 0
        expected=/dev/null
    fi
    matches "$expected" "$actual" && return 0
    diff -u --label "$1.$2 (expected)" --label "$1.$2 (printed)" "$expected" "$actual" |
        sed 's/^/# /'
    return 1
}

# Replaces this machine's directories by the names of the variables.
named() {
    sed "s|$FABLE|\\\$FABLE|g; s|$MODELS|\\\$MODELS|g; s|$GOLDEN|\\\$GOLDEN|g"
}

# run_case NUMBER NAME: prints one TAP line
run_case() {
    local number=$1 name=$2 needs work rc want ok=1
    needs=$(sed -n '1s/^# needs: //p' "$GOLDEN/$name.cmd")
    if [ "$needs" = models ] && [ ! -d "$MODELS" ]; then
        echo "ok $number # SKIP $name (no $MODELS)"
        return 0
    fi
    work=$tmp/work
    [ "$needs" != disk ] || work=$(dirname "$program")/golden.work
    rm -rf "$work"
    mkdir "$work"
    (cd "$work" && exec bash "$GOLDEN/$name.cmd") </dev/null >"$tmp/out" 2>"$tmp/err"
    rc=$?
    named <"$tmp/out" >"$tmp/stdout"
    named <"$tmp/err" >"$tmp/stderr"
    rm -rf "$work"

    if [ "${UPDATE:-0}" != 0 ]; then
        rm -f "$GOLDEN/$name.exit"
        [ $rc = 0 ] || echo $rc >"$GOLDEN/$name.exit"
    fi
    want=$(cat "$GOLDEN/$name.exit" 2>/dev/null || echo 0)
    if [ "$rc" != "$want" ]; then
        ok=0
        echo "# $name: exit code $rc, expected $want"
        sed 's/^/#   stderr: /' "$tmp/stderr" | head -n 20
    fi
    compare "$name" stdout || ok=0
    compare "$name" stderr || ok=0
    if [ $ok = 1 ]; then
        echo "ok $number - $name"
    else
        echo "not ok $number - $name"
        return 1
    fi
}

if [ $# -eq 0 ]; then
    cd "$GOLDEN" || exit 1
    set -- *.cmd
    [ -e "$1" ] || set --
fi
echo "1..$#"
number=0
failed=0
for case in "$@"; do
    number=$((number + 1))
    run_case $number "${case%.cmd}" || failed=1
done
exit $failed
