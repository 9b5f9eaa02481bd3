# An unknown device is a usage error; none and auto always work.
. "$GOLDEN/small.sh"
small m.gguf
forebay run m.gguf $SMALL -n 3 --ids >ids
for device in none auto; do
    forebay run m.gguf $SMALL -n 3 --ids --device $device | cmp - ids && echo "$device: the same"
done
forebay run m.gguf $SMALL -n 3 --device nonsense
echo "exit code $?"
forebay verify m.gguf $SMALL -n 3 --device ""
echo "exit code $?"
