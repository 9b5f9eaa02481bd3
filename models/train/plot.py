"""plot.py - draws the loss curve as SVG: python3 plot.py log.csv > loss.svg"""
import math
import sys

W, H, LEFT, TOP, RIGHT, BOTTOM = 640, 300, 48, 16, 16, 40


def main():
    rows = [line.strip().split(",") for line in open(sys.argv[1])]
    last = int(rows[-1][0])
    low, high = math.log(0.25), math.log(8)

    def x(step):
        return LEFT + (W - LEFT - RIGHT) * int(step) / last

    def y(loss):
        return TOP + (H - TOP - BOTTOM) * (high - math.log(float(loss))) / (high - low)

    out = ['<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" '
           'font-family="sans-serif" font-size="11" fill="#444">' % (W, H),
           '<rect width="%d" height="%d" fill="white"/>' % (W, H)]
    for loss in (0.25, 0.5, 1, 2, 4, 8):
        out.append('<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" stroke="#ddd"/>'
                   % (LEFT, W - RIGHT, y(loss), y(loss)))
        out.append('<text x="%d" y="%.1f" text-anchor="end">%g</text>'
                   % (LEFT - 6, y(loss) + 4, loss))
    for step in range(0, last + 1, 500):
        out.append('<text x="%.1f" y="%d" text-anchor="middle">%d</text>'
                   % (x(step), H - BOTTOM + 16, step))
    points = " ".join("%.1f,%.1f" % (x(r[0]), y(r[1])) for r in rows)
    out.append('<polyline points="%s" fill="none" stroke="#7aa6d8"/>' % points)
    out += ['<circle cx="%.1f" cy="%.1f" r="3" fill="#c33"/>' % (x(r[0]), y(r[2]))
            for r in rows if r[2]]
    out.append('<text x="%d" y="%d" text-anchor="middle">step of 4096 tokens</text>'
               % (W // 2, H - 8))
    out.append('<text x="%d" y="%d" text-anchor="end">loss per token: '
               '<tspan fill="#7aa6d8">a batch '
               'of new stories</tspan>, <tspan fill="#c33">held out</tspan></text>'
               % (W - RIGHT, TOP + 14))
    print("\n".join(out) + "\n</svg>")


if __name__ == "__main__":
    main()
