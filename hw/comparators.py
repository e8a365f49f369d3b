"""Step functions by comparison: the value that belongs to the number of thresholds reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring

from hw.arithmetic import Pipelined, PipelinedComponent, Word, below, cut, delayed, elements, shared, signed_width
from hw.block import Beats, Bus, Memory, Words

__all__ = ["FLAT_LEVELS", "Comparators", "comparators_words"]

FLAT_LEVELS = 3  # up to so many thresholds, comparing with all of them at once is smaller than a search


@dataclass(frozen=True)
class Comparators(Pipelined):
    """``values[c][number of thresholds[c] <= x]``, thresholds rising.

    Form "flat" compares with all thresholds at once; memory ``params`` holds those and the values of all lanes. Form
    "tree" is a binary search, one comparator and two cycles per bit of the count: memory ``threshold_<stage>_<lane>``
    holds, by beat and bits found so far, the threshold to compare with. The value is ``first + count``, `first` in
    memory ``params`` unless shared, or in memory ``value_<lane>`` by beat and count.

    One beat per cycle. A threshold that a channel lacks is marked by a bit and never reached.

    Parameters
    ----------
    i, o : Bus
    levels : int
        The most thresholds of a channel; 0 for constants.
    period : int
        Beats after which parameters repeat.
    threshold_width : int
        Bits of the two's complement word that holds every threshold.
    counting : bool
        Whether every value is one more than the value before.
    first : int, optional
        Where counting, the value without any threshold reached, if all channels share it; else None.
    form : {"flat", "tree"}
    outbox : int
        Places of the queue at the end; 0 for as many as keep an unstalled pipeline going.
    """

    i: Bus
    o: Bus
    levels: int
    period: int
    threshold_width: int
    counting: bool
    first: int | None = None
    form: Literal["flat", "tree"] = "tree"
    outbox: int = 0

    def __post_init__(self) -> None:
        self.check()
        if self.form not in ("flat", "tree"):
            raise ValueError(f"the form must be 'flat' or 'tree', not {self.form!r}")
        if self.levels < 0 or self.threshold_width < bool(self.levels):
            raise ValueError(f"{self.levels} thresholds of {self.threshold_width} bits cannot be")
        if self.first is not None and not self.counting:
            raise ValueError("a shared first value needs values that count")

    @classmethod
    def of(
        cls, i: Bus, o: Bus, thresholds: Sequence[Sequence[int]], values: Sequence[Sequence[int]], outbox: int = 0
    ) -> Comparators:
        """The smallest description for parameters arranged as `comparators_words` takes them."""
        every = [int(t) for row in thresholds for t in row]
        levels = max(map(len, thresholds))
        counting = all(int(b) - int(a) == 1 for row in values for a, b in pairwise(row))
        return cls(
            i,
            o,
            levels=levels,
            period=len(thresholds) // i.lanes,
            threshold_width=signed_width(min(every), max(every)) if every else 0,
            counting=counting,
            first=shared(int(row[0]) for row in values) if counting else None,
            form="flat" if levels <= FLAT_LEVELS else "tree",
            outbox=outbox,
        )

    @property
    def stages(self) -> int:
        """Bits of the count: comparisons of a search."""
        return self.levels.bit_length()

    @property
    def latency(self) -> int:
        return 3 if self.form == "flat" else 2 * self.stages + self.reads_value + 1

    @property
    def reads_value(self) -> bool:
        """Whether a tree ends with a memory: values, or the first one of each channel."""
        return not self.counting or self.first is None

    @property
    def params(self) -> Word:
        """Layout of memory ``params``."""
        names: list[tuple[str, int, bool]] = []
        if self.form == "flat":
            for k in range(self.levels):
                names += [(f"threshold{k}", self.threshold_width, True), (f"never{k}", 1, False)]
            if not self.counting:
                names += [(f"value{k}", self.o.width, self.o.signed) for k in range(self.levels + 1)]
        if self.counting and self.first is None:
            names.append(("value0", self.o.width, self.o.signed))
        return Word(self.i.lanes, tuple(names))

    @property
    def threshold(self) -> Word:
        """Layout of memories ``threshold_<stage>_<lane>``."""
        return Word(1, (("threshold", self.threshold_width, True), ("never", 1, False)))

    @property
    def memories(self) -> dict[str, Memory]:
        shapes = {"params": Memory(self.period, self.params.width)} if self.params.width else {}
        if self.form == "tree":
            for lane in range(self.i.lanes):
                for stage in range(self.stages):
                    shapes[f"threshold_{stage}_{lane}"] = Memory(self.period << stage, self.threshold.width)
                if not self.counting:
                    shapes[f"value_{lane}"] = Memory(self.period << self.stages, self.o.width)
        return shapes

    def component(self) -> wiring.Component:
        return _Flat(self) if self.form == "flat" else _Tree(self)

    def model(self, inputs: Sequence[Beats], memories: Mapping[str, Words]) -> tuple[Beats, ...]:
        x = np.asarray(inputs[0], np.int64)
        result = self._flat(x, memories) if self.form == "flat" else self._tree(x, memories)
        return (cut(result, self.o),)

    def _flat(self, x: np.ndarray, memories: Mapping[str, Words]) -> np.ndarray:
        count, beat = np.zeros_like(x), self.beats(x)[:, 0]
        params = self.params.decode(memories["params"]) if self.params.width else {}
        for k in range(self.levels):
            count += (x >= params[f"threshold{k}"][beat]) & (params[f"never{k}"][beat] == 0)
        if self.counting:
            return count + (params["value0"][beat] if self.first is None else self.first)
        values = np.stack([params[f"value{k}"] for k in range(self.levels + 1)], axis=-1)
        result: np.ndarray = values[self.beats(x), np.arange(self.i.lanes), count]
        return result

    def _tree(self, x: np.ndarray, memories: Mapping[str, Words]) -> np.ndarray:
        result, beat = np.zeros_like(x), self.beats(x)[:, 0]
        for lane in range(self.i.lanes):
            count = np.zeros(len(x), np.int64)
            for stage in range(self.stages):
                node = self.threshold.decode(memories[f"threshold_{stage}_{lane}"])
                at = (beat << stage) + count
                reached = (x[:, lane] >= node["threshold"][at, 0]) & (node["never"][at, 0] == 0)
                count = 2 * count + reached
            if self.counting:
                result[:, lane] = count
            else:
                result[:, lane] = np.array(memories[f"value_{lane}"], np.int64)[(beat << self.stages) + count]
        if self.counting and self.first is None:
            result += self.params.decode(memories["params"])["value0"][beat]
        return result + (self.first or 0)


def comparators_words(
    block: Comparators, thresholds: Sequence[Sequence[int]], values: Sequence[Sequence[int]]
) -> dict[str, tuple[int, ...]]:
    """Contents of the memories.

    Parameters
    ----------
    thresholds, values : sequences of sequences of int
        Arranged: an entry per lane of each beat of the period (`hw.arithmetic.arranged`); an entry has its own number
        of thresholds, rising, and one more values.
    """
    block.entries(thresholds, values)
    for row, of_row in zip(thresholds, values, strict=True):
        if len(row) > block.levels or len(of_row) != len(row) + 1:
            raise ValueError(f"{len(row)} thresholds and {len(of_row)} values do not fit {block.levels} levels")
        if block.counting and any(int(v) != k + int(of_row[0]) for k, v in enumerate(of_row)):
            raise ValueError(f"values must count, not be {list(map(int, of_row))}")
        if block.first is not None and int(of_row[0]) != block.first:
            raise ValueError(f"the first value must be {block.first}, not {int(of_row[0])}")
    words = {}
    if block.params.width:
        words["params"] = block.params.encode_all(
            [_flat_entry(block, row, of_row) for row, of_row in zip(thresholds, values, strict=True)]
        )
    if block.form == "tree":
        for lane in range(block.i.lanes):
            words |= _tree_words(block, lane, thresholds[lane :: block.i.lanes], values[lane :: block.i.lanes])
    return words


def _flat_entry(block: Comparators, thresholds: Sequence[int], values: Sequence[int]) -> dict[str, int]:
    entry = {f"value{k}": int(values[min(k, len(values) - 1)]) for k in range(block.levels + 1)}
    for k in range(block.levels):
        known = k < len(thresholds)
        entry |= {f"threshold{k}": int(thresholds[k]) if known else 0, f"never{k}": int(not known)}
    return entry


def _tree_words(
    block: Comparators, lane: int, thresholds: Sequence[Sequence[int]], values: Sequence[Sequence[int]]
) -> dict[str, tuple[int, ...]]:
    words = {}
    for stage in range(block.stages):
        nodes = []
        for row in thresholds:
            for prefix in range(1 << stage):
                k = ((2 * prefix + 1) << (block.stages - 1 - stage)) - 1
                known = k < len(row)
                nodes.append({"threshold": int(row[k]) if known else 0, "never": int(not known)})
        words[f"threshold_{stage}_{lane}"] = block.threshold.encode_all(nodes)
    if not block.counting:
        value = Word(1, (("value", block.o.width, block.o.signed),))
        places = range(1 << block.stages)
        words[f"value_{lane}"] = value.encode_all(
            [{"value": int(row[min(k, len(row) - 1)])} for row in values for k in places]
        )
    return words


class _Flat(PipelinedComponent):
    def elaborate(self, platform: object) -> Module:
        m = Module()
        take, beat = self.intake(m)
        inputs = elements(delayed(m, self.i.payload, 1), self.block.i)
        params = self.params(m, beat) if self.block.params.width else None
        results = [self._lane(m, x, params, lane) for lane, x in enumerate(inputs)]
        self.give(m, delayed(m, take, 2, reset_less=False), results)
        return m

    def _lane(self, m: Module, x: Any, params: Any, lane: int) -> Any:
        block = self.block
        fields = block.params.split(params, lane) if block.params.width else {}
        reached = Signal(block.levels, reset_less=True)
        for k in range(block.levels):
            m.d.sync += reached[k].eq(~(below(x, fields[f"threshold{k}"]) | fields[f"never{k}"]))
        wait = 0 if block.period == 1 else 1
        values = [delayed(m, part, wait) for name, part in fields.items() if name.startswith("value")]
        if block.counting:
            return sum(reached, values[0] if values else block.first)
        value = values[0]
        for k in range(block.levels):
            value = Mux(reached[k], values[k + 1], value)
        return value


class _Tree(PipelinedComponent):
    def elaborate(self, platform: object) -> Module:
        m = Module()
        take, beat = self.intake(m)
        payload, count = self.i.payload, [Cat() for _ in range(self.block.i.lanes)]
        for stage in range(self.block.stages):
            for lane, prefix in enumerate(count):
                m.d.comb += getattr(self, f"threshold_{stage}_{lane}_addr").eq(Cat(prefix, beat))
            payload, beat = delayed(m, payload, 1), delayed(m, beat, 2)
            for lane, x in enumerate(elements(payload, self.block.i)):
                node = self.block.threshold.split(getattr(self, f"threshold_{stage}_{lane}_data"), 0)
                bit = Signal(name=f"reached_{stage}_{lane}", reset_less=True)
                m.d.sync += bit.eq(~(below(x, node["threshold"]) | node["never"]))
                prefix = count[lane] if stage == 0 else delayed(m, count[lane], 2)
                count[lane] = Cat(bit, prefix)
            payload = delayed(m, payload, 1)
        push = delayed(m, take, 2 * self.block.stages + self.block.reads_value, reset_less=False)
        self.give(m, push, [self._value(m, lane, bits, beat) for lane, bits in enumerate(count)])
        return m

    def _value(self, m: Module, lane: int, count: Any, beat: Any) -> Any:
        """What belongs to the count; a cycle later where it stands in a memory."""
        block = self.block
        if not block.counting:
            m.d.comb += getattr(self, f"value_{lane}_addr").eq(Cat(count, beat))
            return getattr(self, f"value_{lane}_data")
        if block.first is not None:
            return count + block.first
        if lane == 0:
            m.d.comb += self.params_addr.eq(beat)
        return delayed(m, count, 1) + block.params.split(self.params_data, lane)["value0"]
