#!/usr/bin/env bash
# check-deps.sh finds each kind of violation: a small tree in order passes, and one file more makes
# the one check fail that it is meant for.
set -uo pipefail
check=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/check-deps.sh
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
number=0
failed=0

# tree: src/ in order, with a part of a header and a source, and one rule
tree() {
    rm -rf "$tmp/src"
    mkdir -p "$tmp/src/base" "$tmp/src/io"
    echo '**B1** A rule.' >"$tmp/DESIGN.md"
    printf '/*\n *  B1  A rule.\n */\nstruct fb_a {\n};\n' >"$tmp/src/base/a.h"
    printf '#include "base/a.h"\n#include <string.h>\n' >"$tmp/src/base/a.c"
    printf '#include "base/a.h"\n' >"$tmp/src/io/b.h"
}

# expect CHECK NAME: the check of that number alone fails (0: none does)
expect() {
    local out want got
    number=$((number + 1))
    out=$("$check" "$tmp/src" "$tmp/DESIGN.md")
    got=$(sed -n 's/^not ok \([0-9]*\).*/\1/p' <<<"$out" | tr '\n' ' ')
    want=$([ "$1" = 0 ] || echo "$1 ")
    if [ "$got" = "$want" ]; then
        echo "ok $number - $2"
    else
        sed 's/^/# /' <<<"$out"
        echo "not ok $number - $2"
        failed=1
    fi
}

echo 1..9
tree
expect 0 "a tree in order"
tree
echo '#include "io/b.h"' >"$tmp/src/base/c.c"
expect 1 "an include that the table forbids"
tree
echo 'void f(char *s) { strcpy(s, "x"); }' >"$tmp/src/base/c.c"
expect 2 "a banned function"
tree
echo '#include "base/c.h"' >>"$tmp/src/base/a.c"
echo '#include "base/d.h"' >"$tmp/src/base/c.h"
echo '#include "base/a.h"' >"$tmp/src/base/d.h"
expect 3 "a circle over three parts"
tree
echo '#include "base/c.h"' >"$tmp/src/base/a_linux.c"
echo '#include "base/a.h"' >"$tmp/src/base/c.h"
expect 3 "a circle by way of a platform's file"
tree
echo 'struct fb_a {' >"$tmp/src/io/c.c"
expect 4 "a struct tag that is taken"
tree
echo "#include <string.h>" >"$tmp/src/io/a.c"
expect 5 "a file name that is taken"
tree
printf '/*\n *  B1  Another rule.\n */\n' >"$tmp/src/io/c.c"
expect 6 "a rule label that is taken"
tree
printf '/*\n *  B2  A rule.\n */\n' >"$tmp/src/io/c.c"
expect 6 "a rule that DESIGN.md does not list"
exit $failed
