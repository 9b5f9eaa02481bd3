# plot.awk - draws points and lines as an SVG for light and dark backgrounds.
#
#   awk -v title=T -v xlabel=X -v ylabel=Y [-v log_y=1] -f bench/plot.awk DATA >FILE.svg
#
# A line of DATA, tab-separated:   SERIES  STYLE  COLOUR(0..7)  X  Y  [LOW  HIGH]
# STYLE: points (joined by a line, with error bars if LOW and HIGH are given), line, dashed, dotted.
# The legend lists the series in the order of their first line.
BEGIN {
    FS = "\t"
    split("#2f81f7 #d9730d #2da44e #bf5af2 #e5484d #0d9488 #9a7b1e #7d8590", colour, " ")
}
NF >= 5 {
    if (!($1 in style)) { order[++n_series] = $1; style[$1] = $2; paint[$1] = colour[$3 % 8 + 1] }
    i = ++n_points[$1]
    x[$1, i] = $4 + 0; y[$1, i] = $5 + 0
    low[$1, i] = NF >= 7 ? $6 + 0 : $5 + 0; high[$1, i] = NF >= 7 ? $7 + 0 : $5 + 0
    if (!seen++) { x0 = x1 = $4 + 0; y0 = y1 = $5 + 0 }
    if (x[$1, i] < x0) x0 = x[$1, i]
    if (x[$1, i] > x1) x1 = x[$1, i]
    if (low[$1, i] < y0) y0 = low[$1, i]
    if (high[$1, i] > y1) y1 = high[$1, i]
}

function lg(v) { return log(v) / log(10) }
function px(v) { return left + (v - x0) / (x1 - x0) * width }
function py(v,   share) {
    share = log_y ? (lg(v) - lg(y0)) / (lg(y1) - lg(y0)) : (v - y0) / (y1 - y0)
    return top + height - share * height
}
function floor(v,   i) { i = int(v); return i > v ? i - 1 : i }
function escaped(text) { gsub(/&/, "\\&amp;", text); gsub(/</, "\\&lt;", text); return text }
function text(at_x, at_y, anchor, what, more) {
    printf "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\"%s>%s</text>\n",
        at_x, at_y, anchor, more, escaped(what)
}
function segment(xa, ya, xb, yb, class) {
    printf "<line class=\"%s\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>\n",
        class, xa, ya, xb, yb
}
# The distance of grid lines, 1, 2 or 5 times a power of ten, so that there are about `about` lines.
function step_of(range, about,   power, s) {
    power = 10 ^ floor(lg(range / about)); s = range / about / power
    return (s > 5 ? 10 : s > 2 ? 5 : s > 1 ? 2 : 1) * power
}
function grid_y(v) {
    segment(left, py(v), left + width, py(v), "grid")
    text(left - 8, py(v) + 4, "end", sprintf("%g", v), "")
}
function dash_of(s) {
    if (style[s] == "dashed") return " stroke-dasharray=\"7 5\""
    return style[s] == "dotted" ? " stroke-dasharray=\"2 5\"" : ""
}
function draw(s,   i, at, points) {
    for (i = 1; i <= n_points[s]; i++)
        points = points sprintf("%.1f,%.1f ", px(x[s, i]), py(y[s, i]))
    printf "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"2\"%s points=\"%s\"/>\n",
        paint[s], dash_of(s), points
    if (style[s] != "points") return
    for (i = 1; i <= n_points[s]; i++) {
        at = px(x[s, i])
        printf "<path stroke=\"%s\" stroke-width=\"1.5\" d=\"", paint[s]
        printf "M%.1f %.1fV%.1fm-4 0h8M%.1f %.1fh8\"/>\n",
            at, py(low[s, i]), py(high[s, i]), at - 4, py(low[s, i])
        printf "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4\" fill=\"%s\"/>\n",
            at, py(y[s, i]), paint[s]
    }
}
function legend(s, row,   at) {
    at = top + 10 + row * 20
    printf "<line x1=\"%d\" y1=\"%d\" x2=\"%d\" y2=\"%d\" stroke=\"%s\" stroke-width=\"2\"%s/>\n",
        left + width + 16, at, left + width + 44, at, paint[s], dash_of(s)
    if (style[s] == "points")
        printf "<circle cx=\"%d\" cy=\"%d\" r=\"4\" fill=\"%s\"/>\n",
            left + width + 30, at, paint[s]
    text(left + width + 52, at + 4, "start", s, "")
}

END {
    if (!seen) exit 1
    left = 64; top = 48; width = 480; height = 320; total_w = 820; total_h = 424
    if (x1 == x0) x1 = x0 + 1
    margin = (x1 - x0) * 0.04; x0 -= margin; x1 += margin
    if (log_y) { y0 /= 1.25; y1 *= 1.25 } else { y0 = 0; y1 = y1 > 0 ? y1 * 1.08 : 1 }
    printf "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\"", total_w, total_h
    print " font-family=\"system-ui, sans-serif\" font-size=\"13\">"
    printf "<style>text { fill: #1f2328 } .grid { stroke: #8884; } "
    print ".axis { stroke: #888 } .paper { fill: #fff }"
    printf "@media (prefers-color-scheme: dark) { "
    print "text { fill: #e6edf3 } .paper { fill: #0d1117 } }</style>"
    printf "<title>%s</title><rect class=\"paper\" width=\"%d\" height=\"%d\"/>\n",
        escaped(title), total_w, total_h
    text(left, 26, "start", title, " font-size=\"15\" font-weight=\"600\"")
    if (log_y) {
        for (power = floor(lg(y0)); power <= lg(y1); power++)
            for (i = 1; i <= 5; i += i == 2 ? 3 : 1) {
                v = i * 10 ^ power
                if (i != 3 && v >= y0 && v <= y1) grid_y(v)
            }
    } else {
        s = step_of(y1 - y0, 6)
        for (v = 0; v <= y1; v += s) grid_y(v)
    }
    s = step_of(x1 - x0, 8)
    for (v = s * (floor(x0 / s) + 1); v <= x1; v += s) {
        segment(px(v), top + height, px(v), top + height + 5, "axis")
        text(px(v), top + height + 20, "middle", sprintf("%g", v), "")
    }
    segment(left, top + height, left + width, top + height, "axis")
    segment(left, top, left, top + height, "axis")
    text(left + width / 2, top + height + 44, "middle", xlabel, "")
    text(0, 0, "middle", ylabel,
        sprintf(" transform=\"translate(18 %d) rotate(-90)\"", top + height / 2))
    for (k = 1; k <= n_series; k++) { draw(order[k]); legend(order[k], k - 1) }
    print "</svg>"
}
