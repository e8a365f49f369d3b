"""The parts of a chart, in pixels from its upper left corner; ``templates/chart.svg.j2`` draws them."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Chart", "Curve", "Dot", "Mark"]


@dataclass(frozen=True)
class Mark:
    """A label of an axis."""

    x: float
    y: float
    anchor: str
    text: str


@dataclass(frozen=True)
class Curve:
    """A line; `kind` is its class in the style sheet."""

    kind: str
    path: str


@dataclass(frozen=True)
class Dot:
    """A point with a text that shows when it is pointed at."""

    kind: str
    x: float
    y: float
    radius: float
    text: str


@dataclass(frozen=True)
class Chart:
    """Axes at the left and below, and what is between them."""

    title: str
    x: float
    y: float
    width: float
    height: float
    marks: tuple[Mark, ...]
    curves: tuple[Curve, ...]
    dots: tuple[Dot, ...]
