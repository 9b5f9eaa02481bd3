# Usage errors (exit code 2), damaged traces and models (exit code 1).
. "$GOLDEN/small.sh"
small m.gguf
forebay synth random -a llama --layers 2 --embd 256 --vocab 300 -q -o dense.gguf
try() {
    echo "== $*" >&2
    forebay sim "$@"
    echo "exit code $?" >&2
}
header='{"n_layer": 2, "n_expert": 8, "top_k": 2}'
printf '%s\n' "$header" '{"phase": "decode", "layers": [[0, 1], [2, 3]]}' >good
printf '%s\n' '{"n_layer": 3, "n_expert": 8, "top_k": 2}' \
    '{"phase": "decode", "layers": [[0, 1], [2, 3], [4, 5]]}' >three-layers
: >empty
printf '%s\n' "$header" >no-token
printf '%s\n' "$header" '{"phase": "decode", "layers": [[0, 1], [2' >cut
printf '%s\n' "$header" '{"phase": "decode", "layers": [[0, 1], [2, 8]]}' >wrong-id
printf '%s\n' "$header" '{"phase": "decode", "layers": [[0, 1], []]}' >missing-layer
printf '%s\n' '{"n_layer": 99999999999999999999, "n_expert": 8, "top_k": 2}' >huge-header
printf '%s\n' "$header" '{"phase": "decode", "layers": [[0, 1], [2, 1e400]]}' >huge-id
for trace in empty no-token cut wrong-id missing-layer huge-header huge-id missing . /dev/zero; do
    try 2x8,2,1M --trace $trace --slots 2
done
try
try 2x8,2,1M --slots 2
try 2x8,2,1M --trace good
try 2x8,2,1M --trace good --slots 2 --mem 1G
try 2x8,2,1M --trace good --slots 2 --disk fast
try 2x8,2,1M --trace good --slots 2 --policy newest
try 2x8,2,1M --trace good --slots 1
try 2x8,2,1M --trace good --mem 1M
try 2x8,2,1M --trace good --slots 2 --device-mem 8M --device-slots 2
try 2x8,2,1M --trace good --slots 2 --device-mem 3M
try 2x8,2,1M --trace good --slots 2 --device-slots 2 --lookahead 1
try 2x8,2 --trace good --slots 2
try 2x8,1,1M --trace good --slots 2
try 2x8,2,1M --trace good --slots 2 --warm-up 1
try 2x8,2,1M --trace three-layers --slots 2
try m.gguf --trace three-layers --slots 2
try dense.gguf --trace good --slots 2
try good --trace good --slots 2
try nothing.gguf --trace good --slots 2
try m.gguf --trace good --slots 2 --warm-up 0 >/dev/full
