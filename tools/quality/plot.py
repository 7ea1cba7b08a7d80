"""Curves on two logarithmic axes as SVG text: one line a method, its name at the line's end."""
import math
from html import escape

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM, LINE = 760, 430, 70, 130, 44, 50, 17
SIZES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4)
X = (0.042, 4.8)
# Strokes for light and dark grounds, told apart by lightness too.
COLOURS = {
    "auto": ("#c2185b", "#ff6fa3"),
    "bitdelta": ("#0b6e99", "#5cc8f2"),
    "delta-dct": ("#a35200", "#f2a65c"),
    "deltadq": ("#2e7d32", "#7fd486"),
    "dare": ("#6b5b95", "#b9a7ee"),
    "ultradelta": ("#555555", "#b5b5b5"),
}
STYLE = """\
text { font: 13px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #222 }
.title { font-size: 15px; font-weight: 600 }
.name { font-weight: 600 }
.grid { stroke: #8884; stroke-width: 1 }
.frame { stroke: #888; stroke-width: 1; fill: none }
.mark { stroke: #888; stroke-width: 1.5; stroke-dasharray: 5 4 }
.leader { stroke-width: 1; opacity: .5 }
.line { stroke-width: 2; fill: none; stroke-linejoin: round }
.auto .line { stroke-width: 3.5 }
.other { opacity: .35 }
"""


def style():
    def rules(dark):
        rule = ".{0} {{ stroke: {1} }} .{0} circle, .{0} text {{ fill: {1}; stroke: none }}"
        return "\n".join(rule.format(name, colours[dark]) for name, colours in COLOURS.items())

    return f"{STYLE}{rules(0)}\n@media (prefers-color-scheme: dark) {{\ntext {{ fill: #ddd }}\n{rules(1)}\n}}"


def spread(wanted, gap, low, high):
    """Heights near `wanted` and at least `gap` apart, inside `low` to `high` where they fit."""
    order, got = sorted(range(len(wanted)), key=lambda i: wanted[i]), list(wanted)
    for before, i in zip([None, *order], order):
        got[i] = max(got[i], low if before is None else got[before] + gap)
    limit = high
    for i in reversed(order):
        got[i] = min(got[i], limit)
        limit = got[i] - gap
    return got


def exponent(k):
    """A power of ten as it is read."""
    return f"{10.0 ** k:g}" if -4 <= k <= 3 else f"1e{k}"


def panel(title, quantity, curves, marks, top):
    """One set of axes. `curves` maps a method to (line, all points), both lists of (bits, value); `marks` are
    (value, words) of dashed lines across."""
    values = [y for line, points in curves.values() for x, y in [*line, *points] if y > 0 and X[0] <= x <= X[1]]
    low, high = (math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))) if values else (-1, 0)
    high, width, height = max(high, low + 1), WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    across = lambda x: LEFT + width * math.log(x / X[0]) / math.log(X[1] / X[0])
    up = lambda y: top + TOP + height * (high - math.log10(y)) / (high - low)
    seen = lambda points: [(across(x), up(y)) for x, y in points if y > 0 and X[0] <= x <= X[1]]
    bottom = top + TOP + height
    out = [f'<text class="title" x="{LEFT}" y="{top + 20}">{escape(title)}</text>']
    for x in SIZES:
        label = f"{x:g}" if x >= 1 else f"1/{1 / x:.0f}"
        out.append(f'<path class="grid" d="M{across(x):.1f} {top + TOP}V{bottom}"/>'
                   f'<text x="{across(x):.1f}" y="{bottom + 18}" text-anchor="middle">{label}</text>')
    for k in range(low, high + 1):
        y = up(10.0**k)
        out.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{LEFT + width}"/>'
                   f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{exponent(k)}</text>')
    out.append(f'<rect class="frame" x="{LEFT}" y="{top + TOP}" width="{width}" height="{height}"/>'
               f'<text x="{LEFT + width / 2}" y="{bottom + 40}" text-anchor="middle">stored bits a parameter</text>'
               f'<text transform="translate(16 {top + TOP + height / 2}) rotate(-90)" text-anchor="middle">'
               f"{escape(quantity)}</text>")
    for value, words in marks:
        if low <= math.log10(value) <= high:
            out.append(f'<path class="mark" d="M{LEFT} {up(value):.1f}H{LEFT + width}"/>'
                       f'<text x="{LEFT + 8}" y="{up(value) + 16:.1f}">{escape(words)}</text>')
    drawn = {name: (seen(line), seen(points)) for name, (line, points) in curves.items() if seen(line)}
    heights = spread([line[-1][1] for line, _ in drawn.values()], LINE, top + TOP + 6, bottom - 4)
    # The first method lies on top of the others.
    for (name, (line, points)), y in reversed(list(zip(drawn.items(), heights))):
        (x0, y0), edge = line[-1], LEFT + width + 10
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in line)
        faint = "".join(f'<circle class="other" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>' for x, y in points)
        dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in line)
        out.append(f'<g class="{name}">{faint}<path class="line" d="{path}"/>{dots}'
                   f'<path class="leader" d="M{x0 + 5:.1f} {y0:.1f}L{edge - 2:.1f} {y:.1f}"/>'
                   f'<text class="name" x="{edge}" y="{y + 4:.1f}">{escape(name)}</text></g>')
    return "\n".join(out)


def draw(panels):
    """The SVG of some panels, one under the other: a list of (title, quantity, curves, marks)."""
    body = "\n".join(panel(*p, i * HEIGHT) for i, p in enumerate(panels))
    height = HEIGHT * len(panels)
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    return (f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n'
            f"<style>\n{style()}\n</style>\n{body}\n</svg>\n")
