"""The ``sim`` folder: benches for Verilator and cocotb, golden frames, and what both know of the design."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from hw.block import Beats
from tcompile.simulate.interface import PATH, Interface, Link
from tcompile.simulate.netlist import RESET_CYCLES, stream_net
from tcompile.simulate.packing import beat_bytes, to_bytes
from tcompile.templates import render

__all__ = ["sim_files"]


@dataclass(frozen=True)
class _Port:
    name: str
    bytes: int
    beats: int
    lanes: int
    channels: int
    width: int
    signed: str


@dataclass(frozen=True)
class _Stream:
    name: str
    valid: str
    ready: str
    payload: str
    bytes: int


@dataclass(frozen=True)
class _Bench:
    top: str
    patience: int
    reset: int
    inputs: tuple[_Port, ...]
    outputs: tuple[_Port, ...]
    streams: tuple[_Stream, ...]


@dataclass(frozen=True)
class _Names:
    top: str
    reset: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def sim_files(interface: Interface, inputs: Sequence[Beats], outputs: Sequence[Beats]) -> dict[str, bytes]:
    """Files below ``sim`` by relative path.

    Parameters
    ----------
    interface : Interface
    inputs, outputs : sequence of ndarray
        Beats of the golden frames at each port, in the order of the interface.
    """
    names = _Names(
        interface.top, RESET_CYCLES, tuple(p.name for p in interface.inputs), tuple(p.name for p in interface.outputs)
    )
    golden = zip((*interface.inputs, *interface.outputs), (*inputs, *outputs), strict=True)
    return {
        "sim/Makefile": render("sim/Makefile.j2", names),
        "sim/bench.cpp": render("sim/bench.cpp.j2", _bench(interface)),
        "sim/cocotb_runner.py": render("sim/cocotb_runner.py.j2", names),
        **{f"sim/golden/{link.name}.bin": to_bytes(beats, link.bus) for link, beats in golden},
        "sim/probe.vlt": render("sim/probe.vlt.j2", names),
        PATH: (json.dumps(interface.to_json(), indent=1) + "\n").encode(),
        "sim/test_bench.py": render("sim/test_bench.py.j2", names),
    }


def _bench(interface: Interface) -> _Bench:
    return _Bench(
        interface.top,
        interface.patience,
        RESET_CYCLES,
        tuple(map(_port, interface.inputs)),
        tuple(map(_port, interface.outputs)),
        tuple(_inner(_encoded(interface.top), s) for s in interface.streams),
    )


def _port(link: Link) -> _Port:
    bus = link.bus
    return _Port(
        link.name, beat_bytes(bus), link.beats, bus.lanes, link.channels, bus.width, "true" if bus.signed else "false"
    )


def _inner(top: str, link: Link) -> _Stream:
    """The members of Verilator's class for the nets of a stream: it writes ``___05F`` for two underscores."""
    valid, ready, payload = (
        f"{top}__DOT__{_encoded(stream_net(link.name, signal))}" for signal in ("valid", "ready", "payload")
    )
    return _Stream(link.name, valid, ready, payload, beat_bytes(link.bus))


def _encoded(name: str) -> str:
    return name.replace("__", "___05F")
