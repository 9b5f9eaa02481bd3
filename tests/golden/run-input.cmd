# One prompt given in every way, as text and as ids.
model=$FABLE
options="-n 12 -t 1 -q --weights-mem 2M"
printf 'Once upon a time' >prompt.txt
forebay run "$model" $options
forebay run "$model" $options -p "Once upon a time"
forebay run "$model" $options -f prompt.txt
forebay run "$model" $options -f - <prompt.txt
forebay run "$model" $options --tokens 0,505,506,260,389
forebay run "$model" $options -p "Once upon a time" --ids | tr '\n' ' '
echo
forebay run "$model" $options -p "Once upon a time" -n 0 | wc -c
forebay run "$model" $options -p "Once upon a time" --temp 3 --seed 7 >first
forebay run "$model" $options -p "Once upon a time" --temp 3 --seed 7 | cmp - first
forebay run "$model" $options -p "Once upon a time" --temp 3 --seed 8 |
    cmp -s - first || echo another seed, another text
