# Output that cannot be written is a failure.
. "$GOLDEN/small.sh"
small m.gguf
forebay run m.gguf $SMALL -n 4 >/dev/full
echo "exit code $?"
forebay run m.gguf $SMALL -n 1 --stats missing/stats.json
echo "exit code $?"
