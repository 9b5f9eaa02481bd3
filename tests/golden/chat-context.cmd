# A full context ends an answer; a conversation that no longer fits is an error, and /new starts a
# new one. Invalid messages are rejected and do not become part of the conversation.
CHAT="forebay chat $FABLE --weights-mem 2500K -t 1 --temp 0"
$CHAT --ctx 96 <<'EOF'
Once upon a time
More
/new
"""
Two
lines
"""
EOF
echo "exit code $?"
printf 'a \377 b\n/save empty.json\n' | $CHAT -q
cat empty.json
printf '{"messages": [{"role": "tool"}]}' >bad.json
printf '/load bad.json\n' | $CHAT -q
echo '{"messages": [{"role": "user", "content": "\u0000"}, {"role": "user", "content": "x"}]}' \
    >nul.json
printf '/load nul.json\nx\n' | $CHAT -q -n 1 >/dev/null
echo "exit code $?"
