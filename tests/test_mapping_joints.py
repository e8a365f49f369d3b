"""What the solver counts, layers and what stands behind and between them, is what is placed."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw.engine import Engine
from hw.pad import Pad
from hw.width import Narrow
from tcompile.ir.graph import Graph
from tcompile.ir.requantizers import Comparators, Division
from tcompile.mapping.cost import cost, cost_behind
from tcompile.mapping.estimate import Resources, estimate_block
from tcompile.mapping.folding import Fold, Wish
from tcompile.mapping.joints import joints
from tcompile.mapping.menu import menu, price
from tcompile.mapping.place import Recipe, place
from tcompile.mapping.plan import planned, searched, tasks
from tcompile.mapping.solver import least
from tests.networks import Builder, random_folds


def levels(random: np.random.Generator) -> Comparators:
    return Comparators((np.sort(random.integers(-20, 20, 3)),), (np.arange(4),))


def division(random: np.random.Generator, channels: int) -> Division:
    return Division(
        negate=np.zeros(channels, bool), multiplier=1, addend=random.integers(-5, 5, channels), ties="even",
        lo=np.zeros(channels, int), hi=np.full(channels, 7), divisor=random.integers(3, 9, channels),
    )  # fmt: skip


def network(seed: int) -> Graph:
    """Convolutions with pools, a residual, both kinds of requantizers and a dense layer at the end."""
    b, random = Builder(), np.random.default_rng(seed)
    x = b.input((1, int(random.integers(1, 6)), 6, 6))
    for _ in range(int(random.integers(1, 4))):
        channels = int(random.integers(2, 9))
        shape = (channels, b.shape(x)[1], *random.integers(1, 4, 2).tolist())
        pads = tuple(n // 2 for n in shape[2:])
        y = b.conv(x, random.integers(-1, 2, shape), pads=(*pads, *((n - 1) // 2 for n in shape[2:])))
        y = b.requantize(y, division(random, channels) if random.random() < 0.5 else levels(random))
        if random.random() < 0.5:
            z = b.conv(y, random.integers(-1, 2, (channels, channels, 1, 1)))
            z = b.requantize(z, levels(random))
            y = b.requantize(b.add_scaled(*((y, z) if random.random() < 0.5 else (z, y))), levels(random))
        if random.random() < 0.5:
            y = b.pool(y, (2, 2), (1, 1), pads=(0, 0, 1, 0), maximum=random.random() < 0.5)
        x = y
    size = int(np.prod(b.shape(x)))
    return b.graph(b.dense(b.reshape(x, (1, size)), random.integers(-1, 2, (3, size))))


def counted(graph: Graph, folds: dict[str, Fold], pace: int, *, layers: bool) -> Resources:
    """By the menus' and the joints' costs; without the layers' own blocks if these are not asked for."""
    work = tasks(graph)
    plans = {n: planned(t, folds[n]) for n, t in work.items()}
    total = Resources()
    for name, task in work.items():
        plan = plans[name] if folds[name].form == "engine" else searched(task, plans[name])
        total += cost_behind(task, plan, pace, "ecp5")
        if layers:
            total += cost(task, plan, "ecp5")
    for joint in joints(graph, work):
        total += joint.resources(plans[joint.maker or joint.user].fold.leaving, folds[joint.user], "ecp5")
    return total


@given(st.integers(0, 1 << 30), st.sampled_from([1, 200, 3000]))
@settings(max_examples=60)
def test_what_stands_behind_and_between_engines_is_counted_as_it_is_placed(seed, pace):
    graph = network(seed)
    work = tasks(graph)
    folds = {n: planned(work[n], f).fold for n, f in random_folds(graph, seed).items()}
    design = place(graph, Recipe(folds, 8, pace))
    engines = {o for i in design.instances if isinstance(i.block, Engine) for o in i.outputs if i.block.weighted}
    layers = [i for i in design.instances if engines.intersection(i.outputs)]
    layers += [i for i in design.instances if isinstance(i.block, Narrow) and engines.intersection(i.inputs)]
    others = (i.block for i in design.instances if i not in layers)
    placed = sum((estimate_block(block, "ecp5") for block in others), Resources())
    assert counted(graph, folds, pace, layers=False) == placed


@given(st.integers(0, 1 << 30), st.sampled_from([1, 200, 3000]), st.sampled_from(["serial", "parallel"]))
@settings(max_examples=30)
def test_designs_of_graphs_are_counted_as_they_are_placed(seed, pace, form):
    graph = network(seed)
    work = tasks(graph)
    folds = {n: work[n].layer.fit(f.pe, f.simd, form) for n, f in random_folds(graph, seed).items()}
    graphs = {n: searched(t, planned(t, folds[n])).graph for n, t in work.items()}
    design = place(graph, Recipe(folds, 8, pace, graphs=graphs))
    placed = sum((estimate_block(i.block, "ecp5") for i in design.instances), Resources())
    assert counted(graph, folds, pace, layers=True) == placed


def small(seed: int) -> Graph:
    """Three layers, the last of them added to the first."""
    b, random = Builder(), np.random.default_rng(seed)
    x = b.requantize(b.conv(b.input((1, 2, 4)), random.integers(-1, 2, (4, 2, 1))), levels(random))
    y = b.requantize(b.conv(x, random.integers(-1, 2, (3, 4, 2)), pads=(1, 0)), levels(random))
    z = b.requantize(b.conv(y, random.integers(-1, 2, (4, 3, 1))), levels(random))
    return b.graph(b.add_scaled(z, x))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("budget", [12, 40])
def test_nothing_costs_less_together_than_what_is_chosen(seed, budget):
    graph = small(seed)
    work = tasks(graph)
    between = joints(graph, work)
    menus = {name: menu(task, Wish(form="engine"), Wish(), 2, "ecp5") for name, task in work.items()}
    found = least(menus, budget, between)
    costs = []
    for offers in product(*(m.able(budget) for m in menus.values())):
        chosen = dict(zip(menus, offers, strict=True))
        total = sum((o.resources for o in offers), Resources())
        for j in between:
            total += j.resources(chosen[j.maker or j.user].plan.fold.leaving, chosen[j.user].plan.fold, "ecp5")
        costs.append(price(total))
    assert price(found.resources) == pytest.approx(min(costs))


@pytest.mark.parametrize("pads", [0, 1])
def test_borders_are_counted_where_they_are(pads):
    b = Builder()
    x = b.conv(b.input((1, 4, 6, 6)), np.ones((4, 4, 3, 3), int))
    graph = b.graph(b.conv(x, np.ones((4, 4, 3, 3), int), pads=(pads,) * 4))
    (first, second) = joints(graph, tasks(graph))
    assert (first.maker, second.maker) == ("", x)
    blocks = [type(block) for block in second.blocks(2, Fold(1, 2))]
    assert blocks == [Pad] * pads
