# shellcheck shell=bash
# Sourced by cases: makes a model of 2 MiB with two layers of eight experts each.
#   small FILE [OPTION...]      OPTION: further options of `forebay synth random`
# SMALL: options for `run` and `verify` that leave room for about half of its weights.
small() {
    local file=$1
    shift
    forebay synth random -a qwen3moe --layers 2 --embd 256 --heads 4 --ff 256 --experts 8 \
        --experts-used 2 --vocab 300 -q -o "$file" "$@"
}
# shellcheck disable=SC2034 # used by the cases
SMALL="-t 1 -q --weights-mem 1100K --tokens 1,2,3"
