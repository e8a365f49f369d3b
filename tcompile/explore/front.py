"""Designs that no other beats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["OBJECTIVES", "front", "spread"]

OBJECTIVES = {
    "interval": 1,
    "latency": 1,
    "lut": 1,
    "ff": 1,
    "bram": 1,
    "bits": 1,
    "accuracy": -1,
}  # 1: the less the better
Row = Mapping[str, Any]


def front(rows: Sequence[Row], objectives: Sequence[str]) -> list[int]:
    """Indices of the rows that no other row equals or betters in every objective, by the first objective.

    Of rows that are alike in all objectives the first stays. Rows that lack an objective take no part.

    Parameters
    ----------
    objectives : sequence of str
        Names in `OBJECTIVES`.
    """
    values = {
        k: tuple(OBJECTIVES[o] * row[o] for o in objectives)
        for k, row in enumerate(rows)
        if all(row.get(o) is not None for o in objectives)
    }
    kept: list[int] = []
    for k in sorted(values, key=lambda k: (values[k], k)):  # whoever beats a row comes before it
        if not any(_beats(values[other], values[k]) for other in kept):
            kept.append(k)
    return kept


def _beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Whether one is nowhere worse."""
    return all(a <= b for a, b in zip(one, other, strict=True))


def spread(indices: Sequence[int], count: int) -> list[int]:
    """As many of some rows as asked, ends first, evenly between them."""
    if count >= len(indices):
        return list(indices)
    if count < 2:
        return list(indices[:count])
    places = [round(k * (len(indices) - 1) / (count - 1)) for k in range(count)]
    return [indices[p] for p in places]
