"""What a layer costs before it is placed: its own blocks, and the requantizers, pools and additions that take its lanes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from math import prod

from hw.add_scaled import AddScaled
from hw.axi_stream import AxisOut
from hw.block import Block
from hw.fifo import Fifo
from hw.fork import Fork
from hw.parallel import Parallel
from hw.serial import Serial
from hw.width import Narrow
from hw.window import Window
from tcompile.ir import integer as I
from tcompile.ir.graph import Node
from tcompile.mapping.converters import FORK_DEPTH, pooled
from tcompile.mapping.estimate import Family, Resources, estimate_block, estimate_parallel, estimate_serial
from tcompile.mapping.geometry import bus_of
from tcompile.mapping.graphs import guessed_adders, input_bounds, offsets, window_geometry
from tcompile.mapping.plan import Carried, Plan, Task
from tcompile.mapping.requantize import is_identity, requantizer
from tcompile.mapping.schedule import linear_engine

__all__ = ["cost", "cost_behind"]

MOST_LEISURE = 64  # cycles for a beat; no quotient has more bits


def cost(task: Task, plan: Plan, family: Family) -> Resources:
    """Resources of a layer's own blocks; a guess where a graph is not known yet."""
    total = Resources()
    for block in _engine(task, plan) if plan.fold.form == "engine" else _graph(task, plan):
        total += _of_block(block, family)
    if plan.fold.form != "engine" and plan.graph is None:
        total += _guess(task, plan, family)
    return total


@lru_cache(maxsize=1 << 12)
def _of_block(block: Block, family: Family) -> Resources:
    """Resources of a block; many offers have the same graph."""
    return estimate_block(block, family)


def cost_behind(task: Task, plan: Plan, pace: int, family: Family) -> Resources:
    """Resources of all that takes the layer's lanes as they come.

    Parameters
    ----------
    pace : int
        Cycles per frame of the whole; half of that is what a requantizer may take.
    """
    total, lanes = Resources(), plan.fold.leaving
    for value in task.carried:
        leisure = max(_run(plan, value.maker), pace // (2 * value.layout.beats(lanes)))
        total += _behind(value, lanes, min(leisure, MOST_LEISURE), family)
    return total


def _run(plan: Plan, maker: Node | None) -> int:
    """Cycles that a layer or a pool takes at least for each beat that it gives."""
    if isinstance(maker, (I.MaxPool, I.SumPool)):
        return prod(maker.kernel)
    if maker is None or plan.fold.form != "engine":
        return 1
    return 1 if plan.layer.bits else plan.shortest // (plan.fold.pe // plan.fold.leaving)


def _engine(task: Task, plan: Plan) -> list[Block]:
    layer, fold = task.layer, plan.fold
    i, o = bus_of(task.padded, layer.lanes_in(fold)), bus_of(task.out, fold.pe)
    engine = linear_engine(
        layer, fold, i, o, entries=plan.entries, shortest=plan.shortest, words=plan.words, tiles=plan.tiles
    )
    return [engine] if fold.leaving == fold.pe else [engine, Narrow(o, fold.leaving, layer.MH)]


def _graph(task: Task, plan: Plan) -> list[Block]:
    layer, fold = task.layer, plan.fold
    geometry = window_geometry(layer, fold)
    i = bus_of(task.padded, fold.simd)
    window = Window(i, offsets(geometry), geometry.moves, geometry.frame)
    blocks: list[Block] = [window]
    o = bus_of(task.out, layer.MH)
    if fold.pe < layer.MH:
        blocks.append(Narrow(o, fold.pe, layer.MH))
    if plan.graph is not None and fold.form == "serial":
        blocks.append(Serial(window.outputs[0], o, plan.graph, fold.digit))
    elif plan.graph is not None:
        blocks.append(Parallel(window.outputs[0], o, plan.graph, input_bounds(layer, task.source), fold.spacing))
    return blocks


def _guess(task: Task, plan: Plan, family: Family) -> Resources:
    layer, fold, width = task.layer, plan.fold, task.padded.width
    adders, columns = guessed_adders(layer), layer.MW * layer.groups
    if fold.form == "serial":
        return estimate_serial(adders, columns, width, layer.MH, task.out.width, fold.digit, family)
    return estimate_parallel(adders, columns, width, layer.MH, task.out.width, fold.spacing, family)


@lru_cache(maxsize=1 << 14)
def _behind(value: Carried, lanes: int, leisure: int, family: Family) -> Resources:
    """What makes a value of others that come in some lanes, and what gives it to several."""
    blocks = [*_made(value, lanes, leisure), *_given(value, lanes)]
    return sum((estimate_block(block, family) for block in blocks), Resources())


def _made(value: Carried, lanes: int, leisure: int) -> Iterator[Block]:
    node = value.node
    if isinstance(node, (I.MaxPool, I.SumPool)):
        yield from (step.block for step in pooled(node, value.sources[0], bus_of(value.sources[0], lanes)))
    elif isinstance(node, I.AddScaled):
        first, second = (bus_of(s, lanes) for s in value.sources)
        yield AddScaled(first, second, bus_of(node.type, lanes), node.factors)
    elif isinstance(node, I.Requantize) and not is_identity(node, value.sources[0]):
        i, o = bus_of(value.sources[0], lanes), bus_of(node.type, lanes)
        yield requantizer(node, value.sources[0], i, o, value.layout, leisure)[0]


def _given(value: Carried, lanes: int) -> Iterator[Block]:
    bus = bus_of(value.node.type, lanes)
    if value.uses > 1:
        yield Fork(bus, value.uses)
        yield from [Fifo(bus, FORK_DEPTH)] * value.uses
    yield from [AxisOut(bus, value.layout.beats(lanes))] * value.ports
