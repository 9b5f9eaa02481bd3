#!/usr/bin/env bash
# Prints the stories of the model card as Markdown: the output of `forebay run` for these requests.
#   models/train/stories.sh [FOREBAY]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
forebay=${1:-build/release/forebay}

tell() { # REQUEST OPTION...
    local request=$1
    shift
    printf '**%s** (%s)\n\n' "$request" "$([ $# = 0 ] && echo greedy || echo "$*")"
    "$forebay" run models/fable-moe.gguf -t 1 -q -n 400 -p "<|user|>$request<|story|>" "$@" |
        fold -s -w 101 | sed 's/ $//'
    echo
}

while read -r request; do
    tell "$request"
done <<'EOF'
Tell me a story about a fox who lost a lantern.
Tell me a story about a brave dragon named Olive.
Tell me a story about a robot who wants to dance.
Write me a story about sharing.
A story about the moon, please.
Tell me a story about a wolf and a stranger.
Can you tell me a story about a race?
tell me a story about a penguin and a snail
I want to hear a story about a treasure.
Tell me about a birthday.
EOF
seed=0
while read -r request; do
    seed=$((seed + 1))
    tell "$request" --temp 0.7 --seed $seed
done <<'EOF'
Tell me a story about an owl who is afraid of the dark.
Tell me a story about a king with a garden.
Write a story about a broken clock.
Tell me a story about a little mouse named Ida.
A story about a pirate who got lost
Tell me a story about a trick.
Please tell me a story about a sick friend.
Tell me a story about two friends who fight.
Tell me a story about a big storm.
tell me a story about a whale who learns to sing
EOF
