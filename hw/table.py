"""Arbitrary functions by look-up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from amaranth.hdl import Module
from amaranth.lib import wiring

from hw.arithmetic import Pipelined, PipelinedComponent, Word, cut, delayed, elements
from hw.block import Beats, Bus, Memory, Words

__all__ = ["Table", "table_words"]

Tables = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Table(Pipelined):
    """``values[c][x - base[c]]``.

    Memory ``table_<lane>`` holds the values of a lane's channels one after another, equal ones once; memory ``params``
    what is added to x to find them, modulo the number of addresses. One beat per cycle.

    Parameters
    ----------
    i, o : Bus
    period : int
        Beats after which parameters repeat.
    depth : int
        Values that the fullest lane holds.
    outbox : int
        Places of the queue at the end; 0 for as many as keep an unstalled pipeline going.
    """

    i: Bus
    o: Bus
    period: int
    depth: int
    outbox: int = 0

    def __post_init__(self) -> None:
        self.check()
        if self.depth < 1:
            raise ValueError(f"a table must hold at least 1 value, not {self.depth}")

    @classmethod
    def of(cls, i: Bus, o: Bus, values: Tables, outbox: int = 0) -> Table:
        """The smallest description for values arranged as `table_words` takes them."""
        depth = max(len(_joined(values[lane :: i.lanes])[0]) for lane in range(i.lanes))
        return cls(i, o, len(values) // i.lanes, depth, outbox)

    @property
    def latency(self) -> int:
        return 3

    @property
    def params(self) -> Word:
        """Layout of memory ``params``."""
        return Word(self.i.lanes, (("offset", Memory(self.depth, 1).address_width, False),))

    @property
    def memories(self) -> dict[str, Memory]:
        tables = {f"table_{lane}": Memory(self.depth, self.o.width) for lane in range(self.i.lanes)}
        return {"params": Memory(self.period, self.params.width), **tables}

    def component(self) -> wiring.Component:
        return _Table(self)

    def model(self, inputs: Sequence[Beats], memories: Mapping[str, Words]) -> tuple[Beats, ...]:
        x = np.asarray(inputs[0], np.int64)
        addresses = 1 << self.params.lane_width
        offset = self.params.decode(memories["params"])["offset"][self.beats(x)[:, 0]]
        at = (x + offset) & (addresses - 1)
        result = np.zeros_like(x)
        for lane in range(self.i.lanes):
            held = np.zeros(addresses, np.int64)
            held[: self.depth] = memories[f"table_{lane}"]
            result[:, lane] = held[at[:, lane]]
        return (cut(result, self.o),)


def _joined(values: Tables) -> tuple[list[int], list[int]]:
    """All tables one after another, equal ones once, and where each begins."""
    joined: list[int] = []
    begins: dict[tuple[int, ...], int] = {}
    for table in (tuple(map(int, row)) for row in values):
        if table not in begins:
            begins[table] = len(joined)
            joined += table
    return joined, [begins[tuple(map(int, row))] for row in values]


def table_words(block: Table, base: Sequence[int], values: Tables) -> dict[str, tuple[int, ...]]:
    """Contents of the memories.

    Parameters
    ----------
    base : sequence of int
        Input of the first value, arranged: an entry per lane of each beat of the period (`hw.arithmetic.arranged`).
    values : sequence of sequences of int
        Values for the inputs from `base` on, arranged likewise.
    """
    block.entries(base, values)
    lanes, addresses = block.i.lanes, 1 << block.params.lane_width
    value = Word(1, (("value", block.o.width, block.o.signed),))
    offsets = [{"offset": 0} for _ in base]
    words = {}
    for lane in range(lanes):
        joined, begins = _joined(values[lane::lanes])
        if len(joined) > block.depth:
            raise ValueError(f"lane {lane} has {len(joined)} values, the table {block.depth}")
        padded = joined + [0] * (block.depth - len(joined))
        words[f"table_{lane}"] = value.encode_all([{"value": v} for v in padded])
        for beat, begin in enumerate(begins):
            k = beat * lanes + lane
            offsets[k] = {"offset": (begin - int(base[k])) & (addresses - 1)}
    return {"params": block.params.encode_all(offsets), **words}


class _Table(PipelinedComponent):
    def elaborate(self, platform: object) -> Module:
        m = Module()
        take, beat = self.intake(m)
        params = self.params(m, beat)
        results: list[Any] = []
        for lane, x in enumerate(elements(delayed(m, self.i.payload, 1), self.block.i)):
            offset = self.block.params.split(params, lane)["offset"]
            m.d.comb += getattr(self, f"table_{lane}_addr").eq(x + offset)
            results.append(getattr(self, f"table_{lane}_data"))
        self.give(m, delayed(m, take, 2, reset_less=False), results)
        return m
