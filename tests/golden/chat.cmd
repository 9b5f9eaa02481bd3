# A conversation in a script: only answers go to stdout; tokens that two turns have in common are
# computed once; conversations are saved and loaded; after a wrong command the chat continues, and
# ends with exit code 1.
CHAT="forebay chat $FABLE --weights-mem 2500K -t 1 --temp 0 -n 24"
$CHAT <<'EOF'
Tell me a story about a fox who lost a lantern.
A story about the moon, please.
/save talk.json
/new
Tell me a story about a fox who lost a lantern.

/load talk.json
/system You are a bird.
/system
/nonsense
/save
/load nowhere.json
EOF
echo "exit code $?"
cat talk.json
echo "== the same as forebay run, for the prompt as llama.cpp renders it"
printf '<|user|>Tell me a story about a fox who lost a lantern.<|story|>' >prompt
forebay run "$FABLE" --weights-mem 2500K -t 1 -q -f prompt -n 24 >run
echo "Tell me a story about a fox who lost a lantern." | $CHAT -q >chat
cmp run chat && echo equal
