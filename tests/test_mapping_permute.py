"""Channel permutation: the same integers from a graph whose channels come in another order, and fewer tiles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from tcompile.ir import integer as I
from tcompile.ir.graph import Graph
from tcompile.ir.interpret import interpret
from tcompile.ir.legality import check
from tcompile.ir.requantizers import Comparators, Division, Requantizer, Shift, Table
from tcompile.mapping.folding import Fold, Folding, Wish
from tcompile.mapping.layouts import layouts
from tcompile.mapping.linear import linear
from tcompile.mapping.network import map_network, plan_layers
from tcompile.mapping.permute import (
    Order,
    _descend,
    _Groups,
    _Layer,
    _moved,
    _reordered_graph,
    _Search,
    _terms,
    entries,
    permutation,
    permute,
)
from tcompile.mapping.plan import Choice, labels
from tests.networks import Builder, RandomNetwork, differences, frames_of, random_folds

FORMS = ["comparators", "table", "shift", "division", "shared"]
KINDS = {"ternary": (-1, 1), "int4": (-8, 7)}
SEEDS = range(12)


# --- networks --------------------------------------------------------------------------------------------------------


def form(kind: str, channels: int, rng: np.random.Generator) -> Requantizer:
    """A requantizer from sums of any size to [0, 7], with parameters of its own for each channel."""
    if kind == "comparators":
        counts = rng.integers(1, 8, channels)
        return Comparators(
            tuple(np.sort(rng.integers(-40, 40, n)) for n in counts), tuple(rng.integers(0, 8, n + 1) for n in counts)
        )
    if kind == "table":
        return Table(rng.integers(-2020, -2000, channels), tuple(rng.integers(0, 8, 4100) for _ in range(channels)))
    shared = 1 if kind == "shared" else channels
    parts: dict[str, Any] = {
        "negate": rng.random(shared) < 0.3,
        "multiplier": 3,
        "addend": rng.integers(-20, 20, shared),
        "ties": "even",
        "lo": np.zeros(1),
        "hi": rng.integers(5, 8, shared),
    }
    odd = tuple(rng.integers(-40, 40, n) for n in rng.integers(1, 3, shared))
    parts |= {"exceptions": odd, "corrections": tuple(rng.integers(-1, 2, x.size) for x in odd)}
    if kind == "division":
        return Division(**parts, divisor=rng.integers(1, 30, channels))
    return Shift(**parts, bits=rng.integers(1, 5, shared))


class Made(Builder):
    """A builder of random layers."""

    def __init__(self, seed: int, kind: str = "ternary", density: float = 0.4) -> None:
        super().__init__()
        self.rng = np.random.default_rng(seed)
        self.range, self.density = KINDS[kind], density

    def weights(self, *shape: int) -> np.ndarray:
        low, high = self.range
        return self.rng.integers(low, high + 1, shape) * (self.rng.random(shape) < self.density)

    def requantized(self, x: str, kind: str = "", axis: int = 1) -> str:
        kind = kind or str(self.rng.choice(FORMS))
        return self.declared(self.requantize(x, form(kind, self.shape(x)[axis], self.rng), axis), -1, 8)

    def layer(self, x: str, rows: int, kernel: int = 3, kind: str = "", group: int = 1) -> str:
        weight = self.weights(rows, self.shape(x)[1] // group, kernel, kernel)
        pads = (kernel // 2,) * 4
        return self.requantized(self.conv(x, weight, pads=pads, group=group, pad_code=1), kind)


def everything(seed: int, density: float = 0.4) -> Graph:
    """Residuals, pools, depthwise and grouped convolutions, a transposition, and a dense layer behind a flattening."""
    b = Made(seed, ("ternary", "int4")[seed % 2], density)
    x = b.layer(b.input((1, 3, 5, 4), 0, 7), 8)
    y = b.layer(b.layer(x, 6), 8)
    x = b.requantized(b.add_scaled(x, y, (1, -2)))
    x = b.layer(x, 8, group=8)
    if seed % 3 == 0:
        x = b.layer(b.layer(x, 8, group=2), 6)
    x = b.pool(b.layer(x, 8, 1), (2, 2), (1, 1), maximum=bool(seed % 2))
    x = b.requantized(x)
    x = b.transpose(x, (0, 2, 1, 3)) if seed % 4 == 0 else x
    x = b.reshape(x, (1, int(np.prod(b.shape(x)))))
    x = b.requantized(b.dense(x, b.weights(10, b.shape(x)[1])), axis=1)
    return b.graph(b.dense(x, b.weights(3, 10)))


def chain(weights: list[np.ndarray], kind: str = "shared", grid: tuple[int, int] = (3, 3)) -> Graph:
    """Convolutions one behind the other."""
    b = Made(0)
    x = b.input((1, weights[0].shape[1], *grid), 0, 7)
    for w in weights:
        x = b.requantized(b.conv(x, w, pads=(w.shape[2] // 2,) * 4), kind)
    return b.graph(x)


def folds(graph: Graph, pe: int = 4, simd: int = 4) -> dict[str, Fold]:
    known = layouts(graph)
    return {n.name: linear(n, known[n.inputs[0]]).fit(pe, simd) for n in graph if isinstance(n, (I.Conv, I.Dense))}


def shuffled(graph: Graph, seed: int) -> tuple[Graph, dict[str, Order]]:
    """All channels that may move in a random order."""
    groups, rng = _Groups(graph), np.random.default_rng(seed)
    views = [v for n in graph if (v := groups.view(n.name)) is not None]
    orders = {v.group: rng.permutation(v.channels) for v in views}
    return _reordered_graph(graph, groups, orders), _moved(groups, orders)


def values(graph: Graph, count: int = 3) -> dict[str, np.ndarray]:
    return interpret(graph, frames_of(graph, count), keep=lambda n: True)


def same(before: Graph, after: Graph, orders: dict[str, Order]) -> bool:
    """Whether all values are the same, once those that moved are put back."""
    meant, found = values(before), values(after)
    return all(np.array_equal(x, orders[v].restored(found[v]) if v in orders else found[v]) for v, x in meant.items())


# --- the same integers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_any_order_gives_the_same_integers(seed):
    graph = everything(seed)
    other, orders = shuffled(graph, seed)
    check(other)
    assert len(orders) > 10
    assert same(graph, other, orders)
    assert [(n.name, n.inputs, n.type, n.op) for n in graph] == [(n.name, n.inputs, n.type, n.op) for n in other]


@pytest.mark.parametrize("seed", range(60))
def test_any_order_of_any_network_gives_the_same_integers(seed):
    graph = RandomNetwork(seed, 10).graph()
    other, orders = shuffled(graph, seed)
    check(other)
    assert same(graph, other, orders)


@pytest.mark.parametrize("seed", SEEDS)
def test_permuted_network_gives_the_same_integers(seed):
    graph = everything(seed)
    found = permutation(graph, folds(graph, 2, 2))
    assert same(graph, found.graph, found.orders)


@pytest.mark.parametrize("kind", FORMS)
def test_parameters_of_every_form_move_with_their_channel(kind):
    rng = np.random.default_rng(1)
    graph = chain([rng.integers(-1, 2, s) for s in ((8, 2, 1, 1), (6, 8, 3, 3))], kind)
    other, orders = shuffled(graph, 1)
    (middle, *_) = (n for n in graph.all(I.Requantize) if n.name in orders)
    assert (other[middle.name].form == middle.form) == (kind == "shared")
    assert same(graph, other, orders)


@pytest.mark.parametrize("seed", range(8))
def test_any_order_gives_the_same_integers_wrong(seed):
    """Whatever node is not told of the order, the comparison notices."""
    graph = everything(seed, 0.9)
    other, orders = shuffled(graph, seed)
    told = [n for n in other if n != graph[n.name]]
    assert {type(n) for n in told} >= {I.Conv, I.Dense, I.Requantize}
    for node in told:
        forgot = other.with_nodes(graph[n.name] if n.name == node.name else n for n in other)
        assert not same(graph, forgot, orders), node


def test_permuted_design_computes_the_permuted_network():
    graph = everything(2)
    found = permutation(graph, folds(graph))
    assert found.orders
    mapped = map_network(found.graph, Choice(4, 4))
    assert differences(mapped.design, found.graph, frames_of(graph, 3)) == []


# --- what must not move ----------------------------------------------------------------------------------------------


def _to_output(b: Made, x: str) -> str:
    return x


def _alone(b: Made, x: str) -> str:
    return b.layer(x, 4)


MOVES: dict[str, Callable[[Made, str], str]] = {
    "conv": _alone,
    "residual": lambda b, x: b.layer(b.requantized(b.add_scaled(x, b.layer(x, 8))), 4),
    "depthwise": lambda b, x: b.layer(b.layer(x, 8, group=8), 4),
    "pad in space": lambda b, x: b.layer(b.pad(x, (0, 0, 1, 0, 0, 0, 0, 2), 1), 4),
    "slice in space": lambda b, x: b.layer(b.slice(x, (0, 0, 3, 1), (1, 1, -1, 2), (1, 8, 4, 2)), 4),
    "concat in space": lambda b, x: b.layer(b.concat([x, b.layer(x, 8)], 2), 4),
    "parameters along space": lambda b, x: b.layer(b.requantized(x, "comparators", 2), 4),
    "parameters along a slower axis": lambda b, x: b.layer(
        b.transpose(b.requantized(b.transpose(x, TURN), "comparators", 1), TURN), 4
    ),
    "transposed dense": lambda b, x: b.dense(b.transpose(x, (0, 2, 3, 1)), b.weights(3, 8)),
    "flat dense": lambda b, x: b.dense(b.reshape(x, (1, 128)), b.weights(3, 128)),
    "turned flat dense": lambda b, x: b.dense(b.reshape(b.transpose(x, (0, 2, 1, 3)), (1, 128)), b.weights(3, 128)),
    "turned half flat dense": lambda b, x: b.dense(
        b.reshape(b.transpose(x, (0, 2, 1, 3)), (1, 2, 64)), b.weights(3, 64)
    ),
}
STAYS: dict[str, Callable[[Made, str], str]] = {
    "output": _to_output,
    "argmax": lambda b, x: b.argmax(x, 1),
    "concat": lambda b, x: b.layer(b.concat([x, b.layer(x, 8)], 1), 4),
    "slice": lambda b, x: b.layer(b.slice(x, (0, 1, 0, 0), (1, 1, 1, 1), (1, 4, 4, 4)), 4),
    "turned": lambda b, x: b.layer(b.slice(x, (0, 7, 0, 0), (1, -1, 1, 1), (1, 8, 4, 4)), 4),
    "pad": lambda b, x: b.layer(b.pad(x, (0, 1, 0, 0, 0, 0, 0, 0), 0), 4),
    "grouped": lambda b, x: b.layer(b.layer(x, 8, group=2), 4),
    "multiplied depthwise": lambda b, x: b.layer(b.layer(x, 16, group=8), 4),
    "added to what stays": lambda b, x: b.layer(b.requantized(b.add_scaled(x, b.add_scaled(b.slice(x, *SHIFTED), x))), 4),
    "added to what stayed before": lambda b, x: added_to_frozen(b, x, b.layer(x, 8)),
    "argmax behind an addition": lambda b, x: b.argmax(b.add_scaled(b.layer(x, 8), x), 1),
    "dense along space": lambda b, x: b.dense(x, b.weights(3, 4)),
    "half flat dense": lambda b, x: b.dense(b.reshape(x, (1, 2, 64)), b.weights(3, 64)),
    "channels split": lambda b, x: b.layer(b.reshape(x, (1, 2, 16, 4)), 4),
    "parameters across": lambda b, x: b.layer(b.requantized(b.reshape(x, (1, 4, 8, 4)), "comparators", 1), 4),
}  # fmt: skip
TURN = (0, 2, 1, 3)
SHIFTED = ((0, 7, 0, 0), (1, -1, 1, 1), (1, 8, 4, 4))


def added_to_frozen(b: Made, x: str, y: str) -> str:
    turned = b.slice(y, *SHIFTED)
    return b.concat([b.layer(turned, 4), b.layer(b.requantized(b.add_scaled(x, y)), 4)], 1)


def with_channels(behind: Callable[[Made, str], str]) -> tuple[Graph, str]:
    """A value of eight channels and what is behind it."""
    b = Made(3)
    x = b.layer(b.input((1, 2, 4, 4), 0, 7), 8)
    return b.graph(behind(b, x)), x


@pytest.mark.parametrize("behind", MOVES.values(), ids=MOVES)
def test_channels_move_through(behind):
    graph, x = with_channels(behind)
    other, orders = shuffled(graph, 5)
    assert x in orders
    assert same(graph, other, orders)


@pytest.mark.parametrize("behind", STAYS.values(), ids=STAYS)
def test_channels_stay(behind):
    graph, x = with_channels(behind)
    other, orders = shuffled(graph, 5)
    assert x not in orders
    assert same(graph, other, orders)


def test_inputs_and_outputs_keep_their_order():
    graph = everything(0)
    _, orders = shuffled(graph, 0)
    assert orders.keys().isdisjoint([*graph.outputs, *(n.name for n in graph.all(I.Input))])


def test_what_is_added_keeps_one_order():
    graph = everything(1)
    _, orders = shuffled(graph, 1)
    for node in graph.all(I.AddScaled):
        assert len({orders[v] for v in (node.name, *node.inputs)}) == 1


# --- counting --------------------------------------------------------------------------------------------------------


LANES = [(2, 2), (3, 5), (4, 7), (8, 4)]


@pytest.fixture(params=range(4))
def case(request) -> tuple[Graph, dict[str, Fold]]:
    """A sparse network and its lanes, chosen alike and at random."""
    graph = everything(request.param, 0.1)
    return graph, folds(graph, *LANES[request.param]) if request.param else random_folds(graph, 3)


def test_entries_are_those_of_the_plans(case):
    graph, lanes = case
    names = labels(graph)
    wishes = {names[v]: Wish(f.pe, f.simd) for v, f in lanes.items()}
    plans = plan_layers(graph, Choice(folding=Folding(wishes)))
    assert entries(graph, lanes) == {v: p.positions * p.entries for v, p in plans.items()}


def test_gains_of_a_swap_are_what_it_saves(case):
    """For every group, layer and pair of channels."""
    graph, lanes = case
    search = _Search(graph, lanes, _Groups(graph), 0)
    rng = np.random.default_rng(0)
    orders = {g: rng.permutation(o) for g, o in search.given.items()}
    compared = 0
    for group, layers in search.used.items():
        for layer in layers:
            assert layer.out != layer.into
            for term in _terms(group, [layer], orders):
                gains = term.gains(orders[group], 0.0)
                assert np.array_equal(gains, saved(layer, group, orders))
                compared += int(gains.any())
    assert compared > 1


def saved(layer: _Layer, group: int, orders: dict[int, np.ndarray]) -> np.ndarray:
    """Entries less, for each swap of two channels."""
    count = len(orders[group])
    found = np.zeros((count, count))
    for a, b in np.ndindex(count, count):
        other = orders[group].copy()
        other[[a, b]] = other[[b, a]]
        found[a, b] = layer.cost(orders) - layer.cost(orders | {group: other})
    return found


def test_search_counts_as_the_schedule_does(case):
    graph, lanes = case
    groups = _Groups(graph)
    search = _Search(graph, lanes, groups, 0)
    rng = np.random.default_rng(4)
    orders = {g: rng.permutation(o) for g, o in search.given.items()}
    before, after = entries(graph, lanes), entries(_reordered_graph(graph, groups, orders), lanes)
    changed = [sum(x.values()) - search.cost(o, search.layers)[1] for x, o in ((before, search.given), (after, orders))]
    assert changed[0] == changed[1]
    assert before != after


def test_one_step_of_swaps_saves_what_its_gains_say():
    weight = np.random.default_rng(2).integers(-1, 2, (24, 24, 1, 1)) * (
        np.random.default_rng(3).random((24, 24, 1, 1)) < 0.1
    )
    graph = chain([weight, weight, weight])
    search = _Search(graph, folds(graph), _Groups(graph), 0)
    for group, layers in search.used.items():
        terms = _terms(group, layers, search.given)
        order, steps = _descend(search.given[group], terms, (0.0,), 100, single=False)
        assert 1 < steps < 100
        assert search.cost(search.given | {group: order}, layers) < search.cost(search.given, layers)


# --- gathering zeros -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_never_more_entries_than_before(seed):
    graph = everything(seed)
    found = permutation(graph, folds(graph, 2, 2))
    assert found.before == entries(graph, folds(graph, 2, 2))
    assert found.after == entries(found.graph, folds(graph, 2, 2))
    assert max(found.after.values()) <= max(found.before.values())
    assert (found.graph is graph) == (sum(found.after.values()) == sum(found.before.values()))


def planted(size: int, kernel: int, density: float, seed: int = 0) -> tuple[list[np.ndarray], int]:
    """A square layer of random weights in 8 x 8 blocks on the diagonal, in random order, between two full ones."""
    rng = np.random.default_rng(seed)
    mask = np.kron(np.eye(size // 8), np.ones((8, 8)))[..., None, None]
    shape = (size, size, kernel, kernel)
    weight = (rng.choice([-1, 1], shape) * (rng.random(shape) < density) * mask).astype(np.int64)
    hidden = weight[rng.permutation(size)][:, rng.permutation(size)]
    blocks = weight.reshape(size // 8, 8, size // 8, 8, -1).any(axis=(1, 3)).sum()
    return [np.ones((size, 1, 1, 1), np.int64), hidden, np.ones((1, size, 1, 1), np.int64)], int(blocks)


@pytest.mark.parametrize("size, kernel, density", [(64, 1, 1.0), (64, 1, 0.4), (64, 3, 0.4), (128, 1, 0.5)])
def test_hidden_blocks_are_found(size, kernel, density):
    weights, blocks = planted(size, kernel, density)
    graph = chain(weights)
    lanes = folds(graph, 8, 8)
    found = permutation(graph, lanes)
    name = graph.all(I.Conv)[1].name
    assert found.before[name] > 4 * 9 * blocks
    assert found.after[name] <= 1.02 * 9 * blocks
    assert all(found.after[n] == found.before[n] for n in lanes if n != name)


def test_empty_rows_and_columns_fill_blocks():
    """Half of the inner channels are of no use and nobody uses the others' half: an eighth stays, and empty blocks."""
    rng = np.random.default_rng(0)
    weights = [rng.choice([-1, 1], s) for s in ((32, 3, 3, 3), (32, 32, 3, 3), (32, 32, 3, 3))]
    used = rng.permutation(32)[:16]
    for w, axis in ((weights[0], 0), (weights[1], 1), (weights[1], 0), (weights[2], 1)):
        np.moveaxis(w, axis, 0)[np.setdiff1d(np.arange(32), used)] = 0
    graph = chain(weights)
    found = permutation(graph, folds(graph, 8, 8))
    assert [found.after[n.name] for n in graph.all(I.Conv)] == [9 * (2 * 6 + 2), 9 * (2 * 18 + 2), 9 * 4 * 18]


def test_blurred_objective_shows_the_way(monkeypatch):
    rng = np.random.default_rng(0)
    weight = rng.choice([-1, 1], (64, 64, 1, 1)) * (rng.random((64, 64, 1, 1)) < 0.1)
    graph = chain([np.ones((64, 1, 1, 1), np.int64), weight, np.ones((1, 64, 1, 1), np.int64)])
    found = [sum(permutation(graph, folds(graph, 8, 8)).after.values())]
    monkeypatch.setattr("tcompile.mapping.permute.RATES", (0.0, 0.0))
    found.append(sum(permutation(graph, folds(graph, 8, 8)).after.values()))
    assert found[0] < found[1]


def test_layers_in_other_forms_and_without_lanes_cost_nothing():
    weights, _ = planted(16, 1, 1.0)
    graph = chain(weights)
    lanes = folds(graph, 8, 8)
    assert permutation(graph, {}).graph is graph
    other = permutation(graph, {n: replace(f, form="serial") for n, f in lanes.items()})
    assert other.graph is graph and not other.before


def test_small_products_are_made_by_one_thread(monkeypatch, case):
    """Several wait for each other on a busy machine; outside of the search there are as many as before."""
    seen, cost = [], _Search.cost
    monkeypatch.setattr(_Search, "cost", lambda *args: seen.append(blas_threads()) or cost(*args))
    with threadpool_limits(2, "blas"):
        permutation(*case)
        assert (set(seen), blas_threads()) == ({1}, 2)


def blas_threads() -> int:
    """Of all BLAS libraries that are loaded, the most; numpy's must be one that threadpoolctl knows."""
    return max(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas")


def test_same_graph_gives_same_result():
    graph = everything(4)
    first, second = (permutation(graph, folds(graph, 2, 2)) for _ in range(2))
    assert first.orders == second.orders
    assert permute(graph, folds(graph, 2, 2)).nodes == first.graph.nodes


@pytest.mark.parametrize("slower", [False, True])
def test_slowest_layer_never_gets_slower(slower):
    """Three layers want another order than the slowest one; they get it only if something else is slower still."""
    b = Made(0)
    diagonal = np.kron(np.eye(4, dtype=np.int64), np.ones((4, 4), np.int64))
    x = b.input((1, 48, 1, 1), 0, 7)
    first = np.concatenate([diagonal, np.ones((16, 32), np.int64)], axis=1)
    y = b.requantized(b.conv(x, first[..., None, None]))
    mixed = diagonal[:, np.arange(16).reshape(4, 4).T.reshape(-1), None, None]
    outputs = [b.conv(y, mixed) for _ in range(3)]
    few = np.zeros((16, 48, 1, 1), np.int64)
    few[:, :4] = 1
    outputs.append(b.conv(b.requantized(b.conv(x, few)), mixed))
    if slower:
        outputs.append(b.conv(x, np.ones((20, 48, 1, 1), np.int64)))
    graph = b.graph(*outputs)
    found = permutation(graph, folds(graph))
    assert list(found.before.values())[:4] == [4 + 32, 16, 16, 16]
    assert sum(found.after.values()) <= sum(found.before.values()) - 12
    after = list(found.after.values())[:4]
    assert (after[0] > 36 and sum(after) < 84) if slower else after[0] == 36
