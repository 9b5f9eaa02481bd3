# Read errors while loading and while generating. Tokens printed before the error are correct.
. "$GOLDEN/small.sh"
small m.gguf
forebay run m.gguf $SMALL -n 8 --ids >ids
for read in 1 12 40; do
    forebay run m.gguf $SMALL -n 8 --ids --io fault:sync,eio_at=$read >some
    echo "exit code $?" >&2
    cmp -n "$(wc -c <some)" some ids
done
[ -s some ] && [ "$(wc -l <some)" -lt 8 ] && echo some tokens
