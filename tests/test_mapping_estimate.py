"""Estimates: more of anything costs more, and what is known exactly is exact."""

from __future__ import annotations

import numpy as np
import pytest

from hw.block import Bus
from hw.comparators import Comparators
from hw.engine import Engine
from hw.fifo import Fifo
from hw.fork import Fork
from hw.quotient import Quotient
from hw.reorder import Reorder
from hw.rows import RowPacker
from hw.table import Table
from tcompile.mapping.design import Instance
from tcompile.mapping.estimate import Resources, estimate
from tcompile.mapping.network import map_network
from tcompile.mapping.plan import Choice
from tests.networks import Builder


def cost(block) -> Resources:
    return estimate(Instance("x", block, (), ()))


def without_control(block) -> Resources:
    found = cost(block)
    return Resources(found.lut - 40, found.ff - 40, found.bram)


def engine(kind="dot", simd=4, pe=4, width=8, weight=2, doubles=False, depth=16, tiles=4, places=8) -> Engine:
    weighted = kind in ("dot", "lane")
    return Engine(
        kind, Bus(simd if kind == "dot" else pe, width), Bus(pe, 16, True), depth, 4, ((4, 4),), 4, 8,
        tiles if weighted else 0, weight if weighted else 0, doubles and weighted, places,
    )  # fmt: skip


def table(lanes: int = 2, depth: int = 16) -> Table:
    return Table.of(Bus(lanes, 4), Bus(lanes, 4), [list(range(depth))] * lanes)


GROWING = {
    "simd": [engine(simd=n) for n in (1, 2, 5, 8)],
    "pe": [engine(pe=n) for n in (1, 2, 5, 8)],
    "lanes": [engine("lane", pe=n) for n in (1, 2, 5, 8)],
    "pool": [engine("sum", pe=n) for n in (1, 2, 5, 8)],
    "kind": [engine("sum"), engine("max"), engine("lane", weight=5), engine("dot", weight=5)],
    "width": [engine(width=n) for n in (1, 4, 8)],
    "passes": [engine(weight=n, doubles=True) for n in (3, 5, 8)],
    "doubles": [engine(weight=3), engine(weight=3, doubles=True)],
    "depth": [engine(depth=n) for n in (16, 65, 600)],
    "places": [engine(places=n) for n in (2, 8, 70)],
    "fork": [Fork(Bus(2, 4), n) for n in (1, 2, 3)],
    "fifo": [Fifo(Bus(2, 4), n) for n in (2, 80, 200)],
    "large fifo": [Fifo(Bus(2, 40), n) for n in (600, 1200)],
    "reorder": [Reorder(Bus(1, 8), n) for n in (16, 130, 2000)],
    "rows": [RowPacker(Bus(1, 4), Bus(n, 4), 9, n, 1, 1, 0, 0, 0) for n in (1, 2, 3)],
    "levels": [Comparators(Bus(2, 8), Bus(2, 8), n, 1, 8, True, form="flat") for n in (1, 3, 9)],
    "search": [Comparators(Bus(2, 8), Bus(2, 8), n, 1, 8, True, form="tree") for n in (3, 7, 15)],
}


def total(found: Resources) -> tuple[int, int]:
    return found.bram, found.lut + found.ff


@pytest.mark.parametrize("what", GROWING)
def test_more_costs_more(what):
    costs = [total(cost(block)) for block in GROWING[what]]
    assert costs == sorted(set(costs))


@pytest.mark.parametrize(
    "depth, width, found",
    [
        (32, 1000, Resources(lut=1000)),
        (64, 32, Resources(lut=32)),
        (65, 31, Resources(lut=62)),
        (65, 32, Resources(bram=1)),
        (33, 64, Resources(bram=2)),
        (512, 36, Resources(bram=1)),
        (513, 36, Resources(bram=2)),
        (512, 37, Resources(bram=2)),
        (18432, 1, Resources(bram=1)),
        (18433, 1, Resources(bram=2)),
        (1024, 72, Resources(bram=4)),
    ],
)
def test_memories_lie_in_luts_or_in_blocks(depth, width, found):
    block = Fifo(Bus(1, width), depth)
    bits = depth.bit_length()
    assert without_control(block) == found + Resources(2 * bits, 3 * bits)


def test_memories_of_a_block_count():
    wide, narrow = table(depth=16), table(depth=2)
    register = Resources(16, 16)
    assert without_control(wide) == register + Resources(lut=sum(m.width for m in wide.memories.values()))
    assert total(cost(wide)) > total(cost(narrow))


def test_plain_blocks_are_a_register_stage():
    assert cost(Fork(Bus(2, 5), 2)) == Resources(40 + 30, 40 + 30)


def test_rows_are_registers():
    assert without_control(RowPacker(Bus(2, 4), Bus(6, 5), 9, 3, 1, 1, 0, 0, 0)) == Resources(30, 30)


def test_comparators_by_hand():
    flat = Comparators(Bus(2, 8), Bus(2, 8), 3, 1, 8, True, form="flat")
    stored = sum(m.width for m in flat.memories.values())
    assert without_control(flat) == Resources(2 * 3 * 8 + stored, 2 * 3 * 12)


def test_engine_by_hand():
    block = engine()  # 4 x 4 lanes of 9 bits, one pass
    ring, schedule, weights = 32, block.memories["schedule"].width, block.memories["weights"].width
    decode, tree, sums = 16 * (9 + 3), 4 * 3 * 11, 64
    queue = Resources(64 + 2 * 4, 3 * 4)
    assert (
        without_control(block)
        == Resources(decode + tree + sums + ring + schedule + weights, 16 * 10 + tree // 2 + 64) + queue
    )
    double = engine(weight=5, doubles=True)  # 10 bits, three passes
    stored = double.memories["schedule"].width + double.memories["weights"].width
    decode, tree = 16 * (2 * 10 + 9), 4 * 3 * 12
    assert (
        without_control(double)
        == Resources(decode + tree + 2 * 64 + ring + stored, 16 * 11 + tree // 2 + 64 * 2) + queue
    )


def test_pools_by_hand():
    stored = engine("sum").memories["schedule"].width
    assert without_control(engine("sum")) == Resources(64 + 32 + stored, 4 * 10 + 64) + Resources(72, 12)
    assert cost(engine("max")).lut - cost(engine("sum")).lut == 64


def test_quotients_grow_with_what_they_divide():
    def block(multiplier: int, units: int, divisor: int) -> Quotient:
        return quotient(multiplier, units, divisor)

    costs = [total(cost(block(1, 1, 3))), total(cost(block(3, 1, 3))), total(cost(block(3, 4, 3)))]
    assert costs == sorted(set(costs))
    assert total(cost(block(1, 1, 200))) > total(cost(block(1, 1, 3)))


@pytest.mark.parametrize("multiplier, digits, units", [(1, 1, 1), (3, 2, 1), (3, 2, 4), (5, 2, 4)])
def test_quotients_by_hand(multiplier, digits, units):
    block = quotient(multiplier, units, 3)
    n, row, q = block.numerator_width, block.divisor_width + 1, block.quotient_width
    stored = sum(m.width for m in block.memories.values())
    lane = (digits + 1) * n + 2 * row * block.units + 2 * 4
    held = (digits + 2) * n + (row + q) * block.units
    assert without_control(block) == Resources(lane + stored, held)


def quotient(multiplier: int, units: int, divisor: int) -> Quotient:
    from hw.quotient import QuotientChannel

    channel = QuotientChannel(False, 1, divisor, 0, 15, (), ())
    interval = 1 if units > 1 else 100
    return Quotient.of(
        Bus(1, 12), Bus(1, 4), [channel], [(0, 4000)], multiplier=multiplier, ties="up", interval=interval, shift=False
    )


def test_resources_are_added():
    assert Resources(1, 2, 3) + Resources(10, 20, 30) == Resources(11, 22, 33)


def test_network_is_the_sum_of_its_blocks():
    b = Builder()
    y = b.conv(b.input((1, 4, 6)), np.ones((6, 4, 2), int))
    mapped = map_network(b.graph(b.pool(y, (2,))), Choice(2, 2))
    found = mapped.resources()
    assert set(found) == {"v0", "v1", "v2"}
    assert sum(r.lut for r in found.values()) == sum(estimate(i).lut for i in mapped.design.instances)
    more = map_network(b.graph(b.pool(y, (2,))), Choice(6, 4)).resources()
    assert more["v1"].lut > found["v1"].lut
