"""The AXI4-Stream ports: bytes, TLAST, errors and how they are mended, cycles, and the rules of the protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from amaranth.back import rtlil
from amaranth.hdl import ClockDomain, Module
from amaranth.sim import Simulator

from hw import timing
from hw.axi_stream import AxisIn, AxisOut, resynchronised, tdata_width
from hw.block import Bus, pack
from tests.conftest import ROOT

BUS = Bus(3, 3, signed=True)  # 9 bits in 2 bytes
LONG = 10_000


@dataclass
class Run:
    """Words and cycles of the transfers at both sides, and the cycles in which each event was high."""

    given: list[tuple[int, bool]] = field(default_factory=list)
    taken_at: list[int] = field(default_factory=list)
    given_at: list[int] = field(default_factory=list)
    events: dict[str, list[int]] = field(default_factory=dict)
    valid_out: list[bool] = field(default_factory=list)

    @property
    def words(self) -> list[int]:
        return [word for word, _ in self.given]


def ports(block: AxisIn | AxisOut, dut) -> tuple[list, list]:
    """(payload, valid, ready, last) of the side that takes and of the side that gives; no last inside."""
    if isinstance(block, AxisIn):
        axi = [dut.s_tdata, dut.s_tvalid, dut.s_tready, dut.s_tlast]
        return axi, [dut.o.payload, dut.o.valid, dut.o.ready, None]
    return [dut.i.payload, dut.i.valid, dut.i.ready, None], [dut.m_tdata, dut.m_tvalid, dut.m_tready, dut.m_tlast]


def simulate(
    block: AxisIn | AxisOut,
    transfers: Sequence[tuple[int, bool]],
    source: Sequence[int] = (),
    sink: Sequence[int] = (),
    cycles: int = 200,
) -> Run:
    """Send (word, last) pairs; wait `source[k]` cycles before pair k, `sink[k]` before result k is accepted.

    In every cycle: outputs do not depend on inputs of that cycle, and what is offered stays until it is accepted.
    """
    dut = block.component()
    (data, valid, ready, last), (out, out_valid, out_ready, out_last) = ports(block, dut)
    run = Run(events={name: [] for name in block.events})

    async def drive(ctx):  # type: ignore[no-untyped-def]
        def outputs():
            return [ctx.get(s) for s in (ready, out, out_valid, *([] if out_last is None else [out_last]))]

        def put(word, is_valid, is_last, is_ready):
            ctx.set(data, word), ctx.set(valid, is_valid), ctx.set(out_ready, is_ready)
            if last is not None:
                ctx.set(last, is_last)

        offer, accept, held = gap(source, 0), gap(sink, 0), None
        for cycle in range(cycles):
            n = len(run.taken_at)
            offered = n < len(transfers) and cycle >= offer
            word, is_last = transfers[n] if offered else (0, False)
            put(~word & (1 << len(data)) - 1, not offered, not is_last, cycle < accept)
            before = outputs()
            put(word, offered, is_last, cycle >= accept)
            assert outputs() == before
            assert held is None or outputs()[1:] == held
            run.valid_out.append(bool(ctx.get(out_valid)))
            if offered and ctx.get(ready):
                run.taken_at.append(cycle)
                offer = cycle + 1 + gap(source, n + 1)
            held = outputs()[1:] if ctx.get(out_valid) else None
            if ctx.get(out_valid) and ctx.get(out_ready):
                run.given.append((ctx.get(out), bool(ctx.get(out_last)) if out_last is not None else False))
                run.given_at.append(cycle)
                accept, held = cycle + 1 + gap(sink, len(run.given)), None
            for name, times in run.events.items():
                if ctx.get(getattr(dut, name)):
                    times.append(cycle)
            await ctx.tick()

    drive_by(drive, wrapped(dut))
    return run


def drive_by(bench, m: Module) -> None:
    """Simulate until the bench ends."""
    simulator = Simulator(m)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


def wrapped(dut) -> Module:
    m = Module()
    m.submodules.dut = dut
    return m


def gap(gaps: Sequence[int], k: int) -> int:
    return gaps[k] if k < len(gaps) else 0


def gaps(seed: int | None, count: int = 60) -> tuple[list[int], list[int]]:
    if seed is None:
        return [], []
    generator = np.random.default_rng(seed)
    shares = [(0.5, 0.5), (0.1, 0.9), (0.9, 0.1)][seed % 3]
    waits = [generator.integers(1, 5, count) * (generator.random(count) < share) for share in shares]
    return waits[0].tolist(), waits[1].tolist()


def frames(count: int, beats: int, bus: Bus = BUS) -> list[tuple[int, bool]]:
    """Words as whole bytes, filling bits at random, with right TLASTs."""
    words = np.random.default_rng(count).integers(0, 1 << tdata_width(bus), count * beats).tolist()
    return [(word, k % beats == beats - 1) for k, word in enumerate(words)]


def payloads(transfers: Sequence[tuple[int, bool]], bus: Bus = BUS) -> list[int]:
    return [word & (1 << bus.bits) - 1 for word, _ in transfers]


def predicted(block: AxisIn | AxisOut, beats: int, source: Sequence[int], sink: Sequence[int]):
    i, o = timing.Channel(record=True), timing.Channel(record=True)

    def sender():
        t = -1
        for k in range(beats):
            t = yield ("put", i, t + 1 + gap(source, k))

    def receiver():
        t = -1
        for k in range(LONG):
            t = yield ("get", o, t + 1 + gap(sink, k))

    timing.run([*block.processes([i], [o]), sender(), receiver()])
    return i.times, o.times


@pytest.mark.parametrize("beats", [1, 2, 5])
@pytest.mark.parametrize("seed", [None, 0, 1, 2])
def test_input_gives_the_payloads_in_the_cycles_of_its_timing(beats, seed):
    block, sent = AxisIn(BUS, beats), frames(20 // beats, beats)
    run = simulate(block, sent, *gaps(seed))
    assert run.words == payloads(sent)
    assert (run.taken_at, run.given_at) == predicted(block, len(sent), *gaps(seed))
    assert run.events["error_early"] == run.events["error_late"] == []
    assert run.events["frame_in"] == [t + 1 for t in run.given_at[beats - 1 :: beats]]


@pytest.mark.parametrize("beats", [1, 2, 5])
@pytest.mark.parametrize("seed", [None, 0, 1, 2])
def test_output_gives_whole_bytes_and_the_last_beat_in_the_cycles_of_its_timing(beats, seed):
    block = AxisOut(BUS, beats)
    sent = [(word & (1 << BUS.bits) - 1, last) for word, last in frames(20 // beats, beats)]
    run = simulate(block, sent, *gaps(seed))
    assert run.given == sent
    assert (run.taken_at, run.given_at) == predicted(block, len(sent), *gaps(seed))
    assert run.events["frame_out"] == [t + 1 for t in run.given_at[beats - 1 :: beats]]


@pytest.mark.parametrize("kind", [AxisIn, AxisOut])
def test_a_beat_passes_in_every_cycle(kind):
    run = simulate(kind(BUS, 4), frames(5, 4) if kind is AxisIn else [(w, False) for w in payloads(frames(5, 4))])
    first = run.taken_at[0]
    assert run.taken_at == list(range(first, first + 20))
    assert run.given_at == [t + kind(BUS, 4).latency for t in run.taken_at]


@pytest.mark.parametrize("kind", [AxisIn, AxisOut])
def test_valid_does_not_wait_for_ready(kind):
    run = simulate(kind(BUS, 4), [(1, False)], sink=[LONG], cycles=20)
    assert run.given == []
    assert run.valid_out == [cycle > run.taken_at[0] for cycle in range(20)]


def transfers_of(lengths: Sequence[int]) -> list[tuple[int, bool]]:
    """Packets of these lengths, TLAST at the end of each; words count up from 1."""
    lasts = [k == n - 1 for n in lengths for k in range(n)]
    return [(k % 500 + 1, last) for k, last in enumerate(lasts)]


def test_a_short_frame_is_filled_up_with_zeros():
    run = simulate(AxisIn(BUS, 4), transfers_of([4, 2, 4]))
    assert run.words == [1, 2, 3, 4, 5, 6, 0, 0, 7, 8, 9, 10]
    assert run.events["error_early"] == [run.given_at[5] + 1]
    assert run.given_at == list(range(run.given_at[0], run.given_at[0] + 12))
    assert run.events["error_late"] == []


def test_the_rest_of_a_long_frame_is_dropped():
    run = simulate(AxisIn(BUS, 4), transfers_of([4, 7, 4]))
    assert run.words == [1, 2, 3, 4, 5, 6, 7, 8, 12, 13, 14, 15]
    assert run.events["error_late"] == [run.given_at[7] + 1]
    assert run.events["error_early"] == []


@pytest.mark.parametrize("beats", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", range(3))
def test_frames_of_any_length_are_mended_as_in_the_model(beats, seed):
    sent = transfers_of(np.random.default_rng([seed, beats]).integers(1, 3 * beats + 1, 8).tolist())
    run = simulate(AxisIn(BUS, beats), sent, *gaps(seed), cycles=500)
    words, early, late = resynchronised([w for w, _ in sent], [last for _, last in sent], beats)
    assert run.words == words
    assert [len(run.events[e]) for e in ("error_early", "error_late")] == [early, late]
    assert len(run.events["frame_in"]) == len(words) // beats


def test_right_frames_are_left_as_they_are():
    assert resynchronised([1, 2, 3, 4], [False, True, False, True], 2) == ([1, 2, 3, 4], 0, 0)


def test_a_frame_is_begun_from_its_first_to_its_last_beat():
    run = simulate(AxisIn(BUS, 3), frames(2, 3), source=[0, 4, 0, 2])
    first, _, _, again, _, _ = run.taken_at
    _, _, last, _, _, end = run.given_at
    assert run.events["begun"] == [*range(first + 1, last + 1), *range(again + 1, end + 1)]


def test_ready_depends_on_no_tlast():
    """Two beats of the next frame are taken while one that is too short is filled up."""
    run = simulate(AxisIn(BUS, 9), transfers_of([2, 9]))
    assert run.taken_at[2:5] == [run.taken_at[1] + 1, run.taken_at[1] + 2, run.given_at[9] + 1]


@pytest.mark.parametrize("kind", [AxisIn, AxisOut])
def test_stalled_cycles_are_those_with_valid_without_ready(kind):
    waits = gaps(1)
    run = simulate(kind(BUS, 2), frames(10, 2) if kind is AxisIn else [(k, False) for k in range(20)], *waits)
    if kind is AxisIn:
        starts = [t + 1 + gap(waits[0], k) for k, t in enumerate([-1, *run.taken_at[:-1]])]
        waited = [c + 1 for s, t in zip(starts, run.taken_at, strict=True) for c in range(s, t)]
    else:
        waited = [c + 1 for c, v in enumerate(run.valid_out[:-1]) if v and c not in run.given_at]
    assert run.events["stalled"] == waited
    assert len(waited) > 5


def test_ready_is_low_during_reset_and_the_cycle_after():
    domain, dut, seen = ClockDomain("sync"), AxisIn(BUS, 2).component(), []
    m = wrapped(dut)
    m.domains.sync = domain

    async def drive(ctx):  # type: ignore[no-untyped-def]
        for reset in (1, 1, 0, 0, 0, 1, 1, 0, 0):
            ctx.set(domain.rst, reset)
            seen.append(ctx.get(dut.s_tready))
            await ctx.tick()

    drive_by(drive, m)
    assert seen == [0, 0, 0, 1, 1, 1, 0, 0, 1]


def rows_of(page: str, before: str) -> dict[str, list[str]]:
    """The diagram on a page behind some words: what stands in each row."""
    lines = page.partition(before)[2].split("```")[1].strip().splitlines()[1:]
    return {name: values for name, *values in map(str.split, lines)}


def shown(block: AxisIn | AxisOut, rows: dict[str, list[str]]) -> dict[str, list[str]]:
    """The rows as they are: what a diagram says of inputs is put in, all else is read."""
    dut, seen = block.component(), {name: [] for name in rows}
    signals = {
        name: getattr(dut, name) if "." not in name else getattr(getattr(dut, name[0]), name[2:]) for name in rows
    }
    driven = [n for n in rows if n in ("s_tvalid", "s_tdata", "s_tlast", "m_tready", "i.valid", "i.payload")]

    async def drive(ctx):  # type: ignore[no-untyped-def]
        if isinstance(block, AxisIn):
            ctx.set(dut.o.ready, 1)
        for cycle in range(len(rows[driven[0]])):
            for name in driven:
                ctx.set(signals[name], int(rows[name][cycle].replace("-", "0"), 16))
            offered = {n[0]: ctx.get(s) for n, s in signals.items() if n.endswith("valid")}
            for name, values in seen.items():
                idle = name.endswith(("data", "payload", "m_tlast", "s_tlast")) and not offered[name[0]]
                values.append("-" if idle else f"{ctx.get(signals[name]):x}")
            await ctx.tick()

    drive_by(drive, wrapped(dut))
    return seen


@pytest.mark.parametrize(
    "block, before",
    [
        (AxisIn(Bus(1, 4), 4), "Frames of 4 beats at an input"),
        (AxisOut(Bus(1, 4), 2), "Frames of 2 beats at an output"),
    ],
)
def test_diagrams_of_the_page_are_what_happens(block, before):
    rows = rows_of((ROOT / "docs/hardware/axi.md").read_text(encoding="utf-8"), before)
    assert shown(block, rows) == rows


@pytest.mark.parametrize("bits, whole", [(1, 8), (8, 8), (9, 16), (24, 24), (25, 32)])
def test_data_are_whole_bytes(bits, whole):
    assert AxisIn(Bus(1, bits), 1).external["s_tdata"] == ("input", whole)
    assert AxisOut(Bus(1, bits), 1).external["m_tdata"] == ("output", whole)


def test_element_0_is_in_the_low_bits():
    run = simulate(AxisIn(BUS, 1), [(0xFE00 | pack([1, -2, 3], 3), True)], cycles=5)
    assert run.words == [0b011_110_001]


@pytest.mark.parametrize("kind, sides", [(AxisIn, (BUS, None)), (AxisOut, (None, BUS))])
def test_the_axi_side_is_told(kind, sides):
    block = kind(BUS, 2)
    assert (block.axi_in, block.axi_out) == sides
    assert {*block.external, *block.events} <= set(block.signature)
    beats = np.array([[1, -2, 3], [0, 0, 0]])
    assert block.model([beats], {})[0] is beats


@pytest.mark.parametrize("kind", [AxisIn, AxisOut])
def test_frames_of_one_beat_need_no_signal_without_bits(kind):
    assert " width 0 " not in rtlil.convert(kind(BUS, 1).component())


@pytest.mark.parametrize("kind", [AxisIn, AxisOut])
def test_frame_without_beats_is_refused_wrong(kind):
    with pytest.raises(ValueError, match="at least 1 beat, not 0"):
        kind(BUS, 0)
