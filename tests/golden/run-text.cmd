# needs: models
# The same text from every model of the family, with budgets from all of it to the minimum.
for model in stories260K stories260K-moe8 stories260K-moe64 stories260K-moe4-slice \
    split/stories260K-moe8-00001-of-00003; do
    for size in 64M 2M 800K; do
        strata run "$MODELS/$model.gguf" -p "Once upon a time" -n 40 -t 1 -q --weights-mem $size
    done
done | sort | uniq -c | sed 's/^ *//'
