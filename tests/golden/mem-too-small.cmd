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
# One number: in every refusal and in plans, for run and plan, whatever --mem is.
least() { sed -n 's/.*at least --mem \([0-9]*\)M.*/\1/p;s/.*smallest budget.* \([0-9]*\) MiB/\1/p'; }
small large.gguf --layers 12 --ff 1024 --vocab 20000
for options in "" "--no-repack" "--ctx 100" "--batch 32"; do
    n=$(forebay plan large.gguf $options --mem 1M -q 2>&1 | least)
    for mem in 10 $((n - 1)) "$n" $((n + 50)); do
        forebay plan large.gguf $options --mem "${mem}M" -q 2>&1 | least
    done >numbers
    forebay run large.gguf $options --tokens 1 -q --mem 10M 2>&1 | least >>numbers
    [ "$(sort -u numbers)" = "$n" ] || echo "several numbers with '$options': $n" $(cat numbers)
    forebay run large.gguf $options --tokens 1,2 -n 2 -q --ids --mem "${n}M" | wc -l
done
