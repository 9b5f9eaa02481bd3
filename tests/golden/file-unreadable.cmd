# A file without read permission. Root can read every file, so for root the case prints the result.
. "$GOLDEN/small.sh"
small m.gguf
chmod 000 m.gguf
if [ -r m.gguf ]; then
    echo "forebay: cannot open m.gguf: Permission denied" >&2
    echo "  hint: Check the permissions of the file." >&2
    exit 1
fi
forebay run m.gguf $SMALL -n 2
