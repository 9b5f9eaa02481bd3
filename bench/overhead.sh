#!/usr/bin/env bash
# overhead.sh - the cost of Forebay for a model that fits.
#
#   bench/overhead.sh [PART...]    default: fits stored profile
#
#   fits          loading, prompt and decoding, alternating with llama.cpp; all of the model is in
#                 slots and resident weights (100 % hits), repacked like llama.cpp's
#   stored        the same with weights as stored, in both programs
#   profile       samples of the decoding thread in this case, if there is a perf
#
# Parts can be run one by one. The model is that of peer.sh; KEEP=1 keeps it for both scripts.
# Environment: ROUNDS (3). Takes 5 minutes, 5 GB of disk and 6 GB of memory.
cd "$(dirname "$0")/.." || exit 1
. bench/lib.sh
[ $# -gt 0 ] || set -- fits stored profile
rounds=${ROUNDS:-3}
peer_model

versus() { # OPTIONS...
    bench peer -- --vs llama.cpp -n 64 --prompt-tokens 128 --rounds "$rounds" "$@"
    printf '\n%s\n\n' "$part"
    echo "|  | Forebay | llama.cpp | Forebay / llama.cpp |"
    echo "| --- | --- | --- | --- |"
    local what
    for what in load_s first_token_s prompt_tok_per_s decode_tok_per_s; do
        figure {forebay,llama.cpp,forebay_over_llama.cpp}."$what".{median,min,max} |
            awk -F'\t' -v what="$what" '{
                printf "| `%s` | %.2f (%.2f to %.2f) | %.2f (%.2f to %.2f) |" \
                    " %.3f (%.3f to %.3f) |\n", \
                    what, $1, $2, $3, $4, $5, $6, $7, $8, $9
            }'
    done
    figure forebay.{hit_rate,token_s,token_scheduler_s,token_unpack_s}.median |
        awk -F'\t' '$1 > 0 {
            printf "\nhits %.2f %%; of a token'\''s %.2f ms the scheduler takes %.2f %%," \
                " unpacking %.2f %%\n", \
                $1 * 100, $2 * 1e3, $3 / $2 * 100, $4 / $2 * 100
        }'
}

# Samples the decoding thread for five seconds, after it has printed the first tokens.
profile() {
    printf '\nprofile: samples of the decoding thread, by library\n\n'
    if ! command -v perf >/dev/null; then
        echo "perf is missing. On Debian, install linux-perf."
        return
    fi
    # shellcheck disable=SC2016 # the inner shell expands them
    ${BENCH_TURN:-} bash -c '
        out=$1; shift
        "$@" >"$out/ids" & run=$!
        until [ "$(wc -l <"$out/ids")" -gt 8 ]; do sleep 0.2; done
        perf record -q -e cpu-clock -F 997 -t "$run" -o "$out/perf.data" -- sleep 5 >/dev/null
        kill "$run"; wait "$run" || true' - \
        "$dir" "$forebay" run "$dir/peer.gguf" -q --ids --tokens 1,2 -n 100000 --ignore-eos -c 8192
    perf report -i "$dir/perf.data" --sort dso --stdio 2>/dev/null | grep -E '^ +[0-9]' | head -n 8
    printf '\nthe ten functions of forebay itself with the most samples\n\n'
    perf report -i "$dir/perf.data" --dso forebay --sort symbol --stdio 2>/dev/null |
        grep -E '^ +[0-9]' | head -n 10
}

for part in "$@"; do
    case $part in
    fits) versus ;;
    stored) versus --no-repack ;;
    profile) profile ;;
    *) usage; exit 2 ;;
    esac
done
drop peer
