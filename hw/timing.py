"""When things happen: blocks as sequential processes that meet at streams, run without looking at data.

A transfer on a stream takes place in the first cycle in which both sides are prepared: the later of the two times at
which the sender first holds ``valid`` and the receiver first holds ``ready``; both hold until then. So every time is a
maximum of sums of earlier times, whatever the order in which processes are run, and the result is that of the gateware
cycle for cycle. A process is a generator that yields

- ``("get", channel, earliest)`` or ``("put", channel, earliest)``: a transfer; the answer is its cycle,
- ``("send", queue, time)``: hand a time to another process of the same block, without waiting,
- ``("recv", queue)``: wait for such a time; the answer is the time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Sequence
from itertools import count
from typing import Any

__all__ = ["Channel", "Process", "Queue", "dispatch", "outbox", "run", "sink", "source"]

Process = Generator[tuple[Any, ...], int, None]


class Channel:
    """One stream. With `record`, the cycles of all transfers are kept in `times`."""

    __slots__ = ("getter", "name", "offer", "putter", "times", "transfers", "wish")

    def __init__(self, name: str = "", *, record: bool = False) -> None:
        self.name = name
        self.putter: Process | None = None
        self.getter: Process | None = None
        self.offer = 0
        self.wish = 0
        self.transfers = 0
        self.times: list[int] | None = [] if record else None


class Queue:
    """Times on their way from one process to another."""

    __slots__ = ("items", "waiting")

    def __init__(self) -> None:
        self.items: deque[int] = deque()
        self.waiting: Process | None = None


def run(processes: Iterable[Process]) -> None:
    """Run until every process has ended or waits for what never comes."""
    ready: list[tuple[Process, int | None]] = [(p, None) for p in processes]
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
                    if not queue.items:
                        queue.waiting = process
                        break
                    answer = queue.items.popleft()
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
                        channel.putter, channel.offer = process, step[2]
                        break
                    answer = max(channel.wish, step[2])
                    ready.append((channel.getter, answer))
                    channel.getter = None
                    _count(channel, answer)
        except StopIteration:
            continue


def _send(queue: Queue, time: int, ready: list[tuple[Process, int | None]]) -> int:
    if queue.waiting is not None:
        ready.append((queue.waiting, time))
        queue.waiting = None
    else:
        queue.items.append(time)
    return time


def _count(channel: Channel, time: int) -> None:
    channel.transfers += 1
    if channel.times is not None:
        channel.times.append(time)


def source(o: Channel, beats: int, earliest: Sequence[int] = ()) -> Process:
    """Offers `beats` beats, each as early as possible, but not before its entry in `earliest`."""
    t = -1
    for k in range(beats):
        t = yield ("put", o, max(t + 1, earliest[k] if k < len(earliest) else 0))


def sink(i: Channel, earliest: Sequence[int] = ()) -> Process:
    """Takes every beat as early as possible, but not before its entry in `earliest`."""
    t = -1
    for k in count():
        t = yield ("get", i, max(t + 1, earliest[k] if k < len(earliest) else 0))


def outbox(o: Channel, results: Queue, credits: Queue) -> Process:
    """The far side of `hw.outbox.Outbox`: gives each result when it is there, and its place back a cycle later."""
    t = -1
    while True:
        t = yield ("put", o, max((yield ("recv", results)), t + 1))
        yield ("send", credits, t + 1)


def dispatch(i: Channel, results: Queue, credits: Queue, depth: int, latency: int, interval: int = 1) -> Process:
    """Takes a beat every `interval` cycles while the outbox of `depth` places has room; results after `latency`."""
    t = -interval
    for k in count():
        free = (yield ("recv", credits)) if k >= depth else 0
        t = yield ("get", i, max(t + interval, free))
        yield ("send", results, t + latency)
