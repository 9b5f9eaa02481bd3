# The same story from the model in models/ and from larger ones inflated from it, with budgets from
# the whole model to the minimum.
forebay synth inflate "$FABLE" --ff 64 -q -o wide.gguf
forebay synth inflate "$FABLE" --size 20M -q -o wider.gguf
for model in "$FABLE" wide.gguf wider.gguf; do
    for percent in 100 50 25 0; do
        bytes=$(($(wc -c <"$model") * percent / 100))
        least=$((700000 + $(wc -c <"$model") / 10))
        forebay run "$model" -p "Once upon a time" -n 60 -t 1 -q \
            --weights-mem $((bytes > least ? bytes : least))
    done
done | sort | uniq -c | sed 's/^ *//'
