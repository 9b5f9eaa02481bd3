# needs: models
# A conversation in a script: answers alone on stdout; what both turns share is computed once; what
# was saved is loaded; a wrong command is said, the rest goes on, and the exit code tells.
CHAT="strata chat $MODELS/stories260K-moe8.gguf --weights-mem 2500K -t 1 --temp 0 -n 24"
$CHAT <<'EOF'
Once upon a time
And then?
/save talk.json
/new
Once upon a time

/load talk.json
/system You are a bird.
/system
/nonsense
/save
/load nowhere.json
EOF
echo "exit code $?"
cat talk.json
echo "== the same as strata run, for the prompt as llama.cpp renders it"
printf '<|im_start|>user\nOnce upon a time<|im_end|>\n<|im_start|>assistant\n' >prompt
strata run "$MODELS/stories260K-moe8.gguf" --weights-mem 2500K -t 1 -q -f prompt -n 24 >run
echo "Once upon a time" | $CHAT -q >chat
cmp run chat && echo equal
