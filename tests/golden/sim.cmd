# A trace of two layers, in which the second layer always uses the same experts.
cat >trace.jsonl <<'EOF'
{"model": "tiny\u001b[31m", "n_layer": 2, "n_expert": 8, "top_k": 2}
{"tok": 7, "phase": "prefill", "pass": 0, "layers": [[0, 1], []]}
{"tok": 8, "phase": "prefill", "pass": 0, "layers": [[0, 2], [4, 5]]}
{"tok": 1, "phase": "decode", "layers": [[0, 1], [4, 5]]}
{"tok": 2, "phase": "decode", "layers": [[2, 3], [5, 4]]}
{"tok": 3, "phase": "decode", "layers": [[0, 1], [4, 5]]}
{"tok": 4, "phase": "decode", "layers": [[2, 3], [5, 4]]}
EOF
forebay sim 2x8,2,1M --trace trace.jsonl --slots 2 --warm-up 0
echo "== prefill, compute time, another disk, a budget"
forebay sim 2x8,2,1M --trace trace.jsonl --mem 8M --warm-up 1 --prefill --compute 5 --disk 500MB/s \
    --policy lfu
echo "== one pool"
forebay sim 2x8,2,1M --trace trace.jsonl --mem 5M --warm-up 0
echo "== a device"
forebay sim 2x8,2,1M --trace trace.jsonl --slots 3 --warm-up 0 --device-mem 9M \
    --upload 10G --prefill
forebay sim 2x8,2,1M --trace trace.jsonl --slots 3 --warm-up 0 --device-slots 2 --json
echo "== JSON"
forebay sim 2x8,2,1M --trace trace.jsonl --slots 3 --warm-up 0 --json
