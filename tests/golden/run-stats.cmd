# needs: disk
# The statistics are complete and satisfy the invariants of docs/STATS.md.
report() {
    forebay run "$@" --tokens 1,2,3,4,5,6,7,8 -n 12 --ignore-eos -t 1 -q --ids \
        --stats stats.json | wc -l
    tr -d '",:' <stats.json
}
synth="forebay synth random --embd 256 --vocab 300 --layers 4 -q"
$synth -a qwen3moe --size 24M --experts 16 --experts-used 2 -o experts.gguf
$synth -a llama --size 24M -o dense.gguf
# Requests: two experts per token, in the last layer only for tokens whose logits are wanted.
report experts.gguf --weights-mem 12M | awk '
    NF == 2 { print $1; v[$1] = $2 }
    function check(ok, what) { if (!ok) print "wrong: " what " (" v[what] ")" }
    END {
        check(v["prompt_tokens"] == 8, "prompt_tokens")
        check(v["generated_tokens"] == 12, "generated_tokens")
        check(v["decode_tok_per_s"] > 0, "decode_tok_per_s")
        check(v["prompt_tok_per_s"] > 0, "prompt_tok_per_s")
        check(v["time_to_first_token_s"] > 0, "time_to_first_token_s")
        check(v["load_s"] > 0, "load_s")
        check(v["expert_requests"] == 2 * (8 * 3 + 1 + 11 * 4), "expert_requests")
        check(v["expert_hits"] > 0 && v["expert_hits"] < v["expert_requests"], "expert_hits")
        check((v["hit_rate"] - v["expert_hits"] / v["expert_requests"]) ^ 2 < 1e-8, "hit_rate")
        check(v["decode_read_bytes"] > 0, "decode_read_bytes")
        check(v["decode_read_bytes"] < v["read_bytes"], "read_bytes")
        check(v["demand_bytes"] + v["prefetch_bytes"] <= v["read_bytes"], "demand_bytes")
        check(v["prefetch_used_bytes"] <= v["prefetch_bytes"], "prefetch_used_bytes")
        check(v["prompt_s"] > 0 && v["decode_s"] > 0, "decode_s")
        check((v["demand_stall_s"] + v["prefetch_stall_s"] - v["stall_s"]) ^ 2 < 1e-8, "stall_s")
        check(v["scheduler_s"] > 0 && v["unpack_s"] > 0, "scheduler_s")
        check((v["stall_s"] + v["unpack_s"] + v["scheduler_s"] + v["compute_s"] \
            - v["prompt_s"] - v["decode_s"]) ^ 2 < 1e-8, "compute_s")
        check(v["disk_bytes_per_s"] > 0, "disk_bytes_per_s")
        check(v["disk_utilisation"] > 0, "disk_utilisation")
        check(v["roofline_ratio"] > 0, "roofline_ratio")
        check(v["peak_rss_bytes"] <= v["budget_bytes"], "peak_rss_bytes")
    }'
# A repacked layout may pad rows; then slightly fewer bytes are read than are resident.
echo "== loading reads the resident weights and little more"
report dense.gguf --weights-mem 16M | awk '
    { v[$1] = $2 }
    END {
        read = v["load_read_bytes"] / v["resident_bytes"]
        print (v["resident_bytes"] > 8e6 && read > 0.9 && read < 1.1 ? "ok" : "wrong: " read)
        print (v["expert_requests"] == 0 ? "no experts" : "wrong: expert_requests")
    }'
