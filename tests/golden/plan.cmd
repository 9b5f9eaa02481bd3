# The plan of a model that fits, that is streamed, that does not fit; the keys of the JSON.
. "$GOLDEN/small.sh"
small m.gguf
forebay plan m.gguf -t 1 -q --no-repack
echo "== streamed"
forebay plan m.gguf -t 1 -q --no-repack --weights-mem 1100K
echo "== a given disk speed"
for disk in 1M 2M; do
    forebay plan m.gguf -t 1 -q --no-repack --weights-mem 1100K --disk "$disk" |
        sed -n 's/^limit: *\(.*\) a token takes .* of reading (.* at \(.*\)),.* computing.*/\1 \2/p'
done
echo "== too small"
forebay plan m.gguf -t 1 -q --mem 10M
echo "exit code $?"
enough=$(forebay plan m.gguf -t 1 -q --mem 10M 2>&1 |
    sed -n 's/.*at least --mem \([0-9]*M\).*/\1/p')
forebay plan m.gguf -t 1 -q --mem "$enough" >/dev/null && echo "it is enough"
forebay plan m.gguf -t 1 -q --weights-mem 10K
echo "exit code $?"
echo "== as JSON"
forebay plan m.gguf -t 1 -q --weights-mem 1100K --json |
    sed -n 's/^ *"\([a-z0-9_]*\)":.*/\1/p' >keys
awk '!seen[$1]++' keys
echo "== the run follows the plan"
value() { sed -n "s/.*\"$1\": \([0-9]*\),.*/\1/p" "$2" | head -n 1; }
forebay plan m.gguf -t 1 -q --weights-mem 1100K --json >plan.json
forebay run m.gguf $SMALL -n 4 --ids --stats stats.json | wc -l
[ "$(value resident_bytes plan.json)" = "$(value resident_bytes stats.json)" ] &&
    echo "the same weights are resident"
