"""Choices that depend on each other: one option for each of some things, the cheapest of all together.

What an option costs is known alone and, for some pairs of things, together. Things are eliminated one after the other
(dynamic programming over a graph): the cheapest option of one thing is noted for all options of its neighbours, which are
neighbours of each other from then on. That is exact. Networks are nearly chains, so tables stay small; where they would
not, the options that look dearest are left out first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np

__all__ = ["LARGEST", "cheapest"]

LARGEST = 1 << 22  # entries of a table

Pair = tuple[str, str, np.ndarray]
Factor = tuple[tuple[str, ...], np.ndarray]


def cheapest(alone: Mapping[str, np.ndarray], pairs: Sequence[Pair]) -> dict[str, int]:
    """The option of each thing with which the sum of all costs is least; of equals the first.

    Parameters
    ----------
    alone : mapping of str to float array (options,)
        Costs of the options of each thing.
    pairs : sequence of (str, str, float array (options, options))
        Costs of the options of two different things together.
    """
    kept = _worthwhile(alone, pairs)
    while max(_sizes({name: len(k) for name, k in kept.items()}, pairs), default=0) > LARGEST:
        name = max(kept, key=lambda n: len(kept[n]))
        low = _bounds(name, alone, pairs, kept)[0]
        kept[name] = np.sort(kept[name][np.argsort(low, kind="stable")[: len(low) // 2]])
    factors: list[Factor] = [((name,), alone[name][k]) for name, k in kept.items()]
    factors += [((a, b), table[np.ix_(kept[a], kept[b])]) for a, b, table in pairs]
    places = _eliminated(list(kept), factors)
    return {name: int(k[places[name]]) for name, k in kept.items()}


def _bounds(
    name: str, alone: Mapping[str, np.ndarray], pairs: Sequence[Pair], kept: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """What each option that is kept costs at least and at most with its pairs."""
    low = high = alone[name][kept[name]]
    for a, b, table in pairs:
        if name in (a, b):
            part = table[np.ix_(kept[a], kept[b])]
            axis = 1 if name == a else 0
            low, high = low + part.min(axis=axis), high + part.max(axis=axis)
    return low, high


def _worthwhile(alone: Mapping[str, np.ndarray], pairs: Sequence[Pair]) -> dict[str, np.ndarray]:
    """Options without those that are dearer at best than another one at worst."""
    kept = {name: np.arange(len(costs)) for name, costs in alone.items()}
    changed = True
    while changed:
        changed = False
        for name in kept:
            low, high = _bounds(name, alone, pairs, kept)
            good = low <= high.min()
            if not good.all():
                kept[name], changed = kept[name][good], True
    return kept


def _next(sizes: Mapping[str, int], neighbours: Mapping[str, set[str]]) -> str:
    """The thing whose elimination makes the smallest table."""
    return min(neighbours, key=lambda n: prod(sizes[m] for m in neighbours[n]) * sizes[n])


def _sizes(sizes: Mapping[str, int], pairs: Sequence[Pair]) -> list[int]:
    """Entries of the tables that elimination would make."""
    neighbours: dict[str, set[str]] = {name: set() for name in sizes}
    for a, b, _ in pairs:
        neighbours[a].add(b)
        neighbours[b].add(a)
    found = []
    while neighbours:
        name = _next(sizes, neighbours)
        near = neighbours.pop(name)
        found.append(prod(sizes[n] for n in near) * sizes[name])
        for n in near:
            neighbours[n] = (neighbours[n] | near) - {n, name}
    return found


def _eliminated(names: Sequence[str], factors: list[Factor]) -> dict[str, int]:
    """The best place of each thing in the tables' axes."""
    sizes = {over[0]: len(table) for over, table in factors if len(over) == 1}
    left, noted = set(names), []
    while left:
        neighbours = {n: {m for over, _ in factors if n in over for m in over} - {n} for n in names if n in left}
        name = _next(sizes, neighbours)
        axes = (*sorted(neighbours[name]), name)
        mine = [f for f in factors if name in f[0]]
        table = np.zeros([sizes[n] for n in axes])
        for over, costs in mine:
            table += _spread(costs, over, axes)
        factors = [f for f in factors if name not in f[0]] + [(axes[:-1], table.min(axis=-1))]
        noted.append((axes, table.argmin(axis=-1)))
        left.remove(name)
    found: dict[str, int] = {}
    for axes, best in reversed(noted):
        found[axes[-1]] = int(best[tuple(found[n] for n in axes[:-1])])
    return found


def _spread(costs: np.ndarray, over: tuple[str, ...], axes: tuple[str, ...]) -> np.ndarray:
    """Costs over some things as an array over more of them, for broadcasting."""
    order = sorted(range(len(over)), key=lambda k: axes.index(over[k]))
    shape = [1] * len(axes)
    for k in order:
        shape[axes.index(over[k])] = costs.shape[k]
    return costs.transpose(order).reshape(shape)
