"""When things happen: blocks as sequential processes that meet at streams, run without looking at data.

A transfer on a stream takes place in the first cycle in which both sides are prepared: the later of the two times at
which the sender first holds ``valid`` and the receiver first holds ``ready``; both hold until then. So every time is a
maximum of sums of earlier times, whatever the order in which processes are run, and the result is that of the gateware
cycle for cycle. A process is a `Program`, or a generator that yields

- ``("get", channel, earliest)`` or ``("put", channel, earliest)``: a transfer; the answer is its cycle,
- ``("see", channel, earliest)``: the cycle from which a beat can be read, though it is not taken yet,
- ``("send", queue, time)``: hand a time to another process of the same block, without waiting,
- ``("recv", queue)``: wait for such a time; the answer is the time.

A program says the same as a list of instructions, which `hw.clockwork` runs a hundred times faster.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple, TypeAlias

import numpy as np

__all__ = [
    "NEVER",
    "Channel",
    "Instruction",
    "Op",
    "Process",
    "Program",
    "Queue",
    "Table",
    "Time",
    "dispatch",
    "outbox",
    "run",
    "sink",
    "source",
]

NEVER = -(1 << 60)  # before all times


class Channel:
    """One stream. With `record`, the cycles of all transfers are kept in `times`."""

    __slots__ = ("getter", "name", "offer", "putter", "seer", "times", "transfers", "wish")

    def __init__(self, name: str = "", *, record: bool = False) -> None:
        self.name = name
        self.putter: Steps | None = None
        self.getter: Steps | None = None
        self.seer: Steps | None = None
        self.offer = 0
        self.wish = 0
        self.transfers = 0
        self.times: Any = [] if record else None  # list of int, or an array after a run of programs only


class Queue:
    """Times on their way from one process to another; `spare` zeros come first."""

    __slots__ = ("items", "spare", "waiting")

    def __init__(self, spare: int = 0) -> None:
        self.items: deque[int] = deque()
        self.spare = spare
        self.waiting: Steps | None = None

    def holds(self) -> bool:
        """Whether a time is there."""
        return bool(self.spare or self.items)

    def pop(self) -> int:
        """The first time."""
        if self.spare:
            self.spare -= 1
            return 0
        return self.items.popleft()

    def first(self) -> int:
        """What `pop` would give."""
        return 0 if self.spare else self.items[0]


class Op(IntEnum):
    """What an instruction does; ``max`` is the later of its two times."""

    GET = 0  # into = cycle of a transfer on the channel `where`, not before max
    PUT = 1
    SEE = 2  # into = cycle in which a beat stands on the channel `where`, not before max; it stays there
    SEND = 3  # max to the queue `where`
    RECV = 4  # into = the next time of the queue `where`
    SET = 5  # into = max
    SUM = 6  # into = a + b
    DIFFERENCE = 7  # into = a - b
    VALUE = 8  # into = the next of the table `where`
    START = 9  # as VALUE; from 0 on downwards, go on at `to`
    REPEAT = 10  # into less one; unless that is 0, go on at `to`
    JUMP = 11  # go on at `to`
    DUE = 12  # into = the next time of the queue `where` if there is one and it is at most max; else go on at `to`


class Instruction(NamedTuple):
    """One step of a program: register `into`, times ``register a + ahead`` and ``register b + later``."""

    op: Op
    where: int = 0
    to: int = 0
    into: int = 0
    a: int = 0
    ahead: int = 0
    b: int = 0
    later: int = 0


@dataclass(frozen=True)
class Time:
    """A time that a program keeps, or some cycles after it."""

    register: int
    ahead: int = 0

    def __add__(self, cycles: int) -> Time:
        return Time(self.register, self.ahead + cycles)

    def __sub__(self, cycles: int) -> Time:
        return Time(self.register, self.ahead - cycles)


class Table(NamedTuple):
    """Numbers, over and over from the place `again` on."""

    numbers: np.ndarray
    again: int


class Program:
    """A process as instructions, written down by its methods in the order in which they happen.

    Times are kept in registers: `time` makes one, ``t + 3`` is three cycles after. Where several times are given, the
    latest of them counts; without any it is 0.
    """

    def __init__(self) -> None:
        self.code: list[Instruction] = []
        self.registers = [NEVER, 0]
        self.places: list[Channel | Queue] = []
        self.tables: list[Table] = []

    # --- writing -----------------------------------------------------------------------------------------------------

    def time(self, start: int = 0) -> Time:
        """A new register."""
        self.registers.append(start)
        return Time(len(self.registers) - 1)

    def get(self, channel: Channel, into: Time, *earliest: Time) -> None:
        """Take a beat as early as possible, but not before the times; `into` is its cycle."""
        self._add(Op.GET, earliest, where=self._place(channel), into=into.register)

    def put(self, channel: Channel, into: Time, *earliest: Time) -> None:
        """Give a beat."""
        self._add(Op.PUT, earliest, where=self._place(channel), into=into.register)

    def see(self, channel: Channel, into: Time, *earliest: Time) -> None:
        """Read a beat as early as possible, but not before the times, and leave it to be taken later."""
        self._add(Op.SEE, earliest, where=self._place(channel), into=into.register)

    def send(self, queue: Queue, *value: Time) -> None:
        """Hand a time to another process of the block."""
        self._add(Op.SEND, value, where=self._place(queue))

    def recv(self, queue: Queue, into: Time) -> None:
        """Wait for such a time."""
        self._add(Op.RECV, (), where=self._place(queue), into=into.register)

    def set(self, into: Time, *value: Time) -> None:
        """Keep the latest of some times."""
        self._add(Op.SET, value, into=into.register)

    def sum(self, into: Time, one: Time, other: Time) -> None:
        """Keep a sum of two."""
        self._add(Op.SUM, (one, other), into=into.register)

    def difference(self, into: Time, one: Time, other: Time) -> None:
        """Keep a difference of two."""
        self._add(Op.DIFFERENCE, (one, other), into=into.register)

    def value(self, into: Time, numbers: Sequence[int], first: Sequence[int] = ()) -> None:
        """The next of some numbers, which come over and over after those that come first."""
        self._add(Op.VALUE, (), where=self._table(numbers, first), into=into.register)

    @contextmanager
    def forever(self) -> Iterator[None]:
        """Repeat what is inside without end."""
        start = len(self.code)
        yield
        self._add(Op.JUMP, (), to=start)

    @contextmanager
    def times(self, counts: int | Sequence[int] | np.ndarray, first: Sequence[int] = ()) -> Iterator[None]:
        """Repeat what is inside so often; of several counts, the next one each time, as in `value`."""
        left = self.time().register
        table = self._table(counts if isinstance(counts, (Sequence, np.ndarray)) else [counts], first)
        start = len(self.code)
        self._add(Op.START, (), where=table, into=left)
        yield
        self._add(Op.REPEAT, (), to=start + 1, into=left)
        self.code[start] = self.code[start]._replace(to=len(self.code))

    @contextmanager
    def due(self, queue: Queue, into: Time, bound: Time) -> Iterator[None]:
        """Repeat what is inside for all times of a queue of one's own up to a bound; `into` is the time."""
        start = len(self.code)
        self._add(Op.DUE, (bound,), where=self._place(queue), into=into.register)
        yield
        self._add(Op.JUMP, (), to=start)
        self.code[start] = self.code[start]._replace(to=len(self.code))

    def _add(self, op: Op, terms: Sequence[Time], *, where: int = 0, to: int = 0, into: int = 0) -> None:
        """An instruction; of more than two times, the later ones are gathered before."""
        *early, one, other = (Time(0), Time(0), *terms) if terms else (Time(0), Time(1))
        gathered = [t for t in early if t.register]
        if gathered:
            kept = self.time()
            self.set(kept, *gathered, one)
            one = kept
        self.code.append(Instruction(op, where, to, into, one.register, one.ahead, other.register, other.ahead))

    def _place(self, place: Channel | Queue) -> int:
        for k, known in enumerate(self.places):
            if known is place:
                return k
        self.places.append(place)
        return len(self.places) - 1

    def _table(self, numbers: Sequence[int] | np.ndarray, first: Sequence[int]) -> int:
        self.tables.append(Table(np.concatenate([np.array(first, np.int64), np.array(numbers, np.int64)]), len(first)))
        return len(self.tables) - 1

    # --- running -----------------------------------------------------------------------------------------------------

    def steps(self) -> Steps:
        """The program as a generator."""
        r, at, pc = list(self.registers), [0] * len(self.tables), 0
        kinds = {op: op.name.lower() for op in (Op.GET, Op.PUT, Op.SEE, Op.SEND, Op.RECV)}
        while pc < len(self.code):
            op, where, _, into, a, ahead, b, later = s = self.code[pc]
            one, other = r[a] + ahead, r[b] + later
            pc += 1
            if op in kinds:
                answer = yield kinds[op], self.places[where], max(one, other)
                if op is not Op.SEND:
                    r[into] = answer
            elif op <= Op.DIFFERENCE:
                r[into] = max(one, other) if op is Op.SET else one + other if op is Op.SUM else one - other
            else:
                pc = self._control(s, r, at, max(one, other), pc)

    def _control(self, s: Instruction, r: list[int], at: list[int], bound: int, pc: int) -> int:
        """Where to go on."""
        if s.op in (Op.VALUE, Op.START):
            table = self.tables[s.where]
            r[s.into] = int(table.numbers[at[s.where]])
            at[s.where] += 1
            if at[s.where] == len(table.numbers):
                at[s.where] = table.again
            return s.to if s.op == Op.START and r[s.into] <= 0 else pc
        if s.op == Op.REPEAT:
            r[s.into] -= 1
            return s.to if r[s.into] > 0 else pc
        if s.op == Op.DUE:
            queue = self.places[s.where]
            assert isinstance(queue, Queue)
            if queue.holds() and queue.first() <= bound:
                r[s.into] = queue.pop()
                return pc
        return s.to


Steps: TypeAlias = Generator[tuple[Any, ...], int, None]
Process: TypeAlias = Program | Steps


def run(processes: Iterable[Process]) -> None:
    """Run until every process has ended or waits for what never comes."""
    steps = [p.steps() if isinstance(p, Program) else p for p in processes]
    ready: list[tuple[Steps, int | None]] = [(p, None) for p in steps]
    while ready:
        process, answer = ready.pop()
        try:
            while True:
                step = process.send(answer)  # type: ignore[arg-type]
                kind = step[0]
                if kind == "send":
                    answer = _send(step[1], step[2], ready)
                elif kind == "recv":
                    queue = step[1]
                    if not queue.holds():
                        queue.waiting = process
                        break
                    answer = queue.pop()
                elif kind == "see":
                    answer = _see(step[1], step[2], process)
                    if answer is None:
                        break
                elif kind == "get":
                    channel = step[1]
                    if channel.putter is None:
                        channel.getter, channel.wish = process, step[2]
                        break
                    answer = max(channel.offer, step[2])
                    ready.append((channel.putter, answer))
                    channel.putter = None
                    _count(channel, answer)
                else:
                    channel = step[1]
                    if channel.getter is None:
                        _offer(channel, step[2], process, ready)
                        break
                    answer = max(channel.wish, step[2])
                    ready.append((channel.getter, answer))
                    channel.getter = None
                    _count(channel, answer)
        except StopIteration:
            continue


def _send(queue: Queue, time: int, ready: list[tuple[Steps, int | None]]) -> int:
    if queue.waiting is not None:
        ready.append((queue.waiting, time))
        queue.waiting = None
    else:
        queue.items.append(time)
    return time


def _see(channel: Channel, time: int, process: Steps) -> int | None:
    if channel.putter is None:
        channel.seer, channel.wish = process, time
        return None
    return max(channel.offer, time)


def _offer(channel: Channel, time: int, process: Steps, ready: list[tuple[Steps, int | None]]) -> None:
    channel.putter, channel.offer = process, time
    if channel.seer is not None:
        ready.append((channel.seer, max(channel.wish, time)))
        channel.seer = None


def _count(channel: Channel, time: int) -> None:
    channel.transfers += 1
    if channel.times is not None:
        channel.times.append(time)


def source(o: Channel, beats: int, earliest: Sequence[int] = ()) -> Program:
    """Offers `beats` beats, each as early as possible, but not before its entry in `earliest`."""
    p = Program()
    t, least = p.time(-1), p.time()
    with p.times(beats):
        if len(earliest):
            p.value(least, [0], earliest)
        p.put(o, t, t + 1, least)
    return p


def sink(i: Channel, earliest: Sequence[int] = ()) -> Program:
    """Takes every beat as early as possible, but not before its entry in `earliest`."""
    p = Program()
    t, least = p.time(-1), p.time()
    with p.forever():
        if len(earliest):
            p.value(least, [0], earliest)
        p.get(i, t, t + 1, least)
    return p


def outbox(o: Channel, results: Queue, credits: Queue) -> Program:
    """The far side of `hw.outbox.Outbox`: gives each result when it is there, and its place back a cycle later."""
    p = Program()
    t, there = p.time(-1), p.time()
    with p.forever():
        p.recv(results, there)
        p.put(o, t, there, t + 1)
        p.send(credits, t + 1)
    return p


def dispatch(
    i: Channel, results: Queue, credits: Queue, depth: int, latency: int, interval: int = 1, first: int = 0
) -> Program:
    """Takes a beat every `interval` cycles while the outbox of `depth` places has room; results after `latency`."""
    credits.spare = depth
    p = Program()
    t, free = p.time(first - interval), p.time()
    with p.forever():
        p.recv(credits, free)
        p.get(i, t, t + interval, free)
        p.send(results, t + latency)
    return p
