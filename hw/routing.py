"""What the blocks that only route beats have in common: positions counted, elements made wider, arguments checked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import and_

import numpy as np
from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value

from hw.block import Bus
from hw.timing import Channel, Program, Queue

__all__ = ["Axis", "both_sides", "check_code", "check_extends", "every", "extend", "odometer", "onward", "within"]


def check_extends(bus: Bus, out: Bus) -> None:
    """Refuse an output whose elements cannot hold every element of the input.

    Raises
    ------
    ValueError
        The output's elements are too narrow, or unsigned where the input's are signed.
    """
    if bus.signed and not out.signed:
        raise ValueError("signed elements need a signed output")
    need = bus.width + (out.signed and not bus.signed)
    if out.width < need:
        raise ValueError(f"elements of {bus} need an output of at least {need} bits, not {out.width}")


def check_code(code: int, out: Bus) -> None:
    """Refuse a filling that is no element of the output.

    Raises
    ------
    ValueError
        `code` is not representable.
    """
    low, high = (-(1 << (out.width - 1)), 1 << (out.width - 1)) if out.signed else (0, 1 << out.width)
    if not low <= code < high:
        raise ValueError(f"the filling must be from {low} to {high - 1}, not {code}")


def extend(payload: Value, bus: Bus, out: Bus) -> Value:
    """A beat of `bus` with each element carried to the width of `out`, by its sign or by zeros."""
    extra, parts = out.width - bus.width, []
    for k in range(bus.lanes):
        element = payload[k * bus.width : (k + 1) * bus.width]
        parts += [element, element[-1].replicate(extra) if bus.signed else Const(0, extra)]
    return Cat(*parts)


def every(conditions: Iterable[Value]) -> Value:
    """1 where all conditions hold."""
    return reduce(and_, conditions, Const(1))


def onward(place: Value, count: int) -> Value:
    """The next of `count` places in a ring."""
    return Mux(place == count - 1, 0, place + 1)


@dataclass(frozen=True, eq=False)
class Axis:
    """A coordinate of a grid.

    Parameters
    ----------
    size : int
        Places.
    counter : Value
        The coordinate, 0 to size - 1.
    moves : Value
        Whether it changes at the end of this cycle.
    last : Value
        Whether it is at its highest.
    """

    size: int
    counter: Value
    moves: Value
    last: Value


def within(m: Module, axis: Axis, low: int, count: int) -> Value:
    """Whether a coordinate is one of the `count` from `low`, out of a register: it is known when the axis moves."""
    if count == axis.size:
        return Const(1)
    inside = Signal(init=low == 0)
    following = every(
        [axis.counter >= low - 1] * (low > 1) + [axis.counter < low + count - 1] * (low + count < axis.size)
    )
    with m.If(axis.moves):
        m.d.sync += inside.eq(Mux(axis.last, low == 0, following))
    return inside


def odometer(m: Module, grid: Sequence[int], step: Value, *, ahead: bool = False) -> list[Axis]:
    """Counters of the axes of a grid, slowest first; `step` goes on by one place, and round at the end.

    They begin at the first place, or `ahead` at the one behind it.

    What others ask of a coordinate comes out of registers, so that no path leads from a counter through a comparison
    into the handshakes of a stream.
    """
    axes, carry = [], ahead
    for n in reversed(grid):
        counter: Value = Const(0)
        last: Value = Const(1)
        if n > 1:
            counter, last = Signal(range(n), init=carry), Signal(init=carry == n - 1)
            carry = False
            with m.If(step):
                m.d.sync += [counter.eq(Mux(last, 0, counter + 1)), last.eq(counter == n - 2)]
        axes.append(Axis(n, counter, step, last))
        step = step & last
    return axes[::-1]


def both_sides(
    i: Channel, o: Channel, real: Sequence[bool] | np.ndarray, given: Sequence[bool] | np.ndarray
) -> tuple[Program, Program]:
    """Timing of a block that holds one input beat and makes one step per cycle, in a round of ``len(real)`` steps.

    A step uses the held beat up where `real`; the next one may be taken in the same cycle. It gives an output beat where
    `given`. The first step of a round waits for a beat whether it uses it or not, so nothing is made of a frame that
    has not begun.
    """
    taken, left = Queue(), Queue()
    return _take(i, taken, left), _step(o, taken, left, np.array(real, bool), np.array(given, bool))


def _take(i: Channel, taken: Queue, left: Queue) -> Program:
    p = Program()
    t = p.time()
    with p.forever():
        p.get(i, t, t)
        p.send(taken, t + 1)
        p.recv(left, t)
    return p


def _step(o: Channel, taken: Queue, left: Queue, real: np.ndarray, given: np.ndarray) -> Program:
    p = Program()
    t, there = p.time(-1), p.time()
    waits = real & (np.cumsum(real) > 1)  # for a beat that is not there since the round began
    with p.forever():
        p.recv(taken, there)
        with p.times(len(real)):
            with p.times(waits):
                p.recv(taken, there)
            p.set(t, t + 1, there)
            with p.times(given):
                p.put(o, t, t)
            with p.times(real):
                p.send(left, t)
    return p
