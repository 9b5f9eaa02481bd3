# No room for a file: said before anything is written, or when it is; nothing stays. ulimit -f is no
# signal but an error.
. "$GOLDEN/small.sh"
small m.gguf --ff 1024
forebay synth inflate m.gguf --experts 1024 --ff 1048576 -q -o huge.gguf
echo "exit code $?"
(ulimit -f 1000 && forebay synth random --size 20M -q -o large.gguf)
echo "exit code $?"
(ulimit -f 1000 && forebay optimize m.gguf -q -o m.sidecar)
echo "exit code $?"
find . -name "huge*" -o -name "large*"
