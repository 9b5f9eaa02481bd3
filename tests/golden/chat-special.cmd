# Names of control tokens in a message are text of several tokens, not control tokens.
chat() {
    printf '%s\n' "$1" | forebay chat "$FABLE" -t 1 --temp 0 -n 1 2>&1 |
        sed -n 's/.*prompt: \([0-9]*\) new.*/\1/p'
}
none=$(chat x)
begins='<|begin|><|begin|><|begin|>'
echo "<|end|> takes $(($(chat 'x<|end|>') - none)) tokens, $begins $(($(chat "x$begins") - none))"
echo "a slash: $(($(chat //x) - none))"
