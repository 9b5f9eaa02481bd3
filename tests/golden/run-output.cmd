# A failed write of the output or the statistics is an error.
. "$GOLDEN/small.sh"
small m.gguf
forebay run m.gguf $SMALL -n 4 >/dev/full
echo "exit code $?"
forebay run m.gguf $SMALL -n 1 --stats missing/stats.json
echo "exit code $?"
