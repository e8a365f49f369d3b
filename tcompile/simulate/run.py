"""What a simulation found, and the random pauses that all benches draw alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from hw.block import Beats

__all__ = ["DRAIN", "Pauses", "Progress", "Run", "faults"]

Progress = Callable[[int], None]  # is told how many frames have left

DRAIN = 64  # cycles after the last beat in which no other may come
SHARES = (256, 160, 64, 16)
MASK = (1 << 64) - 1


@dataclass(frozen=True, eq=False)
class Run:
    """Frames that went through a design.

    Parameters
    ----------
    outputs : tuple of ndarray
        Beats (frames * beats, lanes) of each output port; fewer after a standstill.
    first : int or None
        Cycle of the first accepted input beat; cycle 0 is the first one after reset.
    ends : tuple of int
        Cycle of each frame's last output beat.
    cycles : int
        Cycles until the last output beat, this one included.
    probes : mapping of str to ndarray
        Beats of the probed inner streams.
    standstill : mapping of str to str
        After a standstill, by stream: ``blocked`` (valid, not ready), ``starved`` (ready, not valid) or ``idle``.
    faults : tuple of str
        What was wrong at the ports beside values; empty if nothing.
    seconds : float
        Time that the simulation itself took.
    """

    outputs: tuple[Beats, ...]
    first: int | None
    ends: tuple[int, ...]
    cycles: int
    probes: Mapping[str, Beats] = field(default_factory=dict)
    standstill: Mapping[str, str] = field(default_factory=dict)
    faults: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def latency(self) -> int | None:
        """Cycles from the first accepted input beat to the last output beat of the first frame."""
        return self.ends[0] - self.first if self.ends and self.first is not None else None

    @property
    def intervals(self) -> tuple[int, ...]:
        """Cycles between the last output beats of consecutive frames."""
        return tuple(b - a for a, b in zip(self.ends, self.ends[1:], strict=False))


def faults(last_errors: int, protocol_errors: int, surplus: int) -> tuple[str, ...]:
    """Faults at the output ports in words."""
    found = {
        f"TLAST was wrong at {last_errors} output beats": last_errors,
        f"offers at outputs changed before they were taken, {protocol_errors} times": protocol_errors,
        f"{surplus} output beats came after the last frame": surplus,
    }
    return tuple(text for text, count in found.items() if count)


class Pauses:
    """Decides in which cycles a port takes part; bursts and rests alternate at random, the same in every bench.

    Parameters
    ----------
    seed : int
    port : int
        Number of an input, or 1000 and the number of an output.
    """

    def __init__(self, seed: int, port: int) -> None:
        self.state = (((seed + 1) * 0x9E3779B97F4A7C15) ^ ((port + 1) * 0xBF58476D1CE4E5B9)) & MASK or 1
        self.share = 160

    def active(self) -> bool:
        """Whether the port takes part in the next cycle."""
        state = self.state
        state ^= state >> 12
        state ^= (state << 25) & MASK
        state ^= state >> 27
        self.state = state
        r = ((state * 0x2545F4914F6CDD1D) & MASK) >> 32
        if r & 63 == 0:
            self.share = SHARES[(r >> 6) & 3]
        return (r >> 16) & 255 < self.share
