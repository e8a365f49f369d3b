"""What a layer costs before it is placed: its own blocks, and the requantizers, pools and additions that take its lanes."""

from __future__ import annotations

from functools import lru_cache

from hw.add_scaled import AddScaled
from hw.block import Block
from hw.parallel import Parallel
from hw.serial import Serial
from hw.width import Narrow
from hw.window import Window
from tcompile.ir import integer as I
from tcompile.ir.graph import IntType
from tcompile.mapping.estimate import Family, Resources, estimate_block, estimate_parallel, estimate_serial
from tcompile.mapping.geometry import Geometry, bus_of, engine_block
from tcompile.mapping.graphs import guessed_adders, input_bounds, offsets, window_geometry
from tcompile.mapping.layouts import usual
from tcompile.mapping.plan import Follower, Plan, Task
from tcompile.mapping.requantize import is_identity, requantizer
from tcompile.mapping.schedule import engine_geometry

__all__ = ["cost"]


def cost(task: Task, plan: Plan, family: Family) -> Resources:
    """Resources of a layer and of all that takes its lanes; a guess where a graph is not known yet."""
    blocks = _engine(task, plan) if plan.fold.form == "engine" else _graph(task, plan)
    total = Resources()
    for block in (*blocks, *_behind(task, plan)):
        total += estimate_block(block, family)
    if plan.fold.form != "engine" and plan.graph is None:
        total += _guess(task, plan, family)
    return total


def _engine(task: Task, plan: Plan) -> list[Block]:
    layer, fold = task.layer, plan.fold
    i, o = bus_of(_padded(task), layer.lanes_in(fold)), bus_of(task.out, fold.pe)
    return [
        engine_block(
            "lane" if layer.is_depthwise else "dot", i, o, engine_geometry(layer, fold), plan.entries, plan.shortest,
            tiles=max(1, plan.kept), weight_width=layer.width, doubles=layer.doubles,
        )
    ]  # fmt: skip


def _graph(task: Task, plan: Plan) -> list[Block]:
    layer, fold = task.layer, plan.fold
    geometry = window_geometry(layer, fold)
    i = bus_of(_padded(task), fold.simd)
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
    layer, fold, width = task.layer, plan.fold, task.source.width
    adders, columns = guessed_adders(layer), layer.MW * layer.groups
    if fold.form == "serial":
        return estimate_serial(adders, columns, width, layer.MH, task.out.width, fold.digit, family)
    return estimate_parallel(adders, columns, width, layer.MH, task.out.width, fold.spacing, family)


def _padded(task: Task) -> IntType:
    lo, hi = input_bounds(task.layer, task.source)
    return IntType(task.source.shape, lo, hi)


def _behind(task: Task, plan: Plan) -> list[Block]:
    """What takes the layer's lanes; it may take as long for a beat as the layer's beats are apart."""
    pe = plan.fold.pe
    beats = plan.positions * -(-task.layer.MH // pe)
    leisure = max(plan.shortest, plan.cycles // (2 * beats))
    found = (_follower(follower, pe, leisure) for follower in task.behind)
    return [block for block in found if block is not None]


@lru_cache(maxsize=4096)
def _follower(follower: Follower, lanes: int, leisure: int) -> Block | None:
    node, source = follower.node, follower.sources[0]
    i = bus_of(source, lanes)
    if isinstance(node, (I.MaxPool, I.SumPool)):
        return _pool(node, source, lanes)
    o = bus_of(node.type, lanes)
    if isinstance(node, I.AddScaled):
        return AddScaled(i, bus_of(follower.sources[1], lanes), o, node.factors)
    assert isinstance(node, I.Requantize)
    return None if is_identity(node, source) else requantizer(node, source, i, o, follower.layout, leisure)[0]


def _pool(node: I.MaxPool | I.SumPool, source: IntType, lanes: int) -> Block:
    layout, rank = usual(source.shape), len(node.kernel)
    grid = tuple(n + a + b for n, a, b in zip(layout.grid, node.pads[:rank], node.pads[rank:], strict=True))
    words = -(-layout.channels // lanes)
    geometry = Geometry(grid, node.kernel, node.strides, node.dilations, words)
    taps, i = len(geometry.taps), bus_of(source, lanes)
    if isinstance(node, I.MaxPool):
        return engine_block("max", i, i, geometry, taps * words, taps)
    return engine_block("sum", i, bus_of(node.type, lanes), geometry, taps * words, taps)
