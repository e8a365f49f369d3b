"""The design: instances of blocks, contents of their memories, and the streams that join them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hw.block import Block, Bus
from tcompile.mapping.layout import Layout

__all__ = ["Design", "Edge", "Instance", "Stream"]


@dataclass(frozen=True)
class Stream:
    """A stream between two instances.

    Parameters
    ----------
    name : str
        Plain identifier, unique in the design.
    bus : Bus
        Shape of a beat.
    value : str
        Value of the integer network that it carries.
    beats : int
        Beats of one frame.
    layout : Layout or None
        How the value's elements travel; None where a block needs them in a way no tensor has (windows, rows).
    """

    name: str
    bus: Bus
    value: str
    beats: int
    layout: Layout | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Instance:
    """One block in its place.

    Parameters
    ----------
    name : str
        Plain identifier, unique in the design.
    block : Block
        What it is; equal blocks share one module.
    inputs, outputs : tuple of str
        Names of streams, in the order of the block's ports.
    memories : mapping of str to tuple of int
        Contents of each of the block's memories.
    layer : str
        Node of the integer network that it belongs to.
    loadable : bool
        Whether the contents of its memories can be replaced through the control port.
    """

    name: str
    block: Block
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    memories: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    layer: str = ""
    loadable: bool = False


@dataclass(frozen=True)
class Edge:
    """Where a stream meets the outside.

    Parameters
    ----------
    port : int
        Number of the AXI4-Stream port, ``s_axis_<port>`` or ``m_axis_<port>``.
    stream : str
    value : str
        Input or output of the integer network.
    layout : Layout
        How its elements travel.
    """

    port: int
    stream: str
    value: str
    layout: Layout = field(compare=False)


@dataclass(frozen=True)
class Design:
    """A whole accelerator.

    Parameters
    ----------
    name : str
        Plain identifier; the top module.
    instances : tuple of Instance
        In the order of the flow; the blocks at the AXI4-Stream ports (`hw.axi_stream`) are among them: an input port's
        block has no input stream, an output port's block no output stream.
    streams : mapping of str to Stream
    inputs, outputs : tuple of Edge
        The streams inside the AXI4-Stream ports.
    """

    name: str
    instances: tuple[Instance, ...]
    streams: Mapping[str, Stream]
    inputs: tuple[Edge, ...]
    outputs: tuple[Edge, ...]

    @property
    def loadable(self) -> bool:
        """Whether the contents of memories can be replaced through the control port: of all, or of none."""
        return any(i.loadable for i in self.instances)

    @property
    def memories(self) -> int:
        """Memories of all instances that these only read."""
        return sum(len(i.memories) for i in self.instances)

    def producer(self, stream: str) -> Instance:
        """The instance that gives a stream."""
        return next(i for i in self.instances if stream in i.outputs)
