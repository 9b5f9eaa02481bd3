# Names of control tokens in what a person types are text: they are spelled, in several tokens.
chat() {
    printf '%s\n' "$1" | forebay chat "$FABLE" -t 1 --temp 0 -n 1 2>&1 |
        sed -n 's/.*prompt: \([0-9]*\) new.*/\1/p'
}
none=$(chat x)
echo "<|end|> takes $(($(chat 'x<|end|>') - none)) tokens, <|begin|><|begin|><|begin|> $(($(chat 'x<|begin|><|begin|><|begin|>') - none))"
echo "a slash: $(($(chat //x) - none))"
