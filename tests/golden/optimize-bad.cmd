# What forebay optimize refuses.
. "$GOLDEN/small.sh"
export FOREBAY_CACHE_DIR=/dev/null/none
forebay optimize nothing.gguf
forebay synth random -a qwen3 --layers 2 --embd 256 --heads 4 --ff 256 --vocab 300 -q -o dense.gguf
forebay optimize dense.gguf -q --no-repack
echo "exit code $?"
small m.gguf
forebay optimize m.gguf -q -o nowhere/x
echo "exit code $?"
forebay optimize m.gguf -q -o .
# What is there and no sidecar is neither replaced nor deleted.
cp m.gguf copy.gguf
forebay optimize m.gguf -q -o m.gguf
forebay optimize m.gguf -q --remove -o m.gguf
cmp m.gguf copy.gguf && echo "the model is as it was"
forebay optimize
# A file may not get so large: what was written is no harm, and the next run makes it.
(ulimit -f 100; trap '' XFSZ; forebay optimize m.gguf -q -t 1)
echo "exit code $?"
forebay run m.gguf $SMALL -n 2 --ids >ids && forebay optimize m.gguf -q -t 1 | sed 's/: .*//'
forebay run m.gguf $SMALL -n 2 --ids | cmp - ids && echo "the same tokens"
