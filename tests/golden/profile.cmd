# The profile is measured once and then read from the cache directory.
export FOREBAY_CACHE_DIR=$PWD/cache
forebay profile --json >first.json
sed -n 's/^ *"\([a-z0-9_]*\)":.*/\1/p' first.json | awk '!seen[$1]++'
# What was measured on a busy machine would be measured again.
for file in first.json cache/profile.json; do
    sed 's/"other_cores": [0-9.e+-]*/"other_cores": 0.0/' "$file" >idle && cp idle "$file"
done
forebay profile --json -q | cmp - first.json && echo "the same profile"
ls cache
# One row for each type, also when experts of a model have been measured; no row of zeros.
. "$GOLDEN/small.sh"
small m.gguf
forebay plan m.gguf -q >/dev/null
forebay plan m.gguf -q -t 1 >/dev/null
forebay profile --json -q | grep -c '"columns": [1-9]' | sed 's/^[1-9][0-9]*$/experts/'
forebay profile -q >text
sed -n '/^weights /,/^(/p' text | sed '1d; $d' >rows
awk '{ print $1 }' rows | sort | uniq -d
grep -w '0[.]0' rows
awk 'NF != 6' rows
grep -c '^q4_K ' rows
tail -n 1 text
echo "== what limits a run"
forebay run m.gguf --weights-mem 1100K -t 1 -n 8 --tokens 1,2 --ids 2>&1 >/dev/null |
    grep -e '^limit' -e '^cache' -e times
