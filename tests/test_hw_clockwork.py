"""Programs of timing run compiled: every transfer in the cycle in which the plain run has it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from hw import clockwork, timing
from hw.elastic import elastic
from hw.timing import NEVER, Channel, Program, Queue, dispatch, outbox, sink, source
from tcompile.mapping import cycles
from tcompile.mapping.network import map_network
from tcompile.mapping.plan import Choice
from tests.networks import RandomNetwork


def both(make) -> tuple[list[list[int]], list[list[int]]]:
    """Cycles of all channels, plain and compiled; `make` gives channels and processes."""
    found = []
    for run in (timing.run, clockwork.run):
        channels, programs = make()
        run(programs)
        assert [len(c.times) for c in channels] == [c.transfers for c in channels]
        found.append([[int(t) for t in c.times] for c in channels])
    return found[0], found[1]


def pipeline(depth: int, interval: int, sources: list[int], sinks: list[int]):
    i, o, results, credits = Channel("i", record=True), Channel("o", record=True), Queue(), Queue()
    steps = [dispatch(i, results, credits, depth, 5, interval), outbox(o, results, credits)]
    return [i, o], [source(i, 40, sources), *steps, sink(o, sinks)]


def pauses(seed: int) -> Iterator[list[int]]:
    random = np.random.default_rng(seed)
    while True:
        yield np.cumsum(random.integers(0, 4, 30) * (random.random(30) < 0.5)).tolist()


@pytest.mark.parametrize("seed", range(8))
def test_a_pipeline_has_the_same_transfers(seed):
    gaps = pauses(seed)
    sources, sinks = next(gaps), next(gaps)
    plain, compiled = both(lambda: pipeline(1 + seed % 4, 1 + seed % 3, sources, sinks))
    assert plain == compiled and len(plain[1]) == 40


@pytest.mark.parametrize("seed", range(8))
def test_a_pipeline_that_stops_has_the_same_transfers(seed):
    """Its process asks what is due in a queue of its own, adds and subtracts times, and sees beats before it takes them."""
    gaps = pauses(seed)
    sources, sinks = next(gaps), next(gaps)
    interval = 1 + seed % 3

    def make():
        i, o = Channel(record=True), Channel(record=True)
        return [i, o], [
            source(i, 30, sources),
            *elastic(i, o, interval, 2 + seed, 1 + seed // 3 % interval),
            sink(o, sinks),
        ]

    plain, compiled = both(make)
    assert plain == compiled and len(plain[1]) == 30


@pytest.mark.parametrize("seed", range(12))
def test_networks_have_the_same_transfers(seed, monkeypatch):
    network = RandomNetwork(seed).graph()
    design = map_network(network, Choice(1 + seed % 4, 1 + seed % 5, permute=False)).design
    found = cycles.transfers(design, 2)
    monkeypatch.setattr(clockwork, "run", timing.run)
    plain = cycles.transfers(design, 2)
    for mine, theirs in ((found.streams, plain.streams), (found.ports, plain.ports)):
        assert {n: t.tolist() for n, t in mine.items()} == {n: t.tolist() for n, t in theirs.items()}
        assert sum(map(len, mine.values())) > 0


def test_transfers_beyond_the_room_at_the_beginning_are_kept():
    count = 3 * clockwork.ROOM

    def make():
        channel, late = Channel(record=True), Queue()
        p = Program()
        t = p.time(-1)
        with p.times(count):
            p.get(channel, t, t + 1)
            p.send(late, t)
        return [channel], [source(channel, count), p]

    plain, compiled = both(make)
    assert plain == compiled == [list(range(count))]


def test_numbers_of_a_table_come_over_and_over_after_the_first():
    def make():
        channel = Channel(record=True)
        p = Program()
        t, more = p.time(), p.time()
        with p.times(7):
            p.value(more, [1, 10], first=[100])
            p.sum(t, t, more)
            p.put(channel, t, t)
        return [channel], [p, sink(channel)]

    times = np.cumsum([100, 1, 10, 1, 10, 1, 10]).tolist()
    assert both(make) == ([times], [times])


def test_the_latest_of_many_times_counts():
    def make():
        channel = Channel(record=True)
        p = Program()
        times = [p.time(k) for k in (3, 9, 4, 7, 1)]
        with p.times(1):
            p.put(channel, times[0], *times)
            p.put(channel, times[0], times[1] + 8, times[2], times[3] - 2, times[4])
            p.put(channel, times[0])
        return [channel], [p, sink(channel)]

    assert both(make) == ([[9, 17, 18]], [[9, 17, 18]])


def test_zeros_of_a_queue_come_before_what_is_sent():
    def make():
        channel, queue = Channel(record=True), Queue(spare=2)
        p = Program()
        t = p.time(5)
        p.send(queue, t)
        with p.times(3):
            p.recv(queue, t)
            p.put(channel, t, t)
        return [channel], [p, sink(channel)]

    assert both(make) == ([[0, 1, 5]], [[0, 1, 5]])


def test_processes_that_wait_for_ever_end_the_run():
    def make():
        channel, queue = Channel(record=True), Queue()
        p = Program()
        t = p.time(NEVER)
        p.get(channel, t)
        p.recv(queue, t)
        p.get(channel, t)
        return [channel], [source(channel, 5), p]

    assert both(make) == ([[0]], [[0]])


def test_times_are_kept_only_where_asked():
    channel = Channel()
    clockwork.run([source(channel, 2), sink(channel)])
    assert (channel.times, channel.transfers) == (None, 2)


def test_wrong_instruction_is_seen():
    """A credit that comes a cycle too late in one run only."""

    def make():
        channels, programs = pipeline(2, 1, [], [])
        if make.calls:
            code = programs[2].code
            code[2] = code[2]._replace(later=2)
        make.calls += 1
        return channels, programs

    make.calls = 0
    plain, compiled = both(make)
    assert plain != compiled
