# The plan for a model that fits, one that is streamed, one that does not fit; the keys of its JSON.
. "$GOLDEN/small.sh"
small m.gguf
forebay plan m.gguf -t 1 -q --no-repack
echo "== streamed"
forebay plan m.gguf -t 1 -q --no-repack --weights-mem 1100K
echo "== a disk that is not there"
for disk in 1M 2M; do
    forebay plan m.gguf -t 1 -q --no-repack --weights-mem 1100K --disk "$disk" |
        sed -n 's/^limit: *\(.*\) a token takes \(.*\) of reading (.* at \(.*\)),.* computing.*/\1 \3/p'
done
echo "== too small"
forebay plan m.gguf -t 1 -q --mem 10M
echo "exit code $?"
enough=$(forebay plan m.gguf -t 1 -q --mem 10M 2>&1 | sed -n 's/.*at least --mem \([0-9]*M\).*/\1/p')
forebay plan m.gguf -t 1 -q --mem "$enough" >/dev/null && echo "$enough is enough" | sed 's/[0-9]*M/it/'
forebay plan m.gguf -t 1 -q --weights-mem 10K
echo "exit code $?"
echo "== as JSON"
forebay plan m.gguf -t 1 -q --weights-mem 1100K --json | sed -n 's/^ *"\([a-z0-9_]*\)":.*/\1/p' >keys
awk '!seen[$1]++' keys
echo "== what is planned is what is done"
value() { sed -n "s/.*\"$1\": \([0-9]*\),.*/\1/p" "$2" | head -n 1; }
forebay plan m.gguf -t 1 -q --weights-mem 1100K --json >plan.json
forebay run m.gguf $SMALL -n 4 --ids --stats stats.json | wc -l
[ "$(value resident_bytes plan.json)" = "$(value resident_bytes stats.json)" ] && echo "the same weights are resident"
