# The trace of a run: equal for all budgets; whole lines after Ctrl-C and after SIGKILL.
. "$GOLDEN/small.sh"
small m.gguf
try() {
    echo "== $*"
    forebay run m.gguf -t 1 -q --ids --tokens 1,2,3 "$@" 2>&1 >/dev/null
    echo "exit code $?"
}
try -n 8 --ignore-eos -b 2 --weights-mem 1100K --trace-out a.jsonl
try -n 8 --ignore-eos -b 2 --weights-mem 1600K --trace-out b.jsonl
cmp a.jsonl b.jsonl && head -n 5 a.jsonl | sed 's/[0-9][0-9]*/N/g' && wc -l <a.jsonl
forebay sim m.gguf --trace a.jsonl --slots 4 | head -n 3
forebay synth replay a.jsonl --embd 256 -q -o replay.gguf && echo replayed
try -n 4 --trace-out fits.jsonl
try -n 4 --weights-mem 1100K --trace-out missing/a.jsonl
try -n 4 --weights-mem 1100K --trace-out /dev/full
forebay synth random -a llama --layers 2 --embd 256 --vocab 300 -q -o dense.gguf
forebay run dense.gguf -t 1 -q --tokens 1 --weights-mem 800K --trace-out dense.jsonl
echo "exit code $?"
for signal in INT KILL; do
    rm -f c.jsonl
    : >ids # the loop below must not count those of the last round
    forebay run m.gguf $SMALL -n 100000 --ctx 200000 --ignore-eos --ids --trace-out c.jsonl \
        >ids 2>/dev/null &
    while [ "$(wc -l <ids)" -lt 20 ] && kill -0 $!; do sleep 0.05; done
    kill -$signal $!
    wait $! 2>/dev/null
    echo "exit code $?"
    [ "$(tail -c 1 c.jsonl | wc -l)" = 1 ] &&
        forebay sim m.gguf --trace c.jsonl --slots 2 | head -n 2
done
verify_has_none() { forebay verify m.gguf --trace-out x 2>&1 | head -n 1; }
verify_has_none
ls *.jsonl
