# An unknown device is a usage error; none and auto always work.
. "$GOLDEN/small.sh"
small m.gguf
forebay run m.gguf $SMALL -n 3 --ids >ids
for device in none auto; do
    forebay run m.gguf $SMALL -n 3 --ids --device $device | cmp - ids && echo "$device: the same"
done
forebay run m.gguf $SMALL -n 3 --device nonsense
echo "exit code $?"
forebay run m.gguf $SMALL -n 3 --device none,auto
echo "exit code $?"
for sizes in 1G, 1G,x ,1G 0; do
    forebay run m.gguf $SMALL -n 3 --device-mem "$sizes" 2>&1 | head -n 1
done
forebay verify m.gguf $SMALL -n 3 --device ""
echo "exit code $?"
