"""Runs the programs of `hw.timing` compiled: the same transfers in the same cycles, a hundred times faster.

All programs become one list of instructions over one file of registers. A process that must wait is left where it
stands; who brings what it waits for writes the answer into its register and puts it among those that can go on. Times on
their way between processes are linked lists in one pool.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numba import njit

from hw.timing import Channel, Op, Program, Queue

__all__ = ["run"]

GET, PUT, SEE, SEND, RECV, SET, SUM, DIFFERENCE, VALUE, START, REPEAT, JUMP, DUE = (int(op) for op in Op)
ROOM = 1 << 12  # of what grows, at the beginning
NOBODY = -1
TIME, FOLLOWING = range(2)  # of an entry of the pool
FREE, USED = range(2)  # of the pool: entries given back, and how many there are
FIRST, LAST = range(2)  # of a queue's list

Place = TypeVar("Place", Channel, Queue)
Ints = np.ndarray

compiled = njit(cache=True, error_model="numpy")


class _Joined(NamedTuple):
    """All programs as one."""

    code: Ints  # an instruction per line; places, tables, registers and addresses are counted over all programs
    starts: Ints  # first instruction of each program
    registers: Ints
    numbers: Ints  # of all tables
    tables: Ints  # a line for each: next, where it begins again, end
    spare: Ints  # zeros that come first, by queue
    channels: int


def run(programs: Sequence[Program]) -> None:
    """Run until every program has ended or waits for what never comes; what `hw.timing.run` says of channels is set.

    Times on their way are not left in the queues, so that no run can be continued.
    """
    channels, queues = _distinct(programs, Channel), _distinct(programs, Queue)
    times, ends = _run(*_joined(programs, channels, queues))
    for k, channel in enumerate(channels):
        mine = times[ends[k] : ends[k + 1]]
        channel.transfers += len(mine)
        if channel.times is not None:
            channel.times = mine


def _distinct(programs: Sequence[Program], kind: type[Place]) -> list[Place]:
    return list({id(p): p for program in programs for p in program.places if isinstance(p, kind)}.values())


def _joined(programs: Sequence[Program], channels: Sequence[Channel], queues: Sequence[Queue]) -> _Joined:
    numbers = {id(place): k for places in (channels, queues) for k, place in enumerate(places)}
    tables = [t for p in programs for t in p.tables]
    sizes = np.array([0, *(len(t.numbers) for t in tables)])
    begins = np.cumsum(sizes)
    limits = [(b, b + t.again, b + len(t.numbers)) for b, t in zip(begins.tolist(), tables, strict=False)]
    lines = [line for part in _moved(programs, numbers) for line in part]
    return _Joined(
        np.array(lines, np.int64),
        np.cumsum([0, *(len(p.code) + 1 for p in programs)])[:-1],
        np.array([r for p in programs for r in p.registers], np.int64),
        np.concatenate([t.numbers for t in tables] or [np.zeros(0, np.int64)]),
        np.array(limits, np.int64).reshape(-1, 3),
        np.array([q.spare for q in queues], np.int64),
        len(channels),
    )


def _moved(programs: Sequence[Program], numbers: dict[int, int]) -> Iterator[list[tuple[int, ...]]]:
    """The instructions of each program, counted on from those before; a last one that waits for ever."""
    line = register = table = 0
    for p in programs:
        places = [numbers[id(place)] for place in p.places]
        part = []
        for op, where, to, into, a, ahead, b, later in p.code:
            there = places[where] if op <= RECV or op == DUE else where + table
            there = 0 if op in (SET, SUM, DIFFERENCE, REPEAT, JUMP) else there
            part.append((int(op), there, to + line, into + register, a + register, ahead, b + register, later))
        yield [*part, (len(Op), 0, 0, 0, 0, 0, 0, 0)]
        line, register, table = line + len(p.code) + 1, register + len(p.registers), table + len(p.tables)


@compiled
def _run(  # noqa: C901, PLR0912, PLR0915  # calls with all that they need are twenty times slower than this loop
    code: Ints, counters: Ints, r: Ints, numbers: Ints, tables: Ints, spare: Ints, channels: int
) -> tuple[Ints, Ints]:
    """Cycles of the transfers of each channel after the other, and where each channel's begin."""
    getter, putter = np.full(channels, NOBODY), np.full(channels, NOBODY)  # processes that wait, and since when
    seer = np.full(channels, NOBODY)
    wish, offer = np.zeros(channels, np.int64), np.zeros(channels, np.int64)
    receiver = np.full(len(spare), NOBODY)  # process that waits for a time
    lists, pool, entries = np.full((len(spare), 2), NOBODY), np.zeros((ROOM, 2), np.int64), np.array([NOBODY, 0])
    where, when, transfers = np.zeros(ROOM, np.int32), np.zeros(ROOM, np.int64), 0
    ready = np.arange(len(counters))
    count = len(ready)
    while count:
        count -= 1
        me = ready[count]
        pc = counters[me]
        while True:
            op, place, to, into = code[pc, 0], code[pc, 1], code[pc, 2], code[pc, 3]
            a, b = r[code[pc, 4]] + code[pc, 5], r[code[pc, 6]] + code[pc, 7]
            time = max(a, b)
            pc += 1
            if op in (GET, PUT):
                other = putter[place] if op == GET else getter[place]
                if other == NOBODY:
                    counters[me] = pc
                    if op == GET:
                        getter[place], wish[place] = me, time
                    else:
                        putter[place], offer[place] = me, time
                        other = seer[place]
                        if other != NOBODY:
                            r[code[counters[other] - 1, 3]] = max(time, wish[place])
                            seer[place] = NOBODY
                            ready[count] = other
                            count += 1
                    break
                if op == GET:
                    time, putter[place] = max(time, offer[place]), NOBODY
                else:
                    time, getter[place] = max(time, wish[place]), NOBODY
                r[into] = r[code[counters[other] - 1, 3]] = time
                ready[count] = other
                count += 1
                if transfers == len(when):
                    where, when = _roomier(where), _roomier(when)
                where[transfers], when[transfers] = place, time
                transfers += 1
            elif op == SEE:
                if putter[place] == NOBODY:
                    counters[me] = pc
                    seer[place], wish[place] = me, time
                    break
                r[into] = max(time, offer[place])
            elif op == SEND:
                other = receiver[place]
                if other != NOBODY:
                    r[code[counters[other] - 1, 3]] = time
                    receiver[place] = NOBODY
                    ready[count] = other
                    count += 1
                else:
                    if entries[USED] == len(pool):
                        pool = _longer(pool)
                    _append(lists, pool, entries, place, time)
            elif op in (RECV, DUE):
                first = lists[place, FIRST]
                if not spare[place] and first == NOBODY:
                    if op == RECV:
                        counters[me] = pc
                        receiver[place] = me
                        break
                    pc = to
                    continue
                there = 0 if spare[place] else pool[first, TIME]
                if op == DUE and there > time:
                    pc = to
                    continue
                r[into] = there
                if spare[place]:
                    spare[place] -= 1
                else:
                    _remove(lists, pool, entries, place)
            elif op == SET:
                r[into] = time
            elif op == SUM:
                r[into] = a + b
            elif op == DIFFERENCE:
                r[into] = a - b
            elif op in (VALUE, START):
                r[into] = _next(numbers, tables, place)
                if op == START and r[into] <= 0:
                    pc = to
            elif op == REPEAT:
                r[into] -= 1
                if r[into] > 0:
                    pc = to
            elif op == JUMP:
                pc = to
            else:
                break
    return _sorted(where[:transfers], when[:transfers], channels)


@compiled
def _next(numbers: Ints, tables: Ints, table: int) -> int:
    """The next number of a table."""
    found = numbers[tables[table, 0]]
    tables[table, 0] += 1
    if tables[table, 0] == tables[table, 2]:
        tables[table, 0] = tables[table, 1]
    return int(found)


@compiled
def _append(lists: Ints, pool: Ints, entries: Ints, place: int, time: int) -> None:
    """Put a time at the end of a list; the pool has room."""
    entry = entries[FREE]
    if entry == NOBODY:
        entry = entries[USED]
        entries[USED] += 1
    else:
        entries[FREE] = pool[entry, FOLLOWING]
    pool[entry, TIME], pool[entry, FOLLOWING] = time, NOBODY
    if lists[place, FIRST] == NOBODY:
        lists[place, FIRST] = entry
    else:
        pool[lists[place, LAST], FOLLOWING] = entry
    lists[place, LAST] = entry


@compiled
def _remove(lists: Ints, pool: Ints, entries: Ints, place: int) -> None:
    """Take the first of a list away."""
    entry = lists[place, FIRST]
    lists[place, FIRST] = pool[entry, FOLLOWING]
    pool[entry, FOLLOWING] = entries[FREE]
    entries[FREE] = entry


@compiled
def _roomier(x: Ints) -> Ints:
    """The same with twice the room."""
    more = np.zeros(2 * len(x), x.dtype)
    more[: len(x)] = x
    return more


@compiled
def _longer(pool: Ints) -> Ints:
    more = np.zeros((2 * len(pool), 2), np.int64)
    more[: len(pool)] = pool
    return more


@compiled
def _sorted(where: Ints, when: Ints, channels: int) -> tuple[Ints, Ints]:
    """Cycles by channel, each channel's in order, and where they begin."""
    ends = np.zeros(channels + 1, np.int64)
    for place in where:
        ends[place + 1] += 1
    ends = np.cumsum(ends)
    at, times = ends[:-1].copy(), np.zeros(len(when), np.int64)
    for k in range(len(when)):
        times[at[where[k]]] = when[k]
        at[where[k]] += 1
    return times, ends
