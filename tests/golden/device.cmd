# A device that there is not is the user's mistake; none and auto are always fine.
. "$GOLDEN/small.sh"
small m.gguf
strata run m.gguf $SMALL -n 3 --ids >ids
for device in none auto; do
    strata run m.gguf $SMALL -n 3 --ids --device $device | cmp - ids && echo "$device: the same"
done
strata run m.gguf $SMALL -n 3 --device nonsense
echo "exit code $?"
strata verify m.gguf $SMALL -n 3 --device ""
echo "exit code $?"
