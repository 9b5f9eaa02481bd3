# No output replaces a file that is read, a model, or another output; links are followed; devices and
# pipes are written to.
. "$GOLDEN/small.sh"
small m.gguf
small split.gguf --split-max-size 1M
part=$(ls split-*-of-*.gguf | tail -n 1)
printf '1 2 3' >prompt.txt
ln m.gguf hard
ln -s m.gguf soft
mkdir dir
ln -s ../m.gguf dir/soft
cat m.gguf split-*.gguf prompt.txt >before
try() {
    echo "== $*" >&2
    forebay "$@"
    echo "exit code $?" >&2
}
run() { try run m.gguf $SMALL -n 1 --ids "$@"; }
for name in m.gguf ./m.gguf hard soft dir/soft; do
    run --stats $name
    run --trace-out $name
done
try run "split-00001-of-${part#*-of-}" $SMALL --stats "$part"
try verify m.gguf $SMALL -n 1 --stats split-00001-of-"${part#*-of-}"
forebay optimize m.gguf -q -t 1 -o side >/dev/null
run --sidecar side --stats side
try run m.gguf -q -n 1 -f prompt.txt --stats prompt.txt
try run m.gguf -q -n 1 -f dir/../prompt.txt --trace-out prompt.txt
run --stats new --trace-out new
ln -s new link
run --stats new --trace-out link
run --stats dir
run --stats none/new
run --stats new/
printf '/save m.gguf\n/save soft\n/save dir\n' | forebay chat "$FABLE" -q -t 1
echo "exit code $?" >&2
printf '/save side\n/save link\n' | forebay chat "$FABLE" -q -t 1
[ -L link ] && grep -c messages new
rm new
echo "== a dangling link is written through, and stays if the run fails" >&2
run --io nonsense --stats link
[ -L link ] && [ ! -e new ] && echo "the link is there"
run --stats link
[ -L link ] && grep -c load_s new
echo "== devices and pipes" >&2
run --stats /dev/null --trace-out /dev/null
mkfifo pipe
grep -c load_s pipe &
run --stats pipe
wait
forebay run m.gguf $SMALL -n 1 --ids --stats /dev/stdout >both
wc -l <both
echo "== a failed write leaves the old file" >&2
echo old >stats.json
printed=$(ulimit -f 0; trap '' XFSZ; run --stats stats.json 2>&1)
echo "$printed"
cat stats.json
echo "== synth" >&2
synth() { try synth "$@" -q; }
printf '%s\n' '{"n_layer": 2, "n_expert": 8, "top_k": 2}' \
    '{"phase": "decode", "layers": [[0, 1], [2, 3]]}' >trace
ln -s trace link-to-trace
synth replay trace -o trace
synth replay trace -o link-to-trace
cp "$FABLE" fable.gguf
synth inflate fable.gguf -o fable.gguf
synth inflate ./fable.gguf -o dir/../fable.gguf
cmp fable.gguf "$FABLE"
synth inflate "$FABLE" --split-max-size 1M -o fable.gguf
first=$(echo fable-00001-of-*.gguf)
sum=$(cksum <"$first")
synth inflate "$first" --split-max-size 1M -o fable.gguf
[ "$sum" = "$(cksum <"$first")" ] && echo "the parts are unchanged"
echo mine >x.gguf.tmp
ln -s x.gguf to-x
synth random -a llama --layers 1 --embd 256 --vocab 300 -o to-x
[ -L to-x ] && cat x.gguf.tmp && forebay inspect x.gguf | head -n 1
echo "== optimize" >&2
optimize() { try optimize m.gguf -q -t 1 "$@"; }
echo mine >x.partial
echo mine >m.gguf.forebay.partial
optimize -o x
optimize --remove -o x
optimize
optimize --remove
cat x.partial m.gguf.forebay.partial
mv m.gguf.forebay.partial m.gguf.forebay
optimize
optimize --remove
cat m.gguf.forebay
rm m.gguf.forebay
: >m.gguf.forebay.partial
optimize | sed 's/: .*//'
ln -s target to-side
optimize -o to-side | sed 's/: .*//'
[ -L to-side ] && ls target
cat m.gguf split-*.gguf prompt.txt | cmp - before && echo "all inputs are unchanged"
ls | grep -v '^fable-\|^split-'
