# A model that fits: nothing is read after loading, and the statistics show it.
. "$GOLDEN/small.sh"
small m.gguf
forebay run m.gguf --tokens 1,2,3 -n 4 -t 1 --ids --stats stats.json >ids
wc -l <ids
grep -E '"(read|demand_b|expert_requests|disk)' stats.json
forebay run m.gguf $SMALL -n 4 --ids | cmp - ids
