# A budget that is too small: exit code 3; the budget in the hint is sufficient.
. "$GOLDEN/small.sh"
small m.gguf
forebay run m.gguf -t 1 --tokens 1,2,3 -n 2 -q --mem 10M
echo "exit code $?"
enough=$(forebay run m.gguf -t 1 --tokens 1,2,3 -n 2 -q --mem 10M 2>&1 |
    sed -n 's/.*at least --mem \([0-9]*M\).*/\1/p')
forebay run m.gguf -t 1 --tokens 1,2,3 -n 2 -q --mem "$enough" --ids | wc -l
forebay run m.gguf $SMALL --weights-mem 10K
echo "exit code $?"
# A context far beyond the budget is an error before its memory is allocated.
forebay run m.gguf -t 1 --tokens 1 -q --ctx 16000000 --mem 4G
echo "exit code $?"
