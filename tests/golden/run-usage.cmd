# Usage errors: exit code 2 and a message with the correct usage.
. "$GOLDEN/small.sh"
small m.gguf
try() {
    echo "== $*" >&2
    forebay "$@"
    echo "exit code $?" >&2
}
try run
try run m.gguf other.gguf
try run m.gguf --frobnicate
try run m.gguf -p text -f file
try run m.gguf --tokens 1,,2
try run m.gguf --mem lots
try run m.gguf -b 0
try run m.gguf -q --io carrier-pigeon --weights-mem 1100K
try run m.gguf -q -p ""
try run m.gguf -q --tokens 1,300
try run m.gguf -q --ctx 8 --tokens 1,2,3,4,5,6,7,8,9
