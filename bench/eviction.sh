#!/usr/bin/env bash
# eviction.sh - eviction policies on routing traces, between LRU and Belady's optimum.
#
#   bench/eviction.sh [TRACE...]        default: the traces in $FOREBAY_SHARED (../shared)
#
# Replays each trace with `forebay sim` (the cache and stream code that runs models) with the same
# number of slots in every layer, for 6 to 50 % of the experts. `way` is the share of the difference
# between LRU's and the optimum's misses that a policy saves. Where this difference is under half a
# per cent of the requests, there is nothing to gain, and the line does not count in the averages.
# The optimum does not move slots between layers; `echo` may. Takes seconds and reads no weights.
# EVICTION_OPTIONS (such as `--prefill`) are passed to `forebay sim`. Writes a plot to $EVICTION_SVG
# (default build/eviction.svg).
# shellcheck source=bench/traces.sh
. "$(dirname "$0")/traces.sh"
svg=${EVICTION_SVG:-build/eviction.svg}

# sim TRACE SHAPE SLOTS POLICY: prints requests, misses, misses of the optimum.
sim() {
    # shellcheck disable=SC2086
    "$forebay" sim "$2" --trace "$1" --slots "$3" --policy "$4" ${EVICTION_OPTIONS:-} --json |
        awk -F'[:,]' '/"optimum": {/ { best = 1 } /"warm_up": {/ { exit }
            /"expert_requests"/ { n = $2 } /"expert_hits"/ { hits[best + 0] = $2 }
            END { print n, n - hits[0], n - hits[1] }'
}

for trace in "$@"; do
    experts=$(field "$trace" n_expert) used=$(field "$trace" top_k)
    shape="$(field "$trace" n_layer)x$experts,$used,1M"
    for percent in 6 9 12 18 25 35 50; do
        slots=$(((experts * percent + 50) / 100))
        [ "$slots" -ge "$used" ] || continue
        read -r n lru best < <(sim "$trace" "$shape" "$slots" lru)
        read -r _ lfu _ < <(sim "$trace" "$shape" "$slots" lfu)
        read -r _ echo _ < <(sim "$trace" "$shape" "$slots" echo)
        echo "$(basename "$trace" .jsonl) $percent $slots $n $lru $lfu $echo $best"
    done
done | awk -v svg="$svg" '
    function way(misses) { return 100 * ($5 - misses) / ($5 - $8) }
    function x(percent) { return 60 + (col * 300) + percent * 4.8 }
    function y(rate) { return 260 - rate * 3.4 }
    function curve(name, color,    i, points) { # of the current trace
        for (i = 1; i <= rows; i++)
            points = points sprintf("%.1f,%.1f ", x(at[i]), y(rate[name, i]))
        printf "<polyline points=\"%s\" fill=\"none\" stroke=\"%s\" stroke-width=\"2\"/>\n",
            points, color >svg
    }
    function label(px, py, text) { printf "<text x=\"%d\" y=\"%d\">%s</text>\n", px, py, text >svg }
    function close_trace(    i) {
        if (counted)
            printf "%-28s %8s %33.1f %14.1f\n\n", "", "average", lfu_sum / counted,
                echo_sum / counted
        if (counted) {
            traces++
            lfu_all += lfu_sum / counted
            echo_all += echo_sum / counted
        }
        label(x(0), 22, trace)
        for (i = 0; i <= 60; i += 20) {
            printf "<path d=\"M%d %dH%d\" stroke=\"#ddd\"/>\n", x(0), y(i), x(50) >svg
            label(x(0) - 22, y(i) + 4, i)
        }
        for (i = 10; i <= 50; i += 20) label(x(i) - 6, 278, i)
        curve("lru", "#888"); curve("lfu", "#c80"); curve("echo", "#06c"); curve("best", "#292")
        col++; rows = counted = lfu_sum = echo_sum = 0
    }
    BEGIN {
        print "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 960 320\"" \
            " font-family=\"sans-serif\" font-size=\"11\">" >svg
        print "<rect width=\"960\" height=\"320\" fill=\"#fff\"/>" >svg
        label(60, 304, "misses in % of requests, by slots in % of experts:" \
            " LRU grey, LFU orange, echo blue, optimum green")
        printf "%-28s %8s %8s %8s %6s %8s %6s %8s\n", "trace", "slots", "lru", "lfu", "way",
            "echo", "way", "optimum"
    }
    $1 != trace { if (trace) close_trace(); trace = $1 }
    {
        rows++; at[rows] = $2
        rate["lru", rows] = 100 * $5 / $4; rate["lfu", rows] = 100 * $6 / $4
        rate["echo", rows] = 100 * $7 / $4; rate["best", rows] = 100 * $8 / $4
        if ($5 - $8 >= $4 / 200) {
            counted++; lfu_sum += way($6); echo_sum += way($7)
            lfu_way = sprintf("%.1f", way($6)); echo_way = sprintf("%.1f", way($7))
        } else
            lfu_way = echo_way = "-"
        printf "%-28s %3d %2d %% %7.1f %% %6.1f %% %6s %6.1f %% %6s %6.1f %%\n", $1, $3, $2,
            100 * $5 / $4, 100 * $6 / $4, lfu_way, 100 * $7 / $4, echo_way, 100 * $8 / $4
    }
    END {
        close_trace()
        print "</svg>" >svg
        if (traces)
            printf "share of the optimum\047s savings, average of %d traces: lfu %.1f %%," \
                " echo %.1f %%\n", traces, lfu_all / traces, echo_all / traces
    }'
echo "plot: $svg"
