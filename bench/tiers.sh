#!/usr/bin/env bash
# tiers.sh - experts on three levels (slots of a GPU, RAM, disk), simulated with routing traces,
# next to whole layers on the GPU.
#
#   bench/tiers.sh [TRACE...]        default: the traces in $FOREBAY_SHARED (../shared)
#
# Replays each trace with `forebay sim` for a model of its shape with $EXPERTS GiB of experts (60):
# a device with 2, 4, 8 and 12 GiB for experts, and 8, 16 and 32 GiB of RAM for them. The columns:
#
#   slots       slots of each layer on the device, and their share of the layer's experts
#   device      requests that hit the device's slots
#   RAM         requests that hit RAM, of those that missed the device
#   both        requests that hit either
#   one cache   requests that would hit if RAM and the device's slots were one cache of the same
#               size, which holds no expert twice
#   read, up    MB read from the disk and uploaded to the device, per token
#   back        MB copied back to RAM per token: experts that have lost their slot on the device
#   tokens/s    of reading and copying alone: computing takes no time
#   whole       layers whose experts the device holds instead: as many as fit into the same bytes
#   split       tokens/s with these: the last layers of the trace are left out, because they ask
#               nothing of RAM and disk; computing takes no time
#   split, CPU  the same, when the CPU computes the experts of the other layers at $CPU GB/s (50),
#               as fast as it reads them from RAM; up to half of it while experts are being read
#
# The second table has the device's hits for slots of 5, 15, 30 and 50 % of the experts. Takes ten
# seconds and reads no weights. Environment: EXPERTS, CPU, and UPLOAD (25G), DISK (3500M), DEVICES
# and RAMS (GiB).
# shellcheck source=bench/traces.sh
. "$(dirname "$0")/traces.sh"
experts_gib=${EXPERTS:-60} cpu=${CPU:-50} upload=${UPLOAD:-25G} disk=${DISK:-3500M}
devices=${DEVICES:-2 4 8 12} rams=${RAMS:-8 16 32}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

# shape_of TRACE: sets the shape of its model.
shape_of() {
    layers=$(field "$1" n_layer) experts=$(field "$1" n_expert) used=$(field "$1" top_k)
    bytes=$(((experts_gib << 30) / (layers * experts)))
}

# sim TRACE LAYERS OPTION...: leaves the figures in $tmp/figures.
sim() {
    local trace=$1 shape=$2x$experts,$used,$bytes
    shift 2
    "$forebay" sim "$shape" --trace "$trace" --disk "$disk" --upload "$upload" "$@" --json |
        awk -f bench/flatten.awk >"$tmp/figures"
}

# figure NAME...: prints figures of the last simulation on one line.
figure() {
    awk -v names="$*" '
        { value[$1] = $2 }
        END {
            n = split(names, name, " ")
            for (i = 1; i <= n; i++) printf "%s ", value[name[i]]
        }' "$tmp/figures"
}

# cut_layers TRACE N: prints the trace with its first N layers.
cut_layers() {
    awk -v n="$2" '
        NR == 1 { sub(/"n_layer": *[0-9]+/, "\"n_layer\": " n); print; next }
        {
            at = index($0, "\"layers\"")
            lists = substr($0, at)
            sub(/^"layers": *\[/, "", lists)
            printf "%s\"layers\":[", substr($0, 1, at - 1)
            for (i = 1; i <= n; i++) {
                match(lists, /\[[^]]*\]/)
                printf "%s%s", (i > 1 ? "," : ""), substr(lists, RSTART, RLENGTH)
                lists = substr(lists, RSTART + RLENGTH)
            }
            print "]}"
        }' "$1"
}

# cell TRACE DEVICE RAM: prints the figures of one line of the first table.
cell() {
    local slots_bytes whole rest ms
    sim "$1" "$layers" --device-mem "$2G" --mem "$3G"
    echo -n "$2 $3 $layers $experts $(figure device_slots decode.{device_hit_rate,hit_rate} \
        decode.{read,device_copy,device_back}_bytes_per_token decode.tok_per_s)"
    slots_bytes=$(figure device_slot_bytes)
    sim "$1" "$layers" --mem $((($3 << 30) + slots_bytes))
    figure decode.hit_rate
    whole=$((($2 << 30) / (experts * bytes)))
    rest=$((layers - whole))
    cut_layers "$1" "$rest" >"$tmp/cut.jsonl"
    sim "$tmp/cut.jsonl" "$rest" --mem "$3G"
    echo -n "$whole $(figure decode.tok_per_s)"
    ms=$(awk -v b="$((rest * used * bytes))" -v cpu="$cpu" 'BEGIN { print b / cpu * 1e-6 }')
    sim "$tmp/cut.jsonl" "$rest" --mem "$3G" --compute "$ms"
    figure decode.tok_per_s
    echo
}

for trace in "$@"; do
    shape_of "$trace"
    echo "$(basename "$trace" .jsonl): $layers layers of $experts experts, $used used, of" \
        "$(awk -v b="$bytes" -v n=$((layers * used)) \
            'BEGIN { printf "%.1f MiB each; a token uses %.0f MB", b / 1048576, n * b / 1e6 }')"
    echo
    echo "| device | RAM | slots | device | RAM | both | one cache | read | up | back |" \
        "tokens/s | whole | split | split, CPU |"
    echo "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    for device in $devices; do
        for ram in $rams; do
            cell "$trace" "$device" "$ram"
        done
    done | awk '
        {
            slots = $5 / $3
            printf "| %s | %s | %d (%.0f %%) | %.1f %% | %.1f %% | %.1f %% | %.1f %% |", $1, $2,
                slots, 100 * slots / $4, 100 * $6, 100 * $7, 100 * ($6 + (1 - $6) * $7), 100 * $12
            printf " %.0f | %.0f | %.0f | **%.2f** | %s | %.2f | %.2f |\n", $8 / 1e6, $9 / 1e6,
                $10 / 1e6, $11, $13, $14, $15
            faster += $11 > $14
            faster_cpu += $11 > $15
        }
        END {
            printf "\nfaster than the split in %d of %d cells, than that with the CPU in %d\n\n",
                faster, NR, faster_cpu
        }'
done

echo "| slots of the device, % of the experts | 5 | 15 | 30 | 50 |"
echo "| --- | --- | --- | --- | --- |"
for trace in "$@"; do
    shape_of "$trace"
    printf '| %s' "$(basename "$trace" .jsonl)"
    for percent in 5 15 30 50; do
        slots=$(((experts * percent + 50) / 100))
        sim "$trace" "$layers" --slots "$used" --device-slots "$slots"
        figure decode.device_hit_rate |
            awk -v n="$slots" '{ printf " | %.1f %% (%d)", 100 * $1, n }'
    done
    echo " |"
done
echo "| a published curve for 128 experts | 36.6 % | 74.1 % | 89.4 % | 96.2 % |"
