# Ctrl-C ends an answer, and the conversation continues; without an answer it ends a script's chat.
mkfifo in
forebay chat "$FABLE" --weights-mem 2500K -t 1 --temp 0 --io fault:sync,late_ms=2 \
    <in >out 2>err &
exec 3>in
echo "Once upon a time" >&3
while [ ! -s out ] && kill -0 $!; do sleep 0.05; done
kill -INT $!
while ! grep -q '^\[' err && kill -0 $!; do sleep 0.05; done
grep -o '^\[stopped; ' err
echo "/save talk.json" >&3
while [ ! -s talk.json ] && kill -0 $!; do sleep 0.05; done
grep -c '"role": "assistant"' talk.json
sleep 0.1
kill -INT $!
wait $!
echo "exit code $?"
