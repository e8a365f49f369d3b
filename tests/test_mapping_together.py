"""Choices that depend on each other, against trying everything."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tcompile.mapping import together
from tcompile.mapping.together import Pair, cheapest

Costs = tuple[dict[str, np.ndarray], list[Pair]]


def random_costs(seed: int) -> Costs:
    """A few things with a few options each, some of them in pairs, some pairs twice."""
    random = np.random.default_rng(seed)
    names = [f"v{k}" for k in range(int(random.integers(1, 6)))]
    alone = {n: random.integers(0, 9, int(random.integers(1, 5))).astype(float) for n in names}
    pairs = [p for p in combinations(names, 2) if random.random() < 0.6]
    pairs += [(b, a) for a, b in pairs if random.random() < 0.3]
    return alone, [(a, b, random.integers(0, 9, (len(alone[a]), len(alone[b]))).astype(float)) for a, b in pairs]


def cost(chosen: dict[str, int], alone: dict[str, np.ndarray], pairs: list[Pair]) -> float:
    return sum(alone[n][k] for n, k in chosen.items()) + sum(t[chosen[a], chosen[b]] for a, b, t in pairs)


def best(alone: dict[str, np.ndarray], pairs: list[Pair]) -> float:
    options = product(*(range(len(c)) for c in alone.values()))
    return min(cost(dict(zip(alone, o, strict=True)), alone, pairs) for o in options)


@given(st.integers(0, 1 << 30))
@settings(max_examples=200)
def test_nothing_is_cheaper_than_what_is_found(seed):
    alone, pairs = random_costs(seed)
    found = cheapest(alone, pairs)
    assert list(found) == list(alone)
    assert cost(found, alone, pairs) == best(alone, pairs)


def test_things_are_not_chosen_one_by_one():
    """Alone the first options are cheaper, together they are dearer."""
    alone = {"a": np.array([0.0, 1.0]), "b": np.array([0.0, 1.0])}
    assert cheapest(alone, [("a", "b", np.array([[9.0, 9.0], [9.0, 0.0]]))]) == {"a": 1, "b": 1}


def test_of_equals_the_first():
    assert cheapest({"a": np.zeros(3), "b": np.zeros(2)}, [("a", "b", np.zeros((3, 2)))]) == {"a": 0, "b": 0}
    assert cheapest({}, []) == {}


@pytest.mark.parametrize("seed", range(5))
def test_tables_stay_small_and_the_best_survives_where_what_is_left_out_looks_dear(seed, monkeypatch):
    """With room for 300 entries of the 8^5 that five things with each other would need."""
    random = np.random.default_rng(seed)
    alone = {f"v{k}": random.random(8) for k in range(5)}
    pairs = [(a, b, random.random((8, 8)) / 10) for a, b in combinations(alone, 2)]
    entries, eliminated = [], together._eliminated

    def watched(names, factors):
        sizes = {over[0]: len(table) for over, table in factors if len(over) == 1}
        entries.extend(together._sizes(sizes, pairs))
        return eliminated(names, factors)

    monkeypatch.setattr(together, "LARGEST", 300)
    monkeypatch.setattr(together, "_eliminated", watched)
    found = cheapest(alone, pairs)
    assert max(entries) <= 300
    assert cost(found, alone, pairs) == best(alone, pairs)
