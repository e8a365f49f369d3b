"""What every block of the gateware is: a frozen description that makes its component, its model and its timing.

Blocks speak through streams (Amaranth's `stream.Signature`: payload, valid, ready). One transfer is a *beat*: `lanes`
elements of `width` bits, element 0 in the low bits. Constant memories stay outside a block, so that layers which differ
only in their constants share one module: a block has an address port and a data port per memory, and whoever places the
block connects a synchronous memory to them (data of the address given in one cycle appear in the next).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from amaranth.hdl import unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hw.timing import Channel, Program

__all__ = ["Beats", "Block", "Bus", "Memory", "Words", "pack", "unpack"]

Beats = np.ndarray  # int64 (beats, lanes)
Words = Sequence[int]  # contents of a memory, one nonnegative integer per address

LUT_BITS = 2048  # of a constant memory that are certain to stay in look-up tables: yosys, for ECP5


@dataclass(frozen=True)
class Bus:
    """Shape of one beat: `lanes` elements of `width` bits each, two's complement where signed."""

    lanes: int
    width: int
    signed: bool = False

    @property
    def bits(self) -> int:
        """Bits of the payload."""
        return self.lanes * self.width

    @property
    def signature(self) -> stream.Signature:
        """The stream of such beats."""
        return stream.Signature(unsigned(self.bits))


@dataclass(frozen=True)
class Memory:
    """Shape of a constant memory with synchronous read.

    Parameters
    ----------
    depth, width : int
    partial : bool
        Whether fewer words than `depth` will do.
    waits : bool
        Whether the block says in which cycles it reads; in others the last word stays.
    """

    depth: int
    width: int
    partial: bool = False
    waits: bool = False

    @property
    def address_width(self) -> int:
        """Bits of an address; at least 1."""
        return max(1, (self.depth - 1).bit_length())

    @property
    def is_slow(self) -> bool:
        """Whether synthesis may put it into block RAM, whose words come late in a cycle."""
        return self.depth * self.width > LUT_BITS

    def takes(self, words: Words) -> bool:
        """Whether these can be its contents."""
        fits = len(words) == self.depth or (self.partial and 0 < len(words) < self.depth)
        return fits and all(0 <= word < 1 << self.width for word in words)


class Block(ABC):
    """Base of the frozen dataclasses that describe blocks; equal descriptions share one module."""

    @property
    @abstractmethod
    def inputs(self) -> tuple[Bus, ...]:
        """Streams taken."""

    @property
    @abstractmethod
    def outputs(self) -> tuple[Bus, ...]:
        """Streams given."""

    @property
    def memories(self) -> dict[str, Memory]:
        """Constant memories by port name."""
        return {}

    @property
    @abstractmethod
    def latency(self) -> int:
        """Cycles from the transfer of the last input beat that an output beat needs to its ``valid``, unstalled."""

    @abstractmethod
    def component(self) -> wiring.Component:
        """The gateware, with the ports of `signature`."""

    @abstractmethod
    def model(self, inputs: Sequence[Beats], memories: Mapping[str, Words]) -> tuple[Beats, ...]:
        """All output beats for all input beats, in Python and numpy."""

    @abstractmethod
    def processes(self, i: Sequence[Channel], o: Sequence[Channel]) -> Iterable[Program]:
        """The block's timing; see `hw.timing`."""

    def timing(self, i: Sequence[Channel], o: Sequence[Channel], memories: Mapping[str, Words]) -> Iterable[Program]:
        """The block's timing where it depends on what the memories hold; `processes` where it does not."""
        return self.processes(i, o)

    @property
    def input_names(self) -> tuple[str, ...]:
        """``i``, or ``i0``, ``i1`` ... where there are several."""
        return ("i",) if len(self.inputs) == 1 else tuple(f"i{k}" for k in range(len(self.inputs)))

    @property
    def output_names(self) -> tuple[str, ...]:
        """``o``, or ``o0``, ``o1`` ... where there are several."""
        return ("o",) if len(self.outputs) == 1 else tuple(f"o{k}" for k in range(len(self.outputs)))

    @property
    def signature(self) -> dict[str, wiring.Member]:
        """Ports of the component: streams, and ``<memory>_addr``, ``<memory>_data``, ``<memory>_en`` of one that waits."""
        ports: dict[str, wiring.Member] = {
            **{name: In(bus.signature) for name, bus in zip(self.input_names, self.inputs, strict=True)},
            **{name: Out(bus.signature) for name, bus in zip(self.output_names, self.outputs, strict=True)},
        }
        for name, memory in self.memories.items():
            ports |= {f"{name}_addr": Out(memory.address_width), f"{name}_data": In(memory.width)}
            ports |= {f"{name}_en": Out(1)} if memory.waits else {}
        return ports


def pack(elements: Iterable[int], width: int) -> int:
    """Elements side by side in one word, the first in the low bits, each cut to `width` bits."""
    word, mask = 0, (1 << width) - 1
    for k, element in enumerate(elements):
        word |= (int(element) & mask) << (k * width)
    return word


def unpack(word: int, bus: Bus) -> list[int]:
    """The elements of a beat."""
    mask, sign = (1 << bus.width) - 1, 1 << (bus.width - 1)
    fields = [(word >> (k * bus.width)) & mask for k in range(bus.lanes)]
    return [(f ^ sign) - sign if bus.signed else f for f in fields]
