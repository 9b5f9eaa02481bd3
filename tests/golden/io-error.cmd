# A disk that fails: while loading, and in the middle of generation. What came before it stays.
. "$GOLDEN/small.sh"
small m.gguf
forebay run m.gguf $SMALL -n 8 --ids >ids
for read in 1 12 40; do
    forebay run m.gguf $SMALL -n 8 --ids --io fault:sync,eio_at=$read >some
    echo "exit code $?" >&2
    cmp -n "$(wc -c <some)" some ids
done
[ -s some ] && [ "$(wc -l <some)" -lt 8 ] && echo some tokens
