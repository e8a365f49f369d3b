"""The model of resources: close to what yosys finds, more for more, and its rules for memories."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest

from benchmarks.resources import DATA, LEAST, cells_of, counted, matrix, shared_sums
from hw.add_scaled import AddScaled
from hw.argmax import ArgMax
from hw.axi_lite import Control
from hw.axi_stream import AxisIn, AxisOut
from hw.block import Bus
from hw.comparators import Comparators
from hw.concat import Concat
from hw.engine import Engine
from hw.fifo import Fifo
from hw.fork import Fork
from hw.pad import Pad
from hw.parallel import Parallel
from hw.quotient import Quotient
from hw.reorder import Reorder
from hw.rows import RowPacker
from hw.serial import Serial
from hw.slice import Slice
from hw.table import Table
from hw.width import Narrow, Widen
from hw.window import Window
from tcompile.mapping import estimate as model
from tcompile.mapping.design import Instance
from tcompile.mapping.estimate import (
    FALLBACK,
    FAMILIES,
    Ram,
    Resources,
    estimate,
    estimate_block,
    estimate_parallel,
    estimate_serial,
    made,
)  # fmt: skip
from tcompile.mapping.network import map_network
from tcompile.mapping.plan import Choice
from tests.networks import Builder

KINDS = (
    AddScaled, ArgMax, AxisIn, AxisOut, Bus, Comparators, Concat, Control, Engine, Fifo, Fork, Narrow, Pad, Quotient, Reorder,
    RowPacker, Slice, Table, Widen, Window,
)  # fmt: skip


def engine(kind="dot", simd=4, pe=4, width=8, weight=2, doubles=False, depth=16, places=8) -> Engine:
    weighted = kind in ("dot", "lane")
    return Engine(
        kind, Bus(simd if kind == "dot" else pe, width), Bus(pe, 16, True), depth, 4, ((4, 4),), 4, 8,
        64 * weighted, weight * weighted, doubles and weighted, places,
    )  # fmt: skip


def graph_block(cls, rows=8, columns=8, width=4, *last):
    graph = shared_sums(matrix(rows, columns, 0.5, 1))
    i, o = Bus(columns, width), Bus(rows, width + 4, True)
    return cls(i, o, graph, *last)


def serial(rows=8, columns=8, width=4, digit=1) -> Serial:
    return graph_block(Serial, rows, columns, width, digit)


def parallel(rows=8, columns=8, width=4, spacing=1) -> Parallel:
    return graph_block(Parallel, rows, columns, width, (0, (1 << width) - 1), spacing)


GROWING = {
    "simd": [engine(simd=n) for n in (1, 2, 4, 8, 16)],
    "pe": [engine(pe=n) for n in (1, 2, 4, 8, 16)],
    "lanes": [engine("lane", pe=n) for n in (1, 2, 4, 8)],
    "pool": [engine("sum", pe=n) for n in (1, 2, 4, 8)],
    "element": [engine(width=n) for n in (2, 4, 8)],
    "passes": [engine(weight=n, doubles=True) for n in (3, 5, 7)],
    "ring": [engine(depth=n) for n in (16, 1024, 4096)],
    "fork": [Fork(Bus(2, 4), n) for n in (2, 3, 4)],
    "fifo": [Fifo(Bus(2, 4), n) for n in (2, 4, 16, 33)],
    "reorder": [Reorder(Bus(1, 8), n) for n in (16, 130, 2000)],
    "levels": [Comparators(Bus(2, 8), Bus(2, 8), n, 1, 8, True, 0, form="flat") for n in (1, 2, 3)],
    "search": [Comparators(Bus(2, 8), Bus(2, 8), n, 1, 8, True, 0, form="tree") for n in (3, 7, 15)],
    "serial rows": [serial(rows=n) for n in (4, 8, 16)],
    "serial columns": [serial(columns=n) for n in (8, 16, 32)],
    "digits": [serial(width=8, digit=n) for n in (1, 2, 4)],
    "parallel rows": [parallel(rows=n) for n in (4, 8, 16)],
    "words": [parallel(width=n) for n in (4, 6, 8)],
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("what", GROWING)
def test_more_costs_more(what, family):
    costs = [estimate_block(block, family) for block in GROWING[what]]
    total = [c.bram * 1000 + c.lut + c.ff for c in costs]
    assert total == sorted(set(total))


@dataclass(frozen=True)
class Measured:
    kind: str
    errors: tuple[float, float]


@cache
def measured(family: str) -> list[Measured]:
    """Errors on the blocks whose description is kept as it is written."""
    names = {cls.__name__: cls for cls in KINDS}
    result = []
    for row in json.loads(DATA.read_text())["blocks"].values():
        if re.match(r"(Serial|Parallel|Places)\(", row["block"]) or family not in row:
            continue
        block = eval(row["block"], names)
        bare = model._rounded(model._total(made(block, family), family))
        found = counted(family, row[family])
        errors = [abs(a - b) / max(b, LEAST) for a, b in ((bare.lut, found.lut), (bare.ff, found.ff))]
        result.append(Measured(type(block).__name__, (errors[0], errors[1])))
    return result


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", [cls.__name__ for cls in KINDS if cls is not Bus])
def test_kinds_are_close_to_what_was_measured(kind, family):
    errors = [m.errors for m in measured(family) if m.kind == kind]
    assert len(errors) >= 4
    assert (np.median(errors, axis=0) <= (0.12, 0.1)).all()


def test_a_small_block_synthesized_now_is_as_estimated():
    block = engine(simd=8, pe=4, width=4)
    found, guess = counted("ecp5", cells_of(block, "ecp5")), model._rounded(model._total(made(block, "ecp5"), "ecp5"))
    assert abs(guess.lut - found.lut) <= 0.15 * found.lut
    assert abs(guess.ff - found.ff) <= 0.15 * found.ff


@pytest.mark.parametrize(
    "family, kind, depth, width, found",
    [
        ("ecp5", "rom", 16, 12, (12, 12, 0)),
        ("ecp5", "rom", 64, 12, (48, 12, 0)),
        ("ecp5", "rom", 64, 64, (256, 64, 0)),
        ("ecp5", "rom", 128, 64, (0, 0, 2)),
        ("ecp5", "rom", 1024, 4, (0, 0, 1)),
        ("ecp5", "rom", 4096, 12, (0, 0, 3)),
        ("xcup", "rom", 256, 64, (256, 64, 0)),
        ("xcup", "rom", 512, 64, (0, 0, 2)),
        ("xcup", "rom", 1024, 12, (0, 0, 1)),
        ("ecp5", "comb", 16, 8, (8, 0, 0)),
        ("ecp5", "comb", 32, 8, (26, 0, 0)),
        ("ecp5", "comb", 64, 32, (260, 0, 0)),
        ("xcup", "comb", 32, 32, (24, 0, 0)),
        ("xcup", "comb", 64, 8, (16, 0, 0)),
        ("ecp5", "sync", 64, 16, (132, 16, 0)),
        ("ecp5", "sync", 64, 36, (0, 0, 1)),
        ("ecp5", "bypassed", 64, 36, (42, 80, 1)),
        ("ecp5", "sync", 65, 4, (45, 4, 0)),
        ("ecp5", "sync", 100, 72, (0, 0, 2)),
        ("ecp5", "bypassed", 100, 72, (79, 153, 2)),
    ],
)
def test_memories_lie_in_luts_or_in_blocks(family, kind, depth, width, found):
    assert model._memory(Ram(kind, depth, width), family) == found


def test_memories_of_a_block_count():
    block = Table.of(Bus(1, 8), Bus(1, 8), [list(range(256))])
    words = {"params": (0,), "table_0": tuple(np.random.default_rng(1).integers(0, 256, 256).tolist())}
    alone = estimate_block(block, depths={"params": 0, "table_0": 0})
    assert estimate(Instance("x", block, (), (), words)).lut > alone.lut + 64
    assert estimate_block(block, depths={"table_0": 16}).lut < estimate_block(block).lut


def test_columns_that_are_equal_or_constant_are_kept_once():
    found = model._filled([0b00001, 0b00110, 0b01001, 0b00111] * 4 + [0] * 16, 5, "ecp5")
    assert (found.columns, found.parts) == (3, 3)


def test_depths_of_memories_that_are_not_there_wrong():
    with pytest.raises(ValueError, match=r"must be of \['order'\], not \['weights'\]"):
        estimate_block(Reorder(Bus(1, 8), 20), depths={"weights": 3})


def test_families_that_are_not_known_wrong():
    with pytest.raises(ValueError, match="one of ecp5, xcup, not 'ice40'"):
        estimate_block(Fork(Bus(2, 4), 2), "ice40")


class Unheard(Fork):
    """A block that is no kind of its own in the model."""


@pytest.mark.parametrize("family", FAMILIES)
def test_kinds_that_were_never_fitted_are_told_by_their_ports(family, monkeypatch):
    by_ports = model.by_ports(Unheard(Bus(8, 8), 2))
    assert by_ports.kind == FALLBACK
    assert sum(by_ports.ff.values()) == 1 + 64 + 128
    assert model._total(by_ports, family)[1] > 32


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("digit", [1, 2])
def test_serial_graphs_are_guessed_before_they_are_made(digit, family):
    block = serial(16, 32, 4, digit)
    guess = estimate_serial(len(block.nodes), 32, 4, 16, 8, digit, family)
    known = estimate_block(block, family)
    assert abs(guess.lut - known.lut) <= 0.2 * known.lut
    assert abs(guess.ff - known.ff) <= 0.25 * known.ff


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("spacing", [1, 2])
def test_parallel_graphs_are_guessed_before_they_are_made(spacing, family):
    block = parallel(16, 32, 4, spacing)
    guess = estimate_parallel(len(block.nodes), 32, 4, 16, 8, spacing, family)
    known = estimate_block(block, family)
    assert abs(guess.lut - known.lut) <= 0.25 * known.lut
    assert abs(guess.ff - known.ff) <= 0.4 * known.ff


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
