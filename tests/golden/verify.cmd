# Identical, and with one read spoiled, not.
. "$GOLDEN/small.sh"
small m.gguf
strata verify m.gguf $SMALL -n 6
strata verify m.gguf $SMALL -n 6 -b 2 --no-repack
strata verify m.gguf $SMALL -n 6 --io fault:sync,corrupt_at=20
echo "exit code $?"
