"""Accuracy against tile sparsity, as a picture: one chart for each data set, one line for each method, bars for the spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

import jinja2

__all__ = ["Point", "picture"]

WIDTH, HEIGHT, GAP, LEFT, TOP = 380, 260, 70, 60, 60
COLOURS = {"none": "#777777", "lasso": "#b5541c", "wpc": "#0b6e99"}
NAMES = {"none": "magnitude, no penalty", "lasso": "group lasso", "wpc": "WPC"}
TICKS = 5
TEMPLATE = """<svg xmlns="http://www.w3.org/2000/svg" width="{{ width }}" height="{{ height }}" role="img" aria-label="{{ title }}">
<style>text { font: 12px system-ui, sans-serif; fill: #333 } path { fill: none; stroke-width: 2 } .axis { stroke: #999; stroke-width: 1 }</style>
<rect width="{{ width }}" height="{{ height }}" fill="#fff"/>
<text x="20" y="24" font-weight="bold">{{ title }}</text>
{% for chart in charts %}
<g transform="translate({{ chart.x }} {{ top }})">
<text x="0" y="-10">{{ chart.title }}</text>
<path class="axis" d="M0 0V{{ h }}H{{ w }}"/>
{% for y, label in chart.ticks %}<text x="-6" y="{{ y + 4 }}" text-anchor="end">{{ label }}</text>
<path class="axis" d="M0 {{ y }}h{{ w }}" stroke-dasharray="2 4"/>
{% endfor %}
{% for x, label in chart.shares %}<text x="{{ x }}" y="{{ h + 18 }}" text-anchor="middle">{{ label }}</text>
{% endfor %}
{% for line in chart.lines %}
<g stroke="{{ line.colour }}"><path d="{{ line.path }}"/>{% for bar in line.bars %}<path d="{{ bar }}"/>{% endfor %}</g>
<text x="{{ w - 4 }}" y="{{ 16 + 16 * loop.index0 }}" text-anchor="end" style="fill: {{ line.colour }}">{{ line.name }}</text>
{% endfor %}
</g>
{% endfor %}
</svg>
"""


@dataclass(frozen=True)
class Point:
    """Accuracies of all seeds at a share of zero tiles."""

    share: float
    accuracies: tuple[float, ...]


def picture(title: str, found: Mapping[str, Mapping[str, Sequence[Point]]]) -> str:
    """The charts as SVG; points by data set and method."""
    charts = [_chart(k, name, lines) for k, (name, lines) in enumerate(found.items())]
    width = LEFT + len(charts) * (WIDTH + GAP)
    sizes = {"width": width, "height": TOP + HEIGHT + 60, "w": WIDTH, "h": HEIGHT, "top": TOP}
    made = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(TEMPLATE)
    return made.render(title=title, charts=charts, **sizes) + "\n"


def _chart(index: int, name: str, lines: Mapping[str, Sequence[Point]]) -> dict[str, object]:
    values = [a for points in lines.values() for p in points for a in p.accuracies]
    low, high = int(100 * min(values) / 5) * 0.05, -(-100 * max(values) // 5) * 0.05
    shares = sorted({p.share for points in lines.values() for p in points})
    span = max(shares) or 1.0

    def place(share: float, accuracy: float) -> tuple[float, float]:
        return round(share / span * WIDTH, 1), round((high - accuracy) / (high - low) * HEIGHT, 1)

    heights = [low + k * (high - low) / (TICKS - 1) for k in range(TICKS)]
    return {
        "title": f"{name}: test accuracy against zero tiles", "x": LEFT + index * (WIDTH + GAP),
        "ticks": [(place(0, y)[1], f"{y:.1%}") for y in heights],
        "shares": [(place(s, low)[0], f"{s:.0%}") for s in shares],
        "lines": [_line(method, points, place) for method, points in lines.items()],
    }  # fmt: skip


def _line(method: str, points: Sequence[Point], place: object) -> dict[str, object]:
    assert callable(place)
    centres = [place(p.share, mean(p.accuracies)) for p in points]
    bars = []
    for p in points:
        spread = stdev(p.accuracies) if len(p.accuracies) > 1 else 0.0
        (x, top), (_, bottom) = (place(p.share, mean(p.accuracies) + s * spread) for s in (1, -1))
        bars.append(f"M{x - 4} {top}h8m-4 0V{bottom}m-4 0h8")
    path = "M" + "L".join(f"{x} {y}" for x, y in centres)
    return {"name": NAMES[method], "colour": COLOURS[method], "path": path, "bars": bars}
