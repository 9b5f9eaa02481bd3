# A file system without direct I/O (tmpfs), and one where only the reads fail.
. "$GOLDEN/small.sh"
dir=/dev/shm
[ -d $dir ] && [ -w $dir ] || dir=.
dir=$(mktemp -d "$dir/forebay-golden-XXXXXX")
trap 'rm -r "$dir"' EXIT
small m.gguf
cp m.gguf "$dir"
forebay run m.gguf $SMALL -n 8 --ids >ids
wc -l <ids
forebay run "$dir/m.gguf" $SMALL -n 8 --ids --io uring 2>/dev/null | cmp - ids
forebay run "$dir/m.gguf" $SMALL -n 8 --ids --io threads 2>/dev/null | cmp - ids
forebay run m.gguf $SMALL -n 8 --ids --io fault:sync,einval_at=3 2>messages | cmp - ids
sed 's/.*m.gguf/m.gguf/' messages
