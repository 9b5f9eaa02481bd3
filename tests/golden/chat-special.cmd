# needs: models
# Names of control tokens in what a person types are text: they are spelled, in several tokens.
chat() {
    printf '%s\n' "$1" | strata chat "$MODELS/stories260K-moe8.gguf" -t 1 --temp 0 -n 1 2>&1 |
        sed -n 's/.*prompt: \([0-9]*\) new.*/\1/p'
}
none=$(chat x)
echo "</s> takes $(($(chat 'x</s>') - none)) tokens, <s><s><s> $(($(chat 'x<s><s><s>') - none))"
echo "a slash: $(($(chat //x) - none))"
