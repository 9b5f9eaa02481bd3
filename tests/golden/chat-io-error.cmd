# A failed read removes the message, not the conversation: later messages are answered as if it had
# not been sent.
CHAT="forebay chat $FABLE --weights-mem 2500K -t 1 --temp 0 -q -n 24"
printf 'And then?\nAnd then?\n' | $CHAT >want
printf 'Once upon a time\nAnd then?\nAnd then?\n' |
    $CHAT --io fault:sync,eio_at=200 --lookahead 0 >got
echo "exit code $?"
tail -n +2 got | cmp - want && echo equal
