# needs: disk
# Every I/O method gives the same tokens, even if reads are short, late or out of order.
. "$GOLDEN/small.sh"
small m.gguf
for method in auto uring threads sync fault:threads,short=2 fault:sync,eintr=3,eagain=4 \
    fault:uring,late_ms=1,reorder=4; do
    forebay run m.gguf $SMALL -n 8 --ids --io $method >"ids.$method"
    cmp "ids.$method" ids.auto
done
wc -l <ids.auto
