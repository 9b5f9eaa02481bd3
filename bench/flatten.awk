# flatten.awk - turns JSON as forebay prints it (one value per line) into lines "PATH VALUE":
#   forebay.decode_tok_per_s.median 6.93        forebay.runs.0.hit_rate 0.71
{
    line = $0
    gsub(/^ +|,$/, "", line)
    key = ""
    if (match(line, /^"[^"]*": /)) {
        key = substr(line, 2, RLENGTH - 4)
        line = substr(line, RLENGTH + 1)
    }
    if (line == "]" || line == "}") { depth--; next }
    if (depth && list[depth]) key = count[depth]++
    path = depth ? path_of[depth] key : ""
    if (line == "{" || line == "[") {
        depth++
        path_of[depth] = path == "" ? "" : path "."
        list[depth] = line == "["
        count[depth] = 0
    } else {
        gsub(/^"|"$/, "", line)
        print path " " line
    }
}
