# Errors of forebay optimize.
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
# An existing file that is not a sidecar is neither replaced nor deleted.
cp m.gguf copy.gguf
forebay optimize m.gguf -q -o m.gguf
forebay optimize m.gguf -q --remove -o m.gguf
cmp m.gguf copy.gguf && echo "the model is unchanged"
forebay optimize
# A file size limit: the partial file does no harm, and the next run completes it.
(ulimit -f 100; trap '' XFSZ; forebay optimize m.gguf -q -t 1)
echo "exit code $?"
forebay run m.gguf $SMALL -n 2 --ids >ids && forebay optimize m.gguf -q -t 1 | sed 's/: .*//'
forebay run m.gguf $SMALL -n 2 --ids | cmp - ids && echo "the same tokens"
