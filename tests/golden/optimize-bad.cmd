# What strata optimize refuses.
. "$GOLDEN/small.sh"
export STRATA_CACHE_DIR=/dev/null/none
strata optimize nothing.gguf
strata synth random -a qwen3 --layers 2 --embd 256 --heads 4 --ff 256 --vocab 300 -q -o dense.gguf
strata optimize dense.gguf -q --no-repack
echo "exit code $?"
small m.gguf
strata optimize m.gguf -q -o nowhere/x
echo "exit code $?"
strata optimize m.gguf -q -o .
# What is there and no sidecar is neither replaced nor deleted.
cp m.gguf copy.gguf
strata optimize m.gguf -q -o m.gguf
strata optimize m.gguf -q --remove -o m.gguf
cmp m.gguf copy.gguf && echo "the model is as it was"
strata optimize
# A file may not get so large: what was written is no harm, and the next run makes it.
(ulimit -f 100; trap '' XFSZ; strata optimize m.gguf -q -t 1)
echo "exit code $?"
strata run m.gguf $SMALL -n 2 --ids >ids && strata optimize m.gguf -q -t 1 | sed 's/: .*//'
strata run m.gguf $SMALL -n 2 --ids | cmp - ids && echo "the same tokens"
