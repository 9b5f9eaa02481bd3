# Ctrl-C: the tokens generated so far, the statistics and the report are complete; nothing else.
. "$GOLDEN/small.sh"
small m.gguf
forebay run m.gguf $SMALL -n 100000 --ctx 200000 --ids --io fault:sync,late_ms=1 \
    --stats stats.json >ids &
while [ ! -s ids ] && kill -0 $!; do sleep 0.05; done
kill -INT $!
wait $!
echo "exit code $?"
[ "$(wc -l <ids)" -gt 0 ] && [ "$(tail -c 1 ids | wc -l)" = 1 ] &&
    grep -c generated_tokens stats.json
