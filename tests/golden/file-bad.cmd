# Files that are not models or are truncated: one message with a hint, exit code 1.
. "$GOLDEN/small.sh"
try() {
    forebay run "$1" $SMALL -n 2
    echo "exit code $?" >&2
}
small m.gguf
size=$(wc -c <m.gguf)
for n in 0 3 4 100 5000 $((size / 2)) $((size - 1)); do
    head -c $n m.gguf >part.gguf
    try part.gguf
done
echo "Once upon a time" >text.gguf
mkfifo pipe.gguf
for file in text.gguf pipe.gguf /dev/zero . missing.gguf m.gguf/m.gguf; do
    try $file
done
