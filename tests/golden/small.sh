# For cases: makes a model of 2 MiB, two layers with eight experts each. Sourced, not run.
#   small FILE [OPTION...]      further options are those of `forebay synth random`
# SMALL: options of `run` and `verify` that keep about half of its weights in memory.
small() {
    local file=$1
    shift
    forebay synth random -a qwen3moe --layers 2 --embd 256 --heads 4 --ff 256 --experts 8 \
        --experts-used 2 --vocab 300 -q -o "$file" "$@"
}
SMALL="-t 1 -q --weights-mem 1100K --tokens 1,2,3"
