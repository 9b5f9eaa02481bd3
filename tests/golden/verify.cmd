# Identical; different if one read is corrupted.
. "$GOLDEN/small.sh"
small m.gguf
forebay verify m.gguf $SMALL -n 6
forebay verify m.gguf $SMALL -n 6 -b 2 --no-repack
forebay verify m.gguf $SMALL -n 6 --io fault:sync,corrupt_at=20
echo "exit code $?"
# The same in passes like the server's: experts, then dense weights; large passes, and passes
# smaller than the number of sequences. Corrupted: a read for a prompt, and one while generating.
parallel() {
    forebay verify "$@" -t 1 -q --tokens 1,2,3,4,5,6,7 -n 6 --parallel 4
    echo "exit code $?"
}
parallel m.gguf --weights-mem 1100K
parallel m.gguf --weights-mem 1100K -b 2
parallel m.gguf --weights-mem 1100K --io fault:sync,corrupt_at=20
parallel m.gguf --weights-mem 1100K --io fault:sync,corrupt_at=100
forebay synth random -a llama --layers 3 --embd 256 --heads 4 --ff 512 --vocab 300 -q -o d.gguf
parallel d.gguf --weights-mem 500K
parallel d.gguf --weights-mem 500K -b 5 --temp 1
parallel d.gguf --weights-mem 500K --io fault:sync,corrupt_at=20
