"""All points of an exploration as a picture: LUTs against cycles, and accuracy where points differ in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10
from typing import Any

from tcompile.charts import Chart, Curve, Dot, Mark
from tcompile.templates import render

__all__ = ["drawing"]

LEFT, TOP, GAP = 70, 80, 90
WIDTH, HEIGHT = 480, 300
FORMS = {"engine": "engines", "serial": "digit-serial graphs", "parallel": "parallel graphs", "mixed": "several forms"}
SUFFIX = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Entry:
    """A line of the legend."""

    kind: str
    x: float
    y: float
    text: str


@dataclass(frozen=True)
class Context:
    """What the template knows."""

    title: str
    width: float
    height: float
    legend: tuple[Entry, ...]
    charts: tuple[Chart, ...]


@dataclass(frozen=True)
class Axis:
    """Values to shares of an axis.

    Parameters
    ----------
    low, high : float
        Ends; of logarithms where `is_log`.
    """

    low: float
    high: float
    is_log: bool

    @classmethod
    def of(cls, values: Sequence[float], *, is_log: bool) -> Axis:
        """An axis that holds some values: whole decades, or whole twentieths."""
        made = [log10(max(v, 1)) if is_log else 20 * v for v in values] or [0.0]
        low, high = floor(min(made)), max(ceil(max(made)), floor(min(made)) + 1)
        return cls(low, high, True) if is_log else cls(low / 20, high / 20, False)

    def share(self, value: float) -> float:
        return ((log10(max(value, 1)) if self.is_log else value) - self.low) / (self.high - self.low)

    def ticks(self) -> Iterator[tuple[float, str]]:
        """Values and their names."""
        if self.is_log:
            for power in range(int(self.low), int(self.high) + 1):
                yield 10.0**power, _short(10**power)
        else:
            for k in range(round(20 * self.low), round(20 * self.high) + 1):
                yield k / 20, f"{k / 20:.0%}"


def _short(value: float) -> str:
    for size, letter in SUFFIX:
        if value >= size:
            return f"{value / size:g} {letter}"
    return f"{value:g}"


def drawing(rows: Sequence[Row]) -> bytes:
    """Points with ``front`` as SVG."""
    made = [row for row in rows if row["refused"] is None]
    charts = [_chart(made, LEFT, ("interval", "cycles per frame"), ("lut", "LUTs, estimated"))]
    known = [row for row in made if row["accuracy"] is not None]
    if len({row["accuracy"] for row in known}) > 1:
        charts.append(_chart(known, LEFT + WIDTH + GAP, ("lut", "LUTs, estimated"), ("accuracy", "accuracy")))
    best = sum(bool(row["front"]) for row in made)
    title = f"{len(made)} designs, of which no other beats {best}"
    kinds = [kind for kind in FORMS if any(_kind(row) == kind for row in made)]
    legend = [Entry(k, LEFT + 140 * n, 48, FORMS[k]) for n, k in enumerate(kinds)]
    width = LEFT + len(charts) * (WIDTH + GAP)
    return render(
        "explore.svg.j2", Context(title, width, TOP + HEIGHT + 60, tuple(legend), tuple(charts)), escape="html"
    )


def _chart(rows: Sequence[Row], left: float, across: tuple[str, str], up: tuple[str, str]) -> Chart:
    """Rows as dots, and a line through those of the front."""
    (x, x_name), (y, y_name) = across, up
    horizontal, vertical = (Axis.of([r[n] for r in rows], is_log=n != "accuracy") for n in (x, y))

    def place(row: Row) -> tuple[float, float]:
        return round(horizontal.share(row[x]) * WIDTH, 1), round((1 - vertical.share(row[y])) * HEIGHT, 1)

    dots = [
        Dot(f"{_kind(r)}{' best' if r['front'] else ''}", *place(r), 5 if r["front"] else 3, _text(r)) for r in rows
    ]
    marks = [Mark(round(horizontal.share(v) * WIDTH, 1), HEIGHT + 18, "middle", t) for v, t in horizontal.ticks()]
    marks += [Mark(-8, round((1 - vertical.share(v)) * HEIGHT, 1) + 4, "end", t) for v, t in vertical.ticks()]
    marks.append(Mark(WIDTH / 2, HEIGHT + 40, "middle", x_name))
    front = sorted(place(r) for r in rows if r["front"] and y != "accuracy")
    line = (Curve("front", "M" + "L".join(f"{px} {py}" for px, py in front)),) if len(front) > 1 else ()
    return Chart(y_name, left, TOP, WIDTH, HEIGHT, tuple(marks), line, tuple(dots))


def _kind(row: Row) -> str:
    return row["forms"][0] if len(row["forms"]) == 1 else "mixed"


def _text(row: Row) -> str:
    options = " ".join(f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}" for k, v in row["options"].items())
    accuracy = "" if row["accuracy"] is None else f", {row['accuracy']:.2%}"
    return f"{row['model']} {options}: {row['interval']} cycles, {row['lut']} LUTs, {row['bram']} block RAMs{accuracy}"
