# Prompts from standard input, and as an argument.
options="-n 12 -t 1 -q --weights-mem 2500K"
say() { echo "== $*" && echo "== $*" >&2; }
say a pipe, a file, an argument, -
echo "Once upon a time, a fox" | forebay run "$FABLE" $options
echo "Once upon a time, a fox" >text
forebay run "$FABLE" $options <text
forebay run "$FABLE" $options "Once upon a time, a fox"
printf 'Once upon a time, a fox' | forebay run "$FABLE" $options -f -
printf 'Once upon a time, a fox' | forebay run "$FABLE" - $options
say another prompt wins
echo "Once upon a time, a fox" | forebay run "$FABLE" $options -p "One day, a cat"
say only the last newline is left out, and not with -f
printf 'a\n\n' | forebay run "$FABLE" $options >piped
forebay run "$FABLE" $options -p "a
" | cmp - piped && echo equal
printf 'a\n' | forebay run "$FABLE" $options -f - | cmp - piped && echo equal
say nothing there
for input in /dev/null empty newline; do
    : >empty
    echo >newline
    forebay run "$FABLE" $options <$input
    echo "exit code $?"
    forebay run "$FABLE" $options -f - <$input >/dev/null
    echo "exit code $?"
done
: | forebay run "$FABLE" $options
echo "exit code $?"
forebay run "$FABLE" $options <&-
forebay run "$FABLE" $options -f - <&-
echo "exit code $?"
say not quiet
forebay run "$FABLE" -n 1 -t 1 2>&1 >/dev/null | grep 'no prompt'
echo Once | forebay run "$FABLE" -n 1 -t 1 2>&1 >/dev/null | grep -e 'prompt from' -e template
say verify does not read standard input
(echo "Once upon a time, a fox"; echo kept) | (forebay verify "$FABLE" -n 1 -t 1 -q && cat)
say chat
story="Tell me a story about a fox who lost a lantern."
echo "$story" | forebay run "$FABLE" $options --chat >run
echo "$story" | forebay chat "$FABLE" -q -t 1 --temp 0 -n 12 --weights-mem 2500K | cmp - run && echo equal
forebay run "$FABLE" $options --chat --tokens 1
say mistakes
try() { forebay "$@" 2>&1 | head -n 2; }
try run "$FABLE" text
try run "$FABLE" other.gguf
try run "$FABLE" two words
try run "$FABLE" prompt -p prompt
try run -m "$FABLE"
try run -hf user/model
try run "$FABLE" --predct 3
try rnu "$FABLE"
try "$FABLE"
try synth randm
echo /sytem | forebay chat "$FABLE" -q -t 1
