"""The cycle model: a design's blocks as timed programs, run for some frames. It is the simulation without the data."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

import numpy as np

from hw import clockwork
from hw.block import Block
from hw.fifo import Fifo
from hw.timing import Channel, Program, sink, source
from tcompile.errors import InternalError, Problem
from tcompile.mapping.design import Design

__all__ = ["FRAMES", "Cycles", "Transfers", "alone", "cycles_of", "predict", "transfers"]

FRAMES = 4  # from the third frame on, intervals are those of a full pipeline
ENDLESS = 1 << 40


@dataclass(frozen=True)
class Cycles:
    """When frames begin and end.

    Parameters
    ----------
    first : int
        Cycle of the first input beat.
    ends : tuple of int
        Cycle of the last output beat of each frame, of all ports.
    """

    first: int
    ends: tuple[int, ...]

    @property
    def latency(self) -> int:
        """Cycles from the first input beat to the last output beat of the first frame."""
        return self.ends[0] - self.first

    @property
    def interval(self) -> int | None:
        """Cycles between the last output beats of the third and the fourth frame; None for fewer frames."""
        return self.ends[3] - self.ends[2] if len(self.ends) > 3 else None


@dataclass(frozen=True)
class Transfers:
    """Cycles of all transfers: on every stream, and at the AXI4-Stream ports by instance."""

    streams: dict[str, np.ndarray]
    ports: dict[str, np.ndarray]


def predict(design: Design, frames: int = FRAMES) -> Cycles:
    """The cycles of a run without stalls.

    Raises
    ------
    InternalError
        The design comes to a standstill; the message names the streams that wait.
    """
    return cycles_of(design, transfers(design, frames), frames)


def cycles_of(design: Design, seen: Transfers, frames: int = FRAMES) -> Cycles:
    """The cycles of a run that was made; raises as `predict` does."""
    _check_complete(design, frames, seen.streams)
    first = min(int(seen.ports[design.producer(e.stream).name][0]) for e in design.inputs)
    last = [seen.ports[i.name] for i in design.instances if not i.outputs]
    ends = [tuple(int(times[(f + 1) * (len(times) // frames) - 1]) for times in last) for f in range(frames)]
    return Cycles(first, tuple(map(max, ends)))


@lru_cache(maxsize=256)
def alone(blocks: tuple[Block, ...], beats: int) -> int:
    """Cycles between frames of so many beats that go through blocks in a row, without memories, as fast as these can take them."""
    channels = [Channel(str(k), record=True) for k in range(len(blocks) + 1)]
    programs = [source(channels[0], FRAMES * beats), sink(channels[-1])]
    for block, (i, o) in zip(blocks, pairwise(channels), strict=True):
        programs += block.timing([i], [o], {})
    clockwork.run(programs)
    ends = channels[-1].times[:: -(len(channels[-1].times) // FRAMES)]
    return int(ends[0] - ends[1])


def transfers(design: Design, frames: int, endless: Collection[str] = (), pace: int = 0) -> Transfers:
    """Run a design's timing until nothing moves any more.

    Parameters
    ----------
    endless : collection of str
        Instances of `Fifo` that are taken to be without end.
    pace : int
        Cycles over which the beats of an input frame are spread; 0 for as fast as they are taken.
    """
    streams = {name: Channel(name, record=True) for name in design.streams}
    ports = {i.name: Channel(i.name, record=True) for i in design.instances if not (i.inputs and i.outputs)}
    programs: list[Program] = []
    for instance in design.instances:
        block = instance.block
        if instance.name in endless:
            assert isinstance(block, Fifo)
            block = replace(block, depth=ENDLESS)
        i = [streams[s] for s in instance.inputs] or [ports[instance.name]]
        o = [streams[s] for s in instance.outputs] or [ports[instance.name]]
        programs += block.timing(i, o, instance.memories)
        if not instance.inputs:
            beats = design.streams[instance.outputs[0]].beats
            earliest = [k * pace // beats for k in range(frames * beats)] if pace else []
            programs.append(source(ports[instance.name], frames * beats, earliest))
        elif not instance.outputs:
            programs.append(sink(ports[instance.name]))
    clockwork.run(programs)
    return Transfers(*({n: np.array(c.times, np.int64) for n, c in group.items()} for group in (streams, ports)))


def _check_complete(design: Design, frames: int, streams: dict[str, np.ndarray]) -> None:
    late = [s for e in design.outputs if len(streams[s := e.stream]) < frames * design.streams[s].beats]
    if late:
        waits = [f"{n}: {len(t)} of {frames * design.streams[n].beats} beats" for n, t in streams.items()]
        raise InternalError(Problem("standstill", f"the design does not finish {frames} frames; {'; '.join(waits)}"))
