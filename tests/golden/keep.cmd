# Files in the cache directory: used by the next plan; damaged ones are replaced.
. "$GOLDEN/small.sh"
export FOREBAY_CACHE_DIR=$PWD/cache
small m.gguf
forebay run m.gguf $SMALL -n 20 --ignore-eos --ids >ids
ls cache
history=$(ls cache/models/*.json)
forebay plan m.gguf -t 1 -q --weights-mem 1100K | grep "earlier run"
echo "== damaged"
head -c 100 "$history" >half && cp half "$history"
head -c 100 cache/profile.json >half && cp half cache/profile.json
forebay run m.gguf $SMALL -v -n 20 --ignore-eos --ids 2>log | cmp - ids && echo "the run works"
grep -h -e "cache/profile" -e warning: log |
    sed "s|$PWD/||; s/[0-9a-f]\{16\}\\.json is/MODEL.json is/"
echo "== replaced by that run"
forebay run m.gguf $SMALL -n 20 --ignore-eos --ids | cmp - ids && echo "the run works"
echo "== not a file"
rm cache/profile.json "$history"
mkdir cache/profile.json "$history"
forebay run m.gguf $SMALL -n 20 --ignore-eos --ids | cmp - ids && echo "the run works"
