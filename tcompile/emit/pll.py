"""Settings of ECP5's phase-locked loop `EHXPLLL` with one output, fed back from that output.

The loop divides its input by `i` and its output by `f` and makes both equal; the output is the oscillator divided by
`o`: output = input · f / i, oscillator = output · o. Limits are those of Lattice's data sheet FPGA-DS-02012.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

__all__ = ["FARTHEST", "Pll", "pll_for"]

MHZ = 10**6
MOST = 128  # of every divider
DETECTOR = (Fraction(25, 8) * MHZ, Fraction(400) * MHZ)  # phase detector: input / i
OSCILLATOR = (Fraction(400) * MHZ, Fraction(800) * MHZ)
OUTPUT = (Fraction(25, 8) * MHZ, Fraction(400) * MHZ)
QUIETEST = Fraction(600) * MHZ  # oscillator, in the middle of its range
FARTHEST = Fraction(5, 100)  # below the clock that is wanted


@dataclass(frozen=True)
class Pll:
    """Dividers of input, feedback and output."""

    input_hz: Fraction
    i: int
    f: int
    o: int

    @property
    def output_hz(self) -> Fraction:
        """Frequency of the output."""
        return self.input_hz * self.f / self.i

    @property
    def oscillator_hz(self) -> Fraction:
        """Frequency of the oscillator inside."""
        return self.output_hz * self.o

    def problems(self) -> list[str]:
        """The limits that it does not keep."""
        places = {
            "phase detector": (self.input_hz / self.i, DETECTOR),
            "oscillator": (self.oscillator_hz, OSCILLATOR),
            "output": (self.output_hz, OUTPUT),
        }
        dividers = [f"divider {n}" for n, d in (("i", self.i), ("f", self.f), ("o", self.o)) if not 1 <= d <= MOST]
        return dividers + [name for name, (hz, (low, high)) in places.items() if not low <= hz <= high]


def pll_for(input_hz: Fraction | int, wanted_hz: Fraction | int) -> Pll:
    """The fastest clock that is not faster than wanted; of several settings the one with the fastest phase detector.

    Raises
    ------
    ValueError
        There is none within `FARTHEST`.
    """
    source, wanted = Fraction(input_hz), Fraction(wanted_hz)
    found: list[tuple[tuple[Fraction, int, Fraction], Pll]] = []
    for i in range(1, MOST + 1):
        f = min(MOST, (wanted * i / source).__floor__())
        if source / i < DETECTOR[0] or f < 1:
            continue
        for o in range(1, MOST + 1):
            pll = Pll(source, i, f, o)
            if not pll.problems():
                found.append(((-pll.output_hz, i, abs(pll.oscillator_hz - QUIETEST)), pll))
    best = min(found, key=lambda row: row[0])[1] if found else None
    if best is None or best.output_hz < wanted * (1 - FARTHEST):
        raise ValueError(
            f"a clock of {float(wanted / MHZ):.6g} MHz must be met within {float(FARTHEST):.0%} and not be exceeded, and the "
            f"loop makes {'no clock below it' if best is None else f'{float(best.output_hz / MHZ):.6g} MHz'} of "
            f"{float(source / MHZ):.6g} MHz; it reaches {float(OUTPUT[0] / MHZ):g} to {float(OUTPUT[1] / MHZ):g} MHz"
        )
    return best
