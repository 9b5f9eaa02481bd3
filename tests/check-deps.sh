#!/usr/bin/env bash
# Enforces the structure that DESIGN.md describes over src/:
#   1  includes follow the dependency table             4  struct tags are unique
#   2  no banned function is called                     5  file names are unique outside cmd/
#   3  no include circle among the parts of a module    6  rule labels are unique, and in DESIGN.md
#   tests/check-deps.sh [SRC [DESIGN]]      default: src/ and DESIGN.md of this tree
# Prints FILE:LINE and the reason for each violation, then one TAP line per check. Exit 1 if any.
#
# A part is a header with its sources: ring.h and ring.c. The files of one part for several
# platforms (memory_linux.c, memory_macos.c, memory_posix.c, memory_platform.h) count as one.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
src=${1:-$root/src}
design=$(realpath "${2:-$root/DESIGN.md}")
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
gpu: base os stream plan model cache backend GGML
engine: base os io model sidecar hw plan stream backend gpu GGML LLAMA jansson.h
serve: base os jansson.h microhttpd.h pthread.h unistd.h dirent.h fcntl.h poll.h sys/stat.h
serve: sys/socket.h sys/un.h arpa/inet.h netinet/in.h netdb.h
cmd: base unistd.h signal.h jansson.h bench_run.c=sys/wait.h serve.c=pthread.h
cmd: terminal.c=sys/ioctl.h files.c=os/save.h files.c=sidecar/sidecar.h
cmd: line.c=histedit.h line.c=os/dirs.h line.c=os/save.h
cmd: serve.c=serve/server.h synth.c=synth/synth.h sim.c=sim/sim.h verify.c=serve/service.h
'
# The C library is ISO C (and strings.h). All other system headers are for os and io alone (SYSTEM).
iso='assert complex ctype errno fenv float inttypes iso646 limits locale math setjmp signal stdalign
stdarg stdatomic stdbool stddef stdint stdio stdlib stdnoreturn string strings tgmath time uchar
wchar wctype algorithm atomic cctype chrono cmath cstddef cstdint cstdio cstdlib cstring exception
functional map mutex new queue random set stdexcept string unordered_map vector'
# Each overruns its buffer, hides an error, or keeps hidden state. Instead: snprintf, memcpy,
# fb_parse_size or strtol with its end pointer, strtok_r, the *_r forms of time, mkstemp.
banned='strcpy strcat strncpy strncat sprintf vsprintf gets atoi atol atoll atof strtok alloca
gmtime localtime ctime asctime tmpnam tempnam mktemp'

# shellcheck disable=SC2016 # the dollars are awk's
find . -name '*.[ch]' -o -name '*.cpp' | sed 's|^\./||' | LC_ALL=C sort | tr '\n' '\0' |
    xargs -0 awk -v table="$table" -v iso="$iso" -v banned="$banned" -v design="$design" '
    BEGIN {
        while ((getline line < design) > 0)
            while (match(line, /(^|[^A-Za-z0-9])[A-Z][A-Z]?[0-9]+/)) {
                label = substr(line, RSTART, RLENGTH); sub(/^[^A-Z]/, "", label)
                in_design[label] = 1
                line = substr(line, RSTART + RLENGTH)
            }
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
        if (target ~ /^(llama(-cpp)?|common\/(chat|fit|json-schema-to-grammar|log|sampling))\.h$/)
            return (module, "LLAMA") in may
        owner = target; sub(/\/.*/, "", owner)
        if (owner in known)
            return owner == module || (module, owner) in may || (module, name "=" target) in may
        return (module, "SYSTEM") in may || (module, name "=" target) in may
    }

    function part_of(path,    p) {
        p = path
        sub(/\.[a-z]+$/, "", p)
        sub(/_(linux|macos|posix|platform)$/, "", p)
        return p
    }

    # Follows the includes from a part; reports the circle when it comes back to one on the way.
    function walk(part, way,    n, next_, i) {
        if (state[part] == 2) return
        if (state[part] == 1) {
            sub(".*" part " -> ", part " -> ", way)
            print way part ": include circle"
            count["circle"]++
            return
        }
        state[part] = 1
        n = split(edges[part], next_, " ")
        for (i = 1; i <= n; i++) walk(next_[i], way part " -> ")
        state[part] = 2
    }

    FNR == 1 {
        in_comment = 0
        module = FILENAME; sub(/\/.*/, "", module)
        name = FILENAME; sub(/.*\//, "", name)
        if (!(module in known)) bad("include", "src/" module " is not a module of the table")
        if (module != "cmd") {
            if (name in named) bad("file", name " is also the name of " named[name])
            named[name] = FILENAME
        }
    }
    # A rule is stated in a list of a comment: a star, the label alone, the text.
    match($0, /^ \*  +[A-Z][A-Z]?[0-9]+  +[^ ]/) {
        label = $2
        if (label in rule) bad("rule", "rule " label " is also stated in " rule[label])
        rule[label] = FILENAME
        if (!(label in in_design)) bad("rule", "rule " label " is not in DESIGN.md")
    }
    {
        raw = $0
        code = code_of(raw)
        if (code ~ /^[ \t]*#[ \t]*include/) {
            target = raw
            sub(/^[^"<]*["<]/, "", target); sub(/[">].*/, "", target)
            if (target ~ /^\.|\/\./ ||
                (raw ~ /"/ && target !~ /\/|^(forebay|gguf|ggml.*|llama.*)\.h$/))
                bad("include", "includes are written module/file.h: " target)
            else if (!include_allowed(target)) bad("include", module " may not include " target)
            else if (index(target, module "/") == 1 && part_of(target) != part_of(FILENAME))
                edges[part_of(FILENAME)] = edges[part_of(FILENAME)] " " part_of(target)
            next
        }
        if (match(code, /^(typedef )?(struct|union|enum) +[a-z_0-9]+ *\{/)) {
            tag = code; sub(/ *\{.*/, "", tag); sub(/^.* /, "", tag)
            if (tag in defined && part_of(FILENAME) != part_of(defined[tag]))
                bad("tag", "struct " tag " is also defined in " defined[tag])
            defined[tag] = FILENAME
        }
        rest = code
        while (match(rest, /[A-Za-z_][A-Za-z_0-9]*[ \t]*\(/)) {
            word_ = substr(rest, RSTART, RLENGTH - 1); sub(/[ \t]+$/, "", word_)
            if (word_ in is_banned) bad("banned", word_ " is banned")
            rest = substr(rest, RSTART + RLENGTH)
        }
    }
    END {
        for (part in edges) walk(part, "")
        n = split("include:includes follow the dependency table;" \
            "banned:no banned function is called;" \
            "circle:no include circle in a module;tag:struct tags are unique;" \
            "file:file names are unique outside cmd/;" \
            "rule:rule labels are unique and listed in DESIGN.md", check, ";")
        print "1.." n
        for (i = 1; i <= n; i++) {
            split(check[i], word, ":")
            print (count[word[1]] ? "not ok " : "ok ") i " - " word[2]
            failed += count[word[1]] > 0
        }
        exit failed > 0
    }' || exit 1
