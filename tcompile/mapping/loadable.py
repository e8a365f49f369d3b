"""Networks whose weights can be loaded at run time: hardware that does not depend on what the weights and the steps are.

`loadable` gives an equal network that says what may be loaded: of a linear layer how many bits weights may have, of a
requantizer how many values its steps may have; types then hold whatever such weights make of the inputs. What the mapping
makes of it follows from the structure alone, so that two networks that differ in weights and steps only become the
same Verilog with other contents of memories: `mapped_like` sees to that, and tells where they differ in more.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np

from hw.axi_lite import LOAD_BUS, MOST_MEMORIES
from hw.block import Block
from tcompile.errors import Problem, UsageError
from tcompile.ir import integer as I
from tcompile.ir.graph import Graph, IntType, Node
from tcompile.ir.legality import check, interval
from tcompile.ir.requantizers import Comparators, Requantizer, Shift, Table, signed_width
from tcompile.mapping.cycles import predict
from tcompile.mapping.design import Design
from tcompile.mapping.network import Mapped
from tcompile.mapping.place import Recipe, place
from tcompile.mapping.plan import labels, planned, tasks
from tcompile.mapping.requantize import is_identity

__all__ = ["check_memories", "loadable", "mapped_like"]

WIDTHS = (2, 4, 8, 9)  # bits of weights, rounded up: retrained ones may need more than these do
CODES = (1, 2, 4, 8)  # the same of what requantizers give
MOST_LEVELS = 256
HINT = "the sum of a residual addition with rounded factors may be no such function; build without --loadable"


def loadable(graph: Graph, like: Graph | None = None) -> Graph:
    """An equal network for which other weights and steps can be loaded.

    Parameters
    ----------
    graph : Graph
        Of the integer level.
    like : Graph, optional
        What hardware was built of: its intervals and bits are taken where they hold those of `graph`.

    Raises
    ------
    UsageError
        A requantizer whose steps are no comparisons.
    """
    nodes: dict[str, I.IntNode] = {}
    problems: list[Problem] = []
    known = {} if like is None else like.by_name
    for node in graph:
        assert isinstance(node, I.IntNode)
        inputs = [nodes[i].type for i in node.inputs]
        made: I.IntNode = node
        try:
            if isinstance(node, I.Requantize):
                made = _requantizer(node, _type(graph[node.inputs[0]]), inputs[0])
            else:
                made = _with_types(node, inputs)
        except _NotStepsError as reason:
            problems.append(Problem("not-loadable", f"{reason} to be loaded", node.origin.names[-1:], HINT))
        nodes[node.name] = _at_least(made, known.get(node.name))
    if problems:
        raise UsageError(problems)
    return graph.with_nodes(tuple(nodes.values()), graph.outputs)


def _type(node: Node) -> IntType:
    assert isinstance(node.type, IntType)
    return node.type


def _with_types(node: I.IntNode, inputs: list[IntType]) -> I.IntNode:
    """A node with the interval that its inputs may make of it, whatever is loaded."""
    shape = node.type.shape
    if isinstance(node, I.Input):
        return node
    if isinstance(node, (I.Conv, I.Dense)):
        return _roomy(node, inputs[0])
    lo, hi = interval(node, inputs)
    if isinstance(node, I.Pad):  # the code of a border that is not there as well
        lo, hi = min(lo, node.code), max(hi, node.code)
    return replace(node, type=IntType(shape, lo, hi))


def _requantizer(node: I.Requantize, source: IntType, now: IntType) -> I.Requantize:
    """A requantizer of `source` for what comes now; raises where it has no steps that can be loaded."""
    kind = _whole(node.type)
    try:
        return replace(node, form=_steps(node, source), type=kind, levels=1 << kind.width)
    except _NotStepsError:
        if not is_identity(node, source):
            raise
    return _unclipped(node, now)


def _unclipped(node: I.Requantize, source: IntType) -> I.Requantize:
    """The identity for whatever comes."""
    assert isinstance(node.form, Shift)
    form = replace(node.form, lo=np.array([source.lo]), hi=np.array([source.hi]))
    return replace(node, form=form, type=IntType(node.type.shape, source.lo, source.hi))


def _whole(kind: IntType) -> IntType:
    """All integers of as many bits, rounded up: others may reach more of the codes than these do."""
    width = next((w for w in CODES if w >= kind.width), kind.width)
    if kind.signed:
        return IntType(kind.shape, -1 << width - 1, (1 << width - 1) - 1)
    return IntType(kind.shape, 0, (1 << width) - 1)


def _roomy(node: I.Conv | I.Dense, source: IntType) -> I.Conv | I.Dense:
    """A layer for any weights of as many bits; ternary ones stay ternary."""
    weights = node.weight.array
    width = max(2, signed_width(int(weights.min(initial=0)), int(weights.max(initial=0))))
    bits = next(w for w in WIDTHS if w >= width)
    ternary = bits == 2 and int(weights.min(initial=0)) > -2
    code = node.pad_code if isinstance(node, I.Conv) else 0
    largest = max(abs(source.lo), abs(source.hi), abs(code)) * prod(weights.shape[1:])
    largest *= 1 if ternary else 1 << bits - 1
    return replace(node, bits=bits, type=IntType(node.type.shape, -largest, largest))


def _at_least(node: I.IntNode, known: Node | None) -> I.IntNode:
    """With the interval and the bits of the node that hardware was built of, where these suffice."""
    if not isinstance(known, type(node)) or known.type.shape != node.type.shape:
        return node
    if not (known.type.lo <= node.type.lo and node.type.hi <= known.type.hi):
        return node
    if isinstance(node, (I.Conv, I.Dense)) and isinstance(known, (I.Conv, I.Dense)):
        return replace(node, bits=known.bits, type=known.type) if known.bits >= node.bits else node
    if isinstance(node, I.Requantize) and isinstance(known, I.Requantize):
        return replace(node, type=known.type, levels=known.levels) if node.levels else node
    return node


# --- steps ---------------------------------------------------------------------------------------------------------------


class _NotStepsError(Exception):
    """A requantizer is no steps that can be loaded; the message says what must hold."""


def _steps(node: I.Requantize, source: IntType) -> Comparators:
    """The function by comparisons for each channel on its own; raises where it is not monotone, or has too many values."""
    form, channels = node.form, node.type.shape[node.axis]
    lo, hi = (np.full((form.channels, 1), end, np.int64) for end in (source.lo, source.hi))
    if isinstance(form, Table):  # defined on what can occur only
        sizes = np.array([[len(v)] for v in form.values])
        lo = np.maximum(lo, form.base[:, None])
        hi = np.minimum(hi, form.base[:, None] + sizes - 1)
    first, last = form(lo, 0), form(hi, 0)
    count = int(np.abs(last - first).max())
    if count >= MOST_LEVELS:
        raise _NotStepsError(f"must have at most {MOST_LEVELS} values")
    steps = np.arange(1, count + 1)
    starts = _reached(form, lo, hi, first, np.sign(last - first), steps)
    thresholds, values = [], []
    for c in range(form.channels):
        there = steps <= abs(int(last[c, 0] - first[c, 0]))
        thresholds.append(starts[c, there])
        values.append(first[c, 0] + np.sign(last[c, 0] - first[c, 0]) * np.arange(int(there.sum()) + 1))
    found = Comparators(tuple(thresholds), tuple(values))
    if not _equal(form, found, lo, hi):
        raise _NotStepsError("must rise or fall throughout in each channel")
    if found.channels < channels:
        found = Comparators(found.thresholds * channels, found.values * channels)
    return found


def _reached(
    form: Requantizer, lo: np.ndarray, hi: np.ndarray, first: np.ndarray, sign: np.ndarray, steps: np.ndarray
) -> np.ndarray:
    """The first inputs at which the function is so many steps from its first value, found by bisection: (channels, steps)."""
    low = np.broadcast_to(lo, (len(lo), len(steps))).copy()
    high = np.broadcast_to(hi, low.shape).copy()
    while (low < high).any():
        middle = low + (high - low) // 2
        there = sign * (form(middle, 0) - first) >= steps
        high, low = np.where(there, middle, high), np.where(there | (low == high), low, middle + 1)
    return high


def _equal(form: Requantizer, found: Comparators, lo: np.ndarray, hi: np.ndarray) -> bool:
    """Whether two forms are equal.

    They are compared at both ends, on both sides of each step of either, and at exceptions and their neighbours; in between a form
    is monotone (a quotient) or constant (comparators), so that equal ends make an equal run.
    """
    for c in range(len(lo)):
        points = [found.thresholds[c]]
        for name in ("thresholds", "exceptions"):
            of = getattr(form, name, ())
            points += [of[min(c, len(of) - 1)]] if of else []
        if isinstance(form, Table):
            points.append(np.arange(int(lo[c, 0]), int(hi[c, 0]) + 1))
        at = np.concatenate([lo[c], hi[c], *(p + d for p in points for d in (-1, 0, 1))])
        at = np.clip(at, lo[c, 0], hi[c, 0])
        x = np.broadcast_to(at, (len(lo), len(at)))
        inside = np.clip(x, lo, hi)
        if not np.array_equal(form(inside, 0)[c], found(inside, 0)[c]):
            return False
    return True


# --- the same hardware ---------------------------------------------------------------------------------------------------


def mapped_like(graph: Graph, recipe: Recipe, built: Design, source: Graph) -> Mapped:
    """A network on hardware that is there, as other contents of its memories.

    Parameters
    ----------
    graph : Graph
        A network that `loadable` gave.
    recipe : Recipe
    built : Design
        The hardware, and the recipe that made it of `source`.

    Raises
    ------
    UsageError
        The network is of another structure, or becomes other hardware; all that differs.
    """
    _check_structure(graph, source)
    check(graph)
    design = place(graph, recipe)
    _check_hardware(built, design, graph)
    work = tasks(graph)
    plans = {name: replace(planned(work[name], fold), fold=fold) for name, fold in recipe.folds.items()}
    return Mapped(design, recipe, plans, predict(design), graph)


def check_memories(design: Design, graph: Graph) -> None:
    """See that the load bus reaches all memories of a design.

    Raises
    ------
    UsageError
        Memories that are too deep, too wide or too many.
    """
    names, problems = labels(graph), []
    for instance in design.instances:
        for memory in instance.block.memories.values():
            pieces = -(-memory.width // 32)
            if memory.depth > 1 << LOAD_BUS["load_word"] or pieces > 1 << LOAD_BUS["load_piece"]:
                message = f"must have memories of at most {1 << LOAD_BUS['load_word']} words of {32 << LOAD_BUS['load_piece']} bits"
                message += f" to be loaded, and has one of {memory.depth} words of {memory.width} bits"
                where = (names.get(instance.layer, instance.layer),)
                problems.append(Problem("not-loadable", message, where, "give it other lanes"))
    if design.memories > MOST_MEMORIES:
        message = f"a design must have at most {MOST_MEMORIES} memories to be loaded, and has {design.memories}"
        problems.append(Problem("not-loadable", message, hint="give it fewer lanes"))
    if problems:
        raise UsageError(problems)


def _check_structure(graph: Graph, source: Graph) -> None:
    problems = []
    for node in graph:
        other = source.by_name.get(node.name)
        if other is None or (other.op, other.inputs) != (node.op, node.inputs):
            what = "has none there"
            if other is not None:
                what = f"has {other.op} there" if other.op != node.op else "has one of other inputs"
            where = node.origin.names[-1:] or (node.name,)
            message = f"{node.op} must be what the build has in its place, which {what}"
            problems.append(Problem("other-network", message, where))
    missing = [n.origin.names[-1] if n.origin.nodes else n.name for n in source if n.name not in graph.by_name]
    if missing:
        problems.append(Problem("other-network", "the build has nodes that the network lacks", tuple(missing)))
    if problems:
        hint = "only a network with the nodes of the one that was built, and their names, can be loaded"
        raise UsageError([replace(p, hint=hint) for p in problems])


def _check_hardware(built: Design, other: Design, graph: Graph) -> None:
    names, problems = labels(graph), []
    own, new = ({i.name: i for i in d.instances} for d in (built, other))
    for name in sorted(own.keys() ^ new.keys()):
        layer = (own.get(name) or new[name]).layer
        message = f"must become the hardware that was built; {name} is in one of them only"
        problems.append(Problem("other-hardware", message, (names.get(layer, layer),)))
    for name in sorted(own.keys() & new.keys()):
        differing = _differences(own[name].block, new[name].block)
        if differing:
            message = f"must become the hardware that was built; of {name} {differing}"
            problems.append(Problem("other-hardware", message, (names.get(new[name].layer, new[name].layer),)))
    if not problems and _joined(built) != _joined(other):
        problems.append(Problem("other-hardware", "the network must be joined as that of the build is"))
    if problems:
        raise UsageError(problems)


def _joined(design: Design) -> tuple[object, ...]:
    """All of a design but contents of memories."""
    return *(replace(i, memories={}) for i in design.instances), design.streams, design.inputs, design.outputs


def _differences(one: Block, other: Block) -> str:
    if type(one) is not type(other):
        return f"the kind is {type(other).__name__}, not {type(one).__name__}"
    names: dict[str, object] = getattr(one, "__dataclass_fields__", {})
    pairs = [(name, getattr(one, name), getattr(other, name)) for name in names]
    return ", ".join(f"{name} is {b!r:.80}, not {a!r:.80}" for name, a, b in pairs if a != b)
