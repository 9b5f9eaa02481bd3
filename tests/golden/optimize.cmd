# A sidecar: written, used, ignored if it does not match the model or is damaged, removed.
. "$GOLDEN/small.sh"
export FOREBAY_CACHE_DIR=$PWD/cache
small m.gguf
forebay run m.gguf $SMALL -n 8 --ids >ids
forebay optimize m.gguf -q -t 1 | sed 's/: .*//'
forebay optimize m.gguf -q -t 1
forebay plan m.gguf -q -t 1 --weights-mem 1100K --json | grep -c '"sidecar_bytes": [1-9]'
forebay run m.gguf $SMALL -n 8 --ids | cmp - ids && echo "the same tokens"
forebay verify m.gguf $SMALL -n 4
echo "== another layout"
forebay run m.gguf $SMALL -n 1 --ids --no-repack 2>&1 >/dev/null
echo "== a damaged record"
tail -c 100000 m.gguf.forebay | tr '\0-\377' '\1-\377\0' >tail
head -c -100000 m.gguf.forebay >head
cat head tail >m.gguf.forebay
forebay run m.gguf $SMALL -n 8 --ids 2>log | cmp - ids && echo "the same tokens"
sed 's/unit [0-9]* of [a-z0-9._]*/unit N of TENSOR/' log
forebay optimize m.gguf -q -t 1 | sed 's/: .*//'
forebay run m.gguf $SMALL -n 8 --ids | cmp - ids && echo "repaired"
echo "== truncated"
head -c 50000 head >m.gguf.forebay
forebay run m.gguf $SMALL -n 8 --ids 2>log | cmp - ids && echo "the same tokens"
cat log
echo "== a model with another time"
forebay optimize m.gguf -q -t 1 >log
touch -d "2001-02-03 04:05:06" m.gguf
forebay run m.gguf $SMALL -n 8 --ids 2>log | cmp - ids && echo "the same tokens"
cat log
echo "== another path"
forebay optimize m.gguf -q -t 1 -o mine | sed 's/: .*//'
forebay run m.gguf $SMALL -n 8 --ids --sidecar mine | cmp - ids && echo "the same tokens"
forebay run m.gguf $SMALL -n 8 --ids --sidecar none | cmp - ids && echo "the same tokens"
forebay run m.gguf $SMALL -n 1 --sidecar nowhere
echo "== removed"
forebay optimize m.gguf -o mine --remove
forebay optimize m.gguf --remove
forebay optimize m.gguf --remove
ls
