# Mistakes that bench reports.
. "$GOLDEN/small.sh"
small m.gguf
forebay bench m.gguf --vs ollama; echo "exit code $?"
forebay bench m.gguf --rounds 0; echo "exit code $?"
forebay bench; echo "exit code $?"
forebay bench missing.gguf; echo "exit code $?"
forebay bench m.gguf -t 1 -q --mem 10M; echo "exit code $?"
forebay bench m.gguf -t 1 -q --tokens 1,2,100000; echo "exit code $?"
