"""What a bench knows about a design: its ports, the streams inside, and how long a silence may be."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hw.block import Bus
from tcompile.mapping.design import Design, Stream

__all__ = ["Interface", "Link", "PATH"]

PATH = "sim/streams.json"
RESERVE = 4096  # cycles


@dataclass(frozen=True)
class Link:
    """A port or an inner stream: name, shape of a beat, beats per frame, value of the integer network."""

    name: str
    bus: Bus
    beats: int
    value: str

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        bus = {"lanes": self.bus.lanes, "bits": self.bus.width, "signed": self.bus.signed}
        return {"name": self.name, **bus, "beats": self.beats, "value": self.value}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Link:
        """From a JSON object."""
        return cls(data["name"], Bus(data["lanes"], data["bits"], data["signed"]), data["beats"], data["value"])


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
            tuple(_link(f"s_axis_{e.port}", design.streams[e.stream]) for e in design.inputs),
            tuple(_link(f"m_axis_{e.port}", design.streams[e.stream]) for e in design.outputs),
            tuple(_link(name, stream) for name, stream in design.streams.items()),
            patience,
        )

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        lists = {n: [x.to_json() for x in getattr(self, n)] for n in ("inputs", "outputs", "streams")}
        return {"top": self.top, "patience": self.patience, **lists}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Interface:
        """From a JSON object."""
        lists = [tuple(Link.from_json(x) for x in data[n]) for n in ("inputs", "outputs", "streams")]
        return cls(data["top"], *lists, data["patience"])

    @classmethod
    def read(cls, directory: Path) -> Interface:
        """The interface of a build directory."""
        return cls.from_json(json.loads((directory / PATH).read_text(encoding="utf-8")))


def _link(name: str, stream: Stream) -> Link:
    return Link(name, stream.bus, stream.beats, stream.value)
