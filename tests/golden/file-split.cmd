# A split model runs like a single file; with a part missing or truncated it does not.
. "$GOLDEN/small.sh"
small m.gguf
small s.gguf --split-max-size 500K
small other.gguf --split-max-size 500K --seed 1
first=$(ls s-00001-of-*)
second=$(ls s-00002-of-*)
try() {
    forebay run "$1" $SMALL -n 8 --ids
    echo "exit code $?" >&2
}
try m.gguf >ids
try "$first" | cmp - ids
try "$second"
mv "$second" kept
try "$first"
head -c 5000 kept >"$second"
try "$first"
