# What bench refuses, and how.
. "$GOLDEN/small.sh"
small m.gguf
strata bench m.gguf --vs ollama; echo "exit code $?"
strata bench m.gguf --rounds 0; echo "exit code $?"
strata bench; echo "exit code $?"
strata bench missing.gguf; echo "exit code $?"
strata bench m.gguf -t 1 -q --mem 10M; echo "exit code $?"
strata bench m.gguf -t 1 -q --tokens 1,2,100000; echo "exit code $?"
