"""A queue whose newest bytes can be taken back.

`replayed` is the model.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hw.routing import onward

__all__ = ["PacketQueue", "replayed"]


def replayed(depth: int, acts: Iterable[int | str]) -> tuple[list[int], list[bool]]:
    """What a `PacketQueue` that nobody empties holds in the end.

    Parameters
    ----------
    depth : int
    acts : iterable of int or str
        A byte that is pushed, ``commit`` or ``discard``.

    Returns
    -------
    tuple of (list of int, list of bool)
        The bytes committed, and for each commit or discard whether a byte had been refused since the one before.
    """
    kept: deque[int] = deque()
    new: list[int] = []
    refused, told = False, []
    for act in acts:
        if isinstance(act, int):
            refused |= (full := len(kept) + len(new) == depth)
            new += [] if full else [act]
            continue
        told.append(refused)
        if act == "commit":
            kept.extend(new)
        new, refused = [], False
    return list(kept), told


@dataclass(frozen=True)
class PacketQueue:
    """A queue of bytes for packets that are judged at their end.

    What is pushed waits until `commit` lets it out or `discard` takes it back. `push`, `commit` and `discard` are given in
    different cycles. It gives a byte every second cycle at most.

    Parameters
    ----------
    depth : int
        Bytes that it holds.

    Members
    -------
    data : In(8)
    push : In(1)
        A byte more, lost where the queue is full.
    commit, discard : In(1)
        What was pushed since the last of them may leave, or is gone.
    refused : Out(1)
        A byte was lost since the last `commit` or `discard`.
    empty : Out(1)
        Nothing is inside, not even what waits.
    o : Out(stream)
    """

    depth: int

    def __post_init__(self) -> None:
        if self.depth < 2:
            raise ValueError(f"a queue must hold at least 2 bytes, not {self.depth}")

    def component(self) -> wiring.Component:
        """The gateware."""
        return _PacketQueue(self.depth)


class _PacketQueue(wiring.Component):
    def __init__(self, depth: int) -> None:
        self.depth = depth
        ins = {"data": In(8), "push": In(1), "commit": In(1), "discard": In(1)}
        super().__init__(ins | {"refused": Out(1), "empty": Out(1), "o": Out(stream.Signature(8))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.memory = memory = Memory(shape=8, depth=self.depth, init=[])
        write, read = memory.write_port(), memory.read_port()
        head, start, tail = (Signal(range(self.depth), name=n) for n in ("head", "start", "tail"))
        free, new = (Signal(range(self.depth + 1), init=i, name=n) for n, i in (("free", self.depth), ("new", 0)))
        kept = Signal(range(self.depth + 1))
        fetched, taken, stored = Signal(), Signal(), Signal()
        m.d.comb += [
            stored.eq(self.push & (free != 0)),
            write.addr.eq(head),
            write.data.eq(self.data),
            write.en.eq(stored),
            read.addr.eq(tail),
            self.o.payload.eq(read.data),
            self.o.valid.eq(fetched),
            taken.eq(self.o.valid & self.o.ready),
            self.empty.eq(free == self.depth),
        ]
        m.d.sync += fetched.eq(~fetched & (kept != 0) | fetched & ~taken)
        with m.If(stored):
            m.d.sync += [head.eq(onward(head, self.depth)), new.eq(new + 1)]
        with m.If(self.commit):
            m.d.sync += [start.eq(head), new.eq(0)]
        with m.If(self.discard):
            m.d.sync += [head.eq(start), new.eq(0)]
        with m.If(taken):
            m.d.sync += tail.eq(onward(tail, self.depth))
        m.d.sync += [
            free.eq(free - stored + taken + Mux(self.discard, new, 0)),
            kept.eq(kept - taken + Mux(self.commit, new, 0)),
            self.refused.eq((self.refused | self.push & ~stored) & ~(self.commit | self.discard)),
        ]
        return m
