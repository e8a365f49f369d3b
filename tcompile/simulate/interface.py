"""What a bench knows about a design: its ports, the streams inside, and how long a silence may be."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hw.block import Beats, Bus
from tcompile.mapping.design import Design, Edge, Stream

__all__ = ["PATH", "Interface", "Link"]

PATH = "sim/streams.json"
RESERVE = 4096  # cycles


@dataclass(frozen=True)
class Link:
    """A port or an inner stream.

    Parameters
    ----------
    name : str
    bus : Bus
        Shape of a beat.
    beats : int
        Beats of one frame.
    channels : int
        Elements of a position, which begins a new beat; what its last beat has beyond them means nothing.
    value : str
        Value of the integer network that it carries.
    """

    name: str
    bus: Bus
    beats: int
    channels: int
    value: str

    @property
    def beats_per_position(self) -> int:
        """Beats that the channels of a position take."""
        return -(-self.channels // self.bus.lanes)

    def is_like(self, mine: Beats, theirs: Beats) -> bool:
        """Whether two arrays of beats agree in everything that has a meaning."""
        return mine.shape == theirs.shape and np.array_equal(self.elements(mine), self.elements(theirs))

    def elements(self, beats: Beats) -> np.ndarray:
        """Beats (N * beats, lanes) as elements (positions, channels)."""
        return beats.reshape(-1, self.beats_per_position * self.bus.lanes)[:, : self.channels]

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        bus = {"lanes": self.bus.lanes, "bits": self.bus.width, "signed": self.bus.signed}
        return {"name": self.name, **bus, "beats": self.beats, "channels": self.channels, "value": self.value}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Link:
        """From a JSON object."""
        return cls(
            data["name"],
            Bus(data["lanes"], data["bits"], data["signed"]),
            data["beats"],
            data["channels"],
            data["value"],
        )


@dataclass(frozen=True)
class Interface:
    """Ports and streams of a design.

    Parameters
    ----------
    top : str
        Name of the top module.
    inputs, outputs : tuple of Link
        AXI4-Stream ports, named ``s_axis_<k>`` and ``m_axis_<k>``.
    streams : tuple of Link
        Streams inside, in the order of the design.
    patience : int
        Cycles without any transfer after which the design must have come to a standstill.
    """

    top: str
    inputs: tuple[Link, ...]
    outputs: tuple[Link, ...]
    streams: tuple[Link, ...]
    patience: int

    @classmethod
    def of(cls, design: Design, patience: int | None = None) -> Interface:
        """The interface of a design; without `patience`, eight times its beats per frame and some thousand cycles."""
        if patience is None:
            patience = RESERVE + 8 * sum(s.beats for s in design.streams.values())
        return cls(
            design.name,
            tuple(_port(design, "s_axis", e) for e in design.inputs),
            tuple(_port(design, "m_axis", e) for e in design.outputs),
            tuple(_inner(name, stream) for name, stream in design.streams.items()),
            patience,
        )

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        lists = {n: [x.to_json() for x in getattr(self, n)] for n in ("inputs", "outputs", "streams")}
        return {"top": self.top, "patience": self.patience, **lists}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Interface:
        """From a JSON object."""
        inputs, outputs, streams = (tuple(map(Link.from_json, data[n])) for n in ("inputs", "outputs", "streams"))
        return cls(data["top"], inputs, outputs, streams, data["patience"])

    @classmethod
    def read(cls, directory: Path) -> Interface:
        """The interface of a build directory."""
        return cls.from_json(json.loads((directory / PATH).read_text(encoding="utf-8")))


def _port(design: Design, kind: str, edge: Edge) -> Link:
    stream = design.streams[edge.stream]
    return Link(f"{kind}_{edge.port}", stream.bus, stream.beats, edge.layout.channels, edge.value)


def _inner(name: str, stream: Stream) -> Link:
    channels = stream.layout.channels if stream.layout else stream.bus.lanes
    return Link(name, stream.bus, stream.beats, channels, stream.value)
