# A model that is modified during a run never gives a wrong token. Replacing it by rename does not
# affect the run.
. "$GOLDEN/small.sh"
small m.gguf
slow="-n 40 --ids --io fault:sync,late_ms=2"
forebay run m.gguf $SMALL -n 40 --ids >ids
# try CHANGE...: runs CHANGE after the first token of a run of used.gguf
try() {
    cp m.gguf used.gguf
    : >some
    forebay run used.gguf $SMALL $slow >some &
    while [ ! -s some ] && kill -0 $!; do sleep 0.01; done
    "$@"
    wait $!
    echo "exit code $?" >&2
    cmp -n "$(wc -c <some)" some ids
}
overwrite() {
    dd if=/dev/zero of=used.gguf bs=1000 seek=1900 count=1 conv=notrunc 2>/dev/null
}
replace() {
    small new.gguf --seed 1
    mv new.gguf used.gguf
}
try truncate -s 900000 used.gguf
try overwrite
try replace
