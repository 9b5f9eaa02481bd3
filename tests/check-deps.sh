#!/usr/bin/env bash
# Enforces the dependency table of DESIGN.md over src/, and the list of banned functions.
#   tests/check-deps.sh [SRC]      SRC is src/ unless given
# Prints FILE:LINE and the reason for each violation, then one TAP line per check. Exit 1 if any.
set -euo pipefail
src=${1:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/src}
cd "$src"

# module: what it may include, besides itself, forebay.h and the C library. GGML, LLAMA and SYSTEM
# stand for the headers of those; FILE=HEADER is a leave for one file.
table='
base:
os: base SYSTEM
model: base os GGML jansson.h
sidecar: base os model jansson.h
io: base os SYSTEM
cache: base
hw: base os io jansson.h
plan: base model hw
stream: base os io cache model plan
synth: base os model GGML
sim: base io cache stream model plan
backend: base os stream model sidecar plan GGML
engine: base os model sidecar hw plan backend GGML LLAMA jansson.h
serve: base jansson.h microhttpd.h pthread.h unistd.h dirent.h sys/stat.h sys/socket.h arpa/inet.h netdb.h
cmd: base unistd.h signal.h jansson.h bench_run.c=sys/wait.h line.c=histedit.h serve.c=serve/server.h synth.c=synth/synth.h sim.c=sim/sim.h verify.c=serve/service.h
'
# The C library is ISO C (and strings.h). Everything else of the system is for os and io alone (SYSTEM).
iso='assert complex ctype errno fenv float inttypes iso646 limits locale math setjmp signal stdalign
stdarg stdatomic stdbool stddef stdint stdio stdlib stdnoreturn string strings tgmath time uchar wchar wctype
algorithm atomic cctype cmath cstddef cstdint cstdio cstdlib cstring exception functional map new random set stdexcept
string vector'
# Each overruns its buffer, hides an error, or keeps hidden state. Instead: snprintf, memcpy,
# fb_parse_size or strtol with its end pointer, strtok_r, the *_r forms of time, mkstemp.
banned='strcpy strcat strncpy strncat sprintf vsprintf gets atoi atol atoll atof strtok alloca
gmtime localtime ctime asctime tmpnam tempnam mktemp'

# shellcheck disable=SC2016 # the dollars are awk's
find . -name '*.[ch]' -o -name '*.cpp' | sed 's|^\./||' | LC_ALL=C sort | tr '\n' '\0' |
    xargs -0 awk -v table="$table" -v iso="$iso" -v banned="$banned" '
    BEGIN {
        n = split(table, lines, "\n")
        for (i = 1; i <= n; i++) {
            words = split(lines[i], word, " ")
            if (words == 0) continue
            from = word[1]; sub(/:$/, "", from)
            known[from] = 1
            for (j = 2; j <= words; j++) may[from, word[j]] = 1
        }
        n = split(iso, word, " "); for (i = 1; i <= n; i++) is_iso[word[i]] = 1
        n = split(banned, word, " "); for (i = 1; i <= n; i++) is_banned[word[i]] = 1
    }

    function bad(check, why) { printf "%s:%d: %s\n", FILENAME, FNR, why; count[check]++ }

    # Comments out, strings emptied; in_comment carries over lines.
    function code_of(line,    out, i, c, two, quote) {
        out = ""; quote = ""
        for (i = 1; i <= length(line); i++) {
            c = substr(line, i, 1); two = substr(line, i, 2)
            if (in_comment) { if (two == "*/") { in_comment = 0; i++ } continue }
            if (quote != "") {
                if (c == "\\") i++
                else if (c == quote) { quote = ""; out = out c }
                continue
            }
            if (two == "/*") { in_comment = 1; i++; out = out " "; continue }
            if (two == "//") break
            if (c == "\"" || c == "\x27") quote = c
            out = out c
        }
        return out
    }

    function include_allowed(target,    base, owner) {
        if (target == "forebay.h") return 1
        base = target; sub(/\.h$/, "", base)
        if (base in is_iso || (module, target) in may) return 1
        if (target ~ /^(gguf|ggml[a-z-]*)\.h$/) return (module, "GGML") in may
        if (target ~ /^(llama(-cpp)?|common\/(chat|fit|json-schema-to-grammar|log|sampling))\.h$/) return (module, "LLAMA") in may
        owner = target; sub(/\/.*/, "", owner)
        if (owner in known)
            return owner == module || (module, owner) in may || (module, name "=" target) in may
        return (module, "SYSTEM") in may || (module, name "=" target) in may
    }

    FNR == 1 {
        in_comment = 0
        module = FILENAME; sub(/\/.*/, "", module)
        name = FILENAME; sub(/.*\//, "", name)
        if (!(module in known)) bad("include", "src/" module " is not a module of the table")
    }
    {
        raw = $0
        code = code_of(raw)
        if (code ~ /^[ \t]*#[ \t]*include/) {
            target = raw
            sub(/^[^"<]*["<]/, "", target); sub(/[">].*/, "", target)
            if (target ~ /^\.|\/\./ || (raw ~ /"/ && target !~ /\/|^(forebay|gguf|ggml.*|llama.*)\.h$/))
                bad("include", "includes are written module/file.h: " target)
            else if (!include_allowed(target)) bad("include", module " may not include " target)
            next
        }
        rest = code
        while (match(rest, /[A-Za-z_][A-Za-z_0-9]*[ \t]*\(/)) {
            word_ = substr(rest, RSTART, RLENGTH - 1); sub(/[ \t]+$/, "", word_)
            if (word_ in is_banned) bad("banned", word_ " is banned")
            rest = substr(rest, RSTART + RLENGTH)
        }
    }
    END {
        print "1..2"
        print (count["include"] ? "not ok" : "ok") " 1 - includes follow the dependency table"
        print (count["banned"] ? "not ok" : "ok") " 2 - no banned function is called"
        exit count["include"] + count["banned"] > 0
    }' || exit 1
