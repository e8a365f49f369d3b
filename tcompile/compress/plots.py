"""One drawing of a training: accuracy and zero tiles by epoch, accuracy against zero tiles, and each layer's tiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tcompile.charts import Chart, Curve, Dot, Mark
from tcompile.templates import render

__all__ = ["drawing"]

WIDTH = 940
LEFT, TOP = 60, 60
CHART = (380, 200)  # width and height of a chart
GAP = 100  # between charts
CELL = 8.0  # of a tile, in pixels, or less where a layer has many
MAP_TOP = TOP + CHART[1] + 70
MAP_GAP = 34  # below a map


@dataclass(frozen=True)
class Map:
    """Tiles of a layer: row blocks by taps and channel blocks; those kept are drawn."""

    title: str
    x: float
    y: float
    width: float
    height: float
    cell: float
    path: str


@dataclass(frozen=True)
class Context:
    """What the template knows."""

    title: str
    width: float
    height: float
    charts: tuple[Chart, ...]
    maps: tuple[Map, ...]


def drawing(report: Mapping[str, Any]) -> bytes:
    """The report of ``compress`` as an SVG picture."""
    history = report["history"]
    maps = _maps(report["layers"])
    bottom = maps[-1].y + maps[-1].height if maps else MAP_TOP
    charts = (_by_epoch(history), _by_sparsity(history))
    name = report["model"]["file"]
    accuracy = report["accuracy"]
    title = f"{name}: {accuracy['test']:.2%} on test frames, float {accuracy['test_float']:.2%}"
    return render("compress.svg.j2", Context(title, WIDTH, bottom + MAP_GAP, charts, maps), escape="html")


def _by_epoch(history: Sequence[Mapping[str, Any]]) -> Chart:
    last = max(1, history[-1]["epoch"])
    low = _floor(history)
    accuracy = [(r["epoch"] / last, _height(r["validation"], low)) for r in history]
    sparsity = [(r["epoch"] / last, r["tile_sparsity"]) for r in history]
    marks = (*_heights(low), *_sides("0", str(last)), _right(1.0, "100 %"), _right(0.0, "0 %"))
    curves = (Curve("validation", _path(accuracy)), Curve("sparsity", _path(sparsity)))
    return Chart("validation accuracy, and zero tiles (dashed), by epoch", LEFT, TOP, *CHART, marks, curves, ())


def _by_sparsity(history: Sequence[Mapping[str, Any]]) -> Chart:
    low = _floor(history)
    dots = []
    for record in history:
        x, y = _place(record["tile_sparsity"], _height(record["validation"], low))
        text = f"epoch {record['epoch']}: {record['validation']:.2%}, {record['tile_sparsity']:.1%} of tiles zero"
        dots.append(Dot("best" if record["best"] else "dot", x, y, 6 if record["best"] else 3, text))
    marks = (*_heights(low), *_sides("0 %", "100 %"))
    x = LEFT + CHART[0] + GAP
    return Chart("validation accuracy against zero tiles", x, TOP, *CHART, marks, (), tuple(dots))


def _floor(history: Sequence[Mapping[str, Any]]) -> float:
    """Where the axis of accuracies begins: a tenth below the worst, in tenths."""
    return max(0, int(10 * min(r["validation"] for r in history) - 0.5)) / 10


def _height(accuracy: float, low: float) -> float:
    return (accuracy - low) / (1 - low)


def _place(x: float, y: float) -> tuple[float, float]:
    """Shares of a chart in pixels."""
    return round(x * CHART[0], 1), round((1 - y) * CHART[1], 1)


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join("{} {}".format(*_place(x, y)) for x, y in points)


def _heights(low: float) -> tuple[Mark, ...]:
    return tuple(Mark(-6, _place(0, y)[1] + 4, "end", f"{low + y * (1 - low):.0%}") for y in (0, 1))


def _sides(first: str, last: str) -> tuple[Mark, ...]:
    below = CHART[1] + 16
    return Mark(0, below, "middle", first), Mark(CHART[0], below, "middle", last)


def _right(y: float, text: str) -> Mark:
    return Mark(CHART[0] + 6, _place(0, y)[1] + 4, "start", text)


def _maps(layers: Sequence[Mapping[str, Any]]) -> tuple[Map, ...]:
    maps, y = [], float(MAP_TOP)
    for layer in layers:
        rows = layer["map"]
        columns = len(rows[0])
        cell = round(min(CELL, (WIDTH - 2 * 20) / columns), 2)
        title = f"{layer['name']}: {layer['kept']} of {layer['tiles']} tiles kept"
        maps.append(Map(title, 20, y, round(columns * cell, 1), round(len(rows) * cell, 1), cell, _squares(rows)))
        y += len(rows) * cell + MAP_GAP
    return tuple(maps)


def _squares(rows: Sequence[str]) -> str:
    """Runs of kept tiles as rectangles one tile high."""
    parts = []
    for y, row in enumerate(rows):
        start = 0
        while (start := row.find("1", start)) >= 0:
            end = row.find("0", start)
            end = len(row) if end < 0 else end
            parts.append(f"M{start} {y}h{end - start}v1h-{end - start}z")
            start = end
    return "".join(parts)
