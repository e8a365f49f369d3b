"""Hardware as a machine that computes the integers of a network: frames to beats, a simulator, beats to frames."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, get_args

import numpy as np

from hw.block import Beats
from tcompile.errors import MismatchError, Problem, UsageError, printable
from tcompile.ir.graph import Graph
from tcompile.ir.integer import Input
from tcompile.mapping.design import Design, Stream
from tcompile.mapping.layout import Layout
from tcompile.mapping.layouts import layouts
from tcompile.options import Simulator
from tcompile.simulate.run import Progress, Run
from tcompile.verify import Computed, Interpreter, Machine

__all__ = ["Hardware", "machine_of"]


class Bench(Protocol):
    """Sends beats through a design."""

    def __call__(
        self, inputs: list[Beats], *, stall: int | None, probes: tuple[str, ...], progress: Progress | None
    ) -> Run: ...


@contextmanager
def machine_of(
    simulator: Simulator,
    graph: Graph,
    design: Callable[[], Design],
    directory: Path,
    *,
    stall: int | None = None,
    jobs: int = 2,
) -> Iterator[Machine]:
    """The machine of a build directory.

    Parameters
    ----------
    design : callable
        Makes the design; not called for the simulator "model".
    stall : int, optional
        Seed of random pauses at all ports.
    jobs : int
        Compilers that run at the same time.
    """
    if simulator not in get_args(Simulator):
        known = ", ".join(get_args(Simulator))
        raise UsageError(
            Problem("bad-option", f"the simulator must be one of {known}, not {printable(str(simulator))}")
        )
    if stall is not None and (simulator == "model" or stall < 0):
        raise UsageError(Problem("bad-option", "stall is a seed of 0 or more, for hardware; the model has no cycles"))
    if simulator == "model":
        yield Interpreter(graph)
    elif simulator == "amaranth":
        from tcompile.simulate.gateware import simulate

        built = design()

        def run(inputs: list[Beats], **options: object) -> Run:
            return simulate(built, inputs, **options)  # type: ignore[arg-type]

        yield Hardware("amaranth", graph, built, run, run, stall)
    else:
        from tcompile.simulate.verilator import Simulation

        def look(inputs: list[Beats], **options: object) -> Run:
            with Simulation(directory, probes=True, jobs=jobs) as seeing:
                return seeing.run(inputs, **options)  # type: ignore[arg-type]

        with Simulation(directory, jobs=jobs) as simulation:
            yield Hardware("verilator", graph, design(), simulation.run, look, stall)


@dataclass(frozen=True, eq=False)
class Hardware:
    """A design in a simulator."""

    name: str
    graph: Graph
    design: Design
    bench: Bench
    seeing: Bench
    seed: int | None
    known: Mapping[str, Layout] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "known", layouts(self.graph))

    @property
    def stall(self) -> str:
        return "none" if self.seed is None else f"random:{self.seed}"

    def run(self, codes: Mapping[str, np.ndarray], progress: Callable[[int], None]) -> Computed:
        found = self.bench(self._beats(codes), stall=self.seed, probes=(), progress=progress)
        self._check(found)
        outputs = {
            edge.value: edge.layout.from_beats(beats, self.design.streams[edge.stream].bus)
            for edge, beats in zip(self.design.outputs, found.outputs, strict=True)
        }
        return Computed(outputs, found.latency, found.ends)

    def probe(self, codes: Mapping[str, np.ndarray], values: Collection[str]) -> Mapping[str, np.ndarray]:
        streams = {v: s for v in values if (s := self._stream(v)) is not None}
        names = tuple(dict.fromkeys(s.name for s in streams.values()))
        found = self.seeing(self._beats(codes), stall=self.seed, probes=names, progress=None)
        frames = len(next(iter(codes.values())))
        return {
            value: self.known[value].from_beats(found.probes[stream.name], stream.bus)
            for value, stream in streams.items()
            if len(found.probes[stream.name]) == frames * stream.beats
        }

    def _beats(self, codes: Mapping[str, np.ndarray]) -> list[Beats]:
        """Frames of the inputs that have a port; others are used by nothing."""
        return [e.layout.to_beats(codes[e.value], self.design.streams[e.stream].bus) for e in self.design.inputs]

    def _stream(self, value: str) -> Stream | None:
        """A stream that carries a value as its producer gives it."""
        while value in self.graph.by_name and not isinstance(self.graph[value], Input):
            for stream in self.design.streams.values():
                if stream.value == value and stream.layout is not None and stream.layout.is_like(self.known[value]):
                    return stream
            value = self.graph[value].inputs[0]  # a view of another value, without hardware
        return None

    def _check(self, found: Run) -> None:
        problems = [
            Problem("protocol", f"the bench must find no fault at the ports, and found: {f}") for f in found.faults
        ]
        if found.standstill:
            waits = "; ".join(f"{name} {state}" for name, state in found.standstill.items() if state != "idle")
            message = f"the hardware must not come to a standstill, and did after {found.cycles} cycles: {waits}"
            hint = "blocked: valid without ready; starved: ready without valid"
            problems.append(Problem("standstill", message, hint=hint))
        if problems:
            raise MismatchError(problems)
