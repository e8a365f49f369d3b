"""What a layer costs before it is placed: its blocks alone, and the requantizers that take its lanes."""

from __future__ import annotations

from functools import lru_cache

from hw.block import Block
from hw.parallel import Parallel
from hw.serial import Serial
from hw.width import Narrow
from hw.window import Window
from tcompile.ir import integer as I
from tcompile.ir.graph import IntType
from tcompile.mapping.estimate import Family, Resources, estimate_block, estimate_parallel, estimate_serial
from tcompile.mapping.geometry import bus_of, engine_block
from tcompile.mapping.graphs import guessed_adders, input_bounds, offsets, window_geometry
from tcompile.mapping.layout import Layout
from tcompile.mapping.plan import Plan, Task
from tcompile.mapping.requantize import is_identity, requantizer
from tcompile.mapping.schedule import engine_geometry

__all__ = ["cost"]


def cost(task: Task, plan: Plan, family: Family) -> Resources:
    """Resources of a layer and of the requantizers directly behind it; a guess where the graph is not known yet."""
    blocks = _engine(task, plan) if plan.fold.form == "engine" else _graph(task, plan)
    total = Resources()
    for block in (*blocks, *_requantizers(task, plan)):
        total += estimate_block(block, family)
    if plan.fold.form != "engine" and plan.graph is None:
        total += _guess(task, plan, family)
    return total


def _engine(task: Task, plan: Plan) -> list[Block]:
    layer, fold = task.layer, plan.fold
    lanes = fold.pe if layer.is_depthwise else fold.simd
    i, o = bus_of(_padded(task), lanes), bus_of(task.out, fold.pe)
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


def _requantizers(task: Task, plan: Plan) -> list[Block]:
    pe = plan.fold.pe
    beats = plan.positions * -(-task.layer.MH // pe)
    leisure = max(plan.shortest, plan.cycles // (2 * beats))
    found = (_requantizer(node, task.out, layout, pe, leisure) for node, layout in task.requantizers)
    return [block for block in found if block is not None]


@lru_cache(maxsize=4096)
def _requantizer(node: I.Requantize, source: IntType, layout: Layout, lanes: int, leisure: int) -> Block | None:
    if is_identity(node, source):
        return None
    return requantizer(node, source, bus_of(source, lanes), bus_of(node.type, lanes), layout, leisure)[0]
