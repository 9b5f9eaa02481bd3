# The format of the output, and relations between figures; not the figures themselves.
. "$GOLDEN/small.sh"
small m.gguf
short="-t 1 -q --weights-mem 1100K --tokens 1,2,3 --prompt-tokens 8 -n 6 --warmup 2 --rounds 2"
forebay bench m.gguf $short --vs llama.cpp
echo "== alone"
forebay bench m.gguf $short --rounds 1
echo "== a model that fits"
forebay bench m.gguf -t 1 -q -p "once upon a time" -n 2 --rounds 1
echo "== progress"
forebay bench m.gguf -t 1 --weights-mem 1100K --prompt-tokens 4 -n 1 --rounds 1 --vs llama.cpp \
    2>&1 >/dev/null |
    sed 's/[0-9.]* \(tokens\/s\|s\)\>/N \1/g' | grep round
echo "== as JSON"
forebay bench m.gguf $short --vs llama.cpp --json >b.json
awk -f "$GOLDEN/../../bench/flatten.awk" b.json >flat
awk '{ sub(/\.[0-9]+/, ".N"); sub(/\.(median|min|max)/, "") }
    !/runs/ && !seen[$1]++ { print $1 }' flat
awk '
    function check(ok, what) { if (!ok) print "wrong: " what }
    { v[$1] = $2; if (sub(/\.median$/, "", $1)) spread[$1] }
    END {
        for (name in spread)
            check(v[name ".min"] <= v[name ".median"] && v[name ".median"] <= v[name ".max"], name)
        for (i = 0; i < 2; i++) {
            run = "forebay.runs." i "."
            parts = v[run "token_demand_stall_s"] + v[run "token_prefetch_stall_s"] + \
                v[run "token_unpack_s"] + v[run "token_scheduler_s"] + v[run "token_compute_s"]
            check(v[run "token_s"] > 0 && (parts / v[run "token_s"] - 1) ^ 2 < 1e-6, run "token_s")
            check(v[run "tokens"] == 6, run "tokens")
        }
        check(v["forebay.hit_rate.median"] > 0 && v["forebay.hit_rate.median"] < 1, "hit_rate")
        check(v["forebay.token_read_bytes.median"] > 0, "token_read_bytes")
        check(v["fits"] == "false" && v["prompt_tokens"] == 8, "fits")
        check(v["forebay_over_llama.cpp.compared_tokens"] == 9, "compared_tokens")
    }' flat
echo "== generating stops at the time limit"
forebay bench m.gguf $short --rounds 1 --seconds 0 -n 5000 -c 8192 --json |
    awk -f "$GOLDEN/../../bench/flatten.awk" | grep runs.0.tokens
