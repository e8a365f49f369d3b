"""The AXI4-Lite port against the model of its registers, and against the rules of the protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from amaranth.hdl import Cat, ClockDomain, Const, Module
from amaranth.sim import Simulator

from hw.axi_lite import OKAY, SLVERR, Control, Registers, fields, register_map
from tests.gateware import ran

IDENTITY = tuple(0x01234567 + 0x11111111 * k for k in range(8))
CONTROL = Control(2, 1)
AT = {row.name: row.offset for row in CONTROL.registers}

Write = tuple[int, int, int]  # address, data, strobe
Events = Callable[[int], set[str]]  # those that are high in a cycle


@dataclass
class Log:
    """Responses, and the cycles in which transfers took place, by channel."""

    writes: list[int] = field(default_factory=list)
    reads: list[tuple[int, int]] = field(default_factory=list)
    at: dict[str, list[int]] = field(default_factory=lambda: {c: [] for c in ("aw", "w", "b", "ar", "r")})
    valid: dict[str, list[int]] = field(default_factory=lambda: {"b": [], "r": []})


class Master:
    """Holds out requests and responses-ready after random waits; what it holds out stays until it is accepted."""

    def __init__(self, dut, writes: Sequence[Write], reads: Sequence[int], seed: int | None) -> None:
        self.dut, self.log = dut, Log()
        self.random = np.random.default_rng(seed) if seed is not None else None
        self.sent = {
            "aw": [{"addr": a, "prot": a % 8} for a, _, _ in writes],
            "w": [{"data": d, "strb": s} for _, d, s in writes],
            "ar": [{"addr": a, "prot": a % 8} for a in reads],
        }
        self.start = {channel: self.wait() for channel in self.log.at}
        self.held: dict[str, tuple[int, ...]] = {}

    def wait(self) -> int:
        if self.random is None:
            return 0
        return int(self.random.integers(0, 6)) if self.random.random() < 0.5 else 0

    def wire(self, name: str):
        return getattr(self.dut, f"s_{name}")

    def outputs(self, ctx) -> list[int]:
        return [ctx.get(self.wire(n[2:])) for n, (way, _) in self.dut.control.external.items() if way == "output"]

    def put(self, ctx, cycle: int, flip: bool) -> None:
        for channel, items in self.sent.items():
            n = len(self.log.at[channel])
            valid = n < len(items) and cycle >= self.start[channel]
            ctx.set(self.wire(f"{channel}valid"), valid != flip)
            for name, value in items[n].items() if valid else ():
                ctx.set(self.wire(f"{channel}{name}"), 0 if flip else value)
        for channel in ("b", "r"):
            ctx.set(self.wire(f"{channel}ready"), (cycle >= self.start[channel]) != flip)

    def drive(self, ctx, cycle: int) -> None:
        """Puts all inputs of this cycle and notes its transfers; no output may depend on an input of this cycle."""
        self.put(ctx, cycle, True)
        before = self.outputs(ctx)
        self.put(ctx, cycle, False)
        assert self.outputs(ctx) == before
        self.stay(ctx, cycle)
        for channel, times in self.log.at.items():
            if ctx.get(self.wire(f"{channel}valid")) and ctx.get(self.wire(f"{channel}ready")):
                times.append(cycle)
                self.start[channel] = cycle + 1 + self.wait()
                self.held.pop(channel, None)
                if channel == "b":
                    self.log.writes.append(ctx.get(self.wire("bresp")))
                if channel == "r":
                    self.log.reads.append((ctx.get(self.wire("rdata")), ctx.get(self.wire("rresp"))))

    def stay(self, ctx, cycle: int) -> None:
        """A response stays as it is until it is accepted."""
        for channel, names in (("b", ["bresp"]), ("r", ["rdata", "rresp"])):
            valid, response = ctx.get(self.wire(f"{channel}valid")), tuple(ctx.get(self.wire(n)) for n in names)
            assert channel not in self.held or (valid and response == self.held[channel])
            if valid:
                self.log.valid[channel].append(cycle)
                self.held[channel] = response


def talk(
    writes: Sequence[Write] = (),
    reads: Sequence[int] = (),
    *,
    control: Control = CONTROL,
    seed: int | None = None,
    events: Events = lambda cycle: set(),
    cycles: int = 100,
    start: Mapping[str, int] | None = None,
) -> Log:
    """Responses of the gateware, after they were found equal to the model's; counters of 64 bits begin at `start`."""
    dut = control.component()
    master, model, wanted = Master(dut, writes, reads, seed), Registers(control, IDENTITY), Log()

    model.counters |= start or {}

    async def drive(ctx):  # type: ignore[no-untyped-def]
        if start is not None:
            ctx.set(dut.cycles, start["cycles"]), ctx.set(dut.busy_cycles, start["busy"])
        for cycle in range(cycles):
            high = events(cycle)
            for name in control.events:
                ctx.set(getattr(dut, name), name in high)
            master.drive(ctx, cycle)
            follow(model, master.log, wanted, writes, reads, cycle)
            model.tick(dict.fromkeys(high, True))
            await ctx.tick()

    m = Module()
    m.submodules.dut = dut
    m.d.comb += dut.identity.eq(Cat(Const(word, 32) for word in IDENTITY))
    simulator = Simulator(m)
    simulator.add_clock(1e-6)
    simulator.add_testbench(drive)
    simulator.run()
    log = master.log
    assert (len(log.reads), len(log.writes)) == (len(reads), len(writes)), "not all answered"
    assert (log.reads, log.writes) == (wanted.reads, wanted.writes)
    assert not writes or log.valid["b"][0] == first_done(log) + 1
    assert not reads or log.valid["r"][0] == log.at["ar"][0] + 3
    return log


def first_done(log: Log) -> int:
    return max(log.at["aw"][0], log.at["w"][0]) + 1


def follow(model: Registers, log: Log, wanted: Log, writes: Sequence[Write], reads: Sequence[int], cycle: int) -> None:
    """Does in the model what is done in this cycle: the cycle after the acceptance of all that it needs."""
    n = len(wanted.reads)
    if len(log.at["ar"]) > n and log.at["ar"][n] == cycle - 1:
        wanted.reads.append(model.read(reads[n]))
    n = len(wanted.writes)
    if min(len(log.at["aw"]), len(log.at["w"])) > n and max(log.at["aw"][n], log.at["w"][n]) == cycle - 1:
        wanted.writes.append(model.write(*writes[n]))


def random_events(seed: int, control: Control = CONTROL) -> Events:
    generator = np.random.default_rng(seed)
    shares = {name: generator.choice([0.05, 0.5]) for name in control.events}
    return lambda cycle: {name for name, share in shares.items() if generator.random() < share}


@pytest.mark.parametrize("seed", range(6))
def test_random_transactions_are_answered_as_by_the_model(seed):
    generator = np.random.default_rng(seed)
    favourites = [AT["control"], AT["status"], AT["status"] + 2, AT["cycles_low"]]
    writes = [
        (int(generator.choice([*favourites, generator.integers(0, 256)])), *generator.integers([0, 0], [1 << 32, 16]))
        for _ in range(40)
    ]
    reads = [int(generator.choice([AT["status"], generator.integers(0, 256)])) for _ in range(60)]
    ints = [(a, int(d), int(s)) for a, d, s in writes]
    log = talk(ints, reads, seed=seed, events=random_events(seed), cycles=500)
    assert {OKAY, SLVERR} == set(log.writes) == {response for _, response in log.reads}


LOADED = Control(1, 1, memories=5)
LOAD_PLACE, LOAD_DATA = (next(r.offset for r in LOADED.registers if r.name == f"load_{n}") for n in ("place", "data"))


def load_bus(writes: Sequence[Write], seed: int | None, cycles: int) -> list[tuple[int, ...]]:
    """Memory, word, piece and data of all that stood on the load bus."""
    dut, seen = LOADED.component(), []
    master = Master(dut, writes, [], seed)

    async def drive(ctx):  # type: ignore[no-untyped-def]
        for cycle in range(cycles):
            master.drive(ctx, cycle)
            if ctx.get(dut.load_go):
                seen.append(tuple(ctx.get(getattr(dut, f"load_{n}")) for n in ("memory", "word", "piece", "data")))
            await ctx.tick()

    ran(dut, drive)
    assert len(master.log.writes) == len(writes)
    return seen


@pytest.mark.parametrize("seed", range(4))
def test_the_load_bus_carries_what_the_model_loads(seed):
    random = np.random.default_rng(seed)
    writes = []
    for _ in range(3):
        pieces = int(random.integers(1, 4))
        writes.append((LOAD_PLACE, int(random.integers(0, 5)) | pieces - 1 << 16, 15))
        data = random.integers(0, 1 << 32, int(random.integers(1, 8)))
        writes += [(LOAD_DATA, int(d), int(random.choice([15, 15, 5]))) for d in data]
    model = Registers(LOADED)
    for write in writes:
        assert model.write(*write) == OKAY
        model.tick({})
    assert load_bus(writes, seed, 400) == model.loaded


@pytest.mark.parametrize("seed", range(4))
def test_loading_is_answered_as_by_the_model(seed):
    random = np.random.default_rng(seed)
    places = [LOAD_PLACE, LOAD_DATA, LOADED.registers[3].offset]
    writes = [
        (int(random.choice(places)), int(random.integers(0, 1 << 32)), int(random.integers(0, 16))) for _ in range(30)
    ]
    reads = [int(random.choice(places)) for _ in range(40)]
    log = talk(writes, reads, control=LOADED, seed=seed, events=random_events(seed, LOADED), cycles=400)
    assert set(log.writes) == {OKAY}


def test_while_all_is_held_no_frame_is_inside():
    events = {0: {"in0_frame_in"}}
    hold, reads = [(LOAD_PLACE, 1 << 31, 15)], [LOADED.registers[3].offset] * 12
    for writes, last in (([], 1), (hold, 0), ([*hold, (LOAD_PLACE, 0, 15)], 0)):
        log = talk(writes, reads, control=LOADED, events=lambda c: events.get(c, set()))
        assert [data for data, _ in log.reads][-1] == last


def test_an_accelerator_with_constant_memories_has_nothing_to_load_wrong():
    assert talk([(LOAD_PLACE, 0, 15), (LOAD_DATA, 0, 15)]).writes == [SLVERR] * 2
    with pytest.raises(ValueError, match="at most 65536 memories"):
        Control(1, 1, 65537)


def test_every_register_is_read_as_in_the_model():
    reads = [row.offset for row in CONTROL.registers]
    log = talk(reads=reads, events=random_events(9), cycles=200)
    values = {row.name: data for row, (data, _) in zip(CONTROL.registers, log.reads, strict=True)}
    assert [response for _, response in log.reads] == [OKAY] * len(reads)
    assert (values["magic"], values["version"]) == (0x54434D50, 1)
    assert tuple(values[f"identity_{k}"] for k in range(8)) == IDENTITY


@pytest.mark.parametrize("address", [row.offset for row in CONTROL.registers if row.access == "ro"] + [0x50, 0xFC])
def test_write_where_nothing_can_be_written_is_refused_wrong(address):
    assert talk([(address, 0xFFFFFFFF, 15)]).writes == [SLVERR]


@pytest.mark.parametrize("address", [0x50, 0xBC, 0xC8, 0xFC])
def test_read_where_there_is_no_register_is_refused_wrong(address):
    assert talk(reads=[address]).reads == [(0, SLVERR)]


def test_errors_stay_until_they_are_cleared_one_by_one():
    happen = {3: {"in0_error_early"}, 4: {"in1_error_late"}}
    log = talk(reads=[AT["status"]] * 3, events=lambda c: happen.get(c, set()))
    assert [data for data, _ in log.reads] == [0, 0b100100, 0b100100]
    log = talk([(AT["status"], 0b000100, 15)], [AT["status"]] * 6, events=lambda c: happen.get(c - 3, set()))
    assert log.reads[-1] == (0b100100, OKAY)  # cleared before they happened
    log = talk(
        [(0, 0, 0), (0, 0, 0), (AT["status"], 0b000100, 15)], [AT["status"]] * 6, events=lambda c: happen.get(c, set())
    )
    assert log.reads[-1] == (0b100000, OKAY)


def test_an_error_in_the_cycle_in_which_it_is_cleared_is_kept():
    done = first_done(talk([(AT["status"], 4, 15)]))
    log = talk(
        [(AT["status"], 4, 15)], [AT["status"]] * 4, events=lambda c: {"in0_error_early"} if c == done else set()
    )
    assert log.reads[-1] == (4, OKAY)


@pytest.mark.parametrize("strobe", range(16))
def test_only_bytes_with_strobe_are_written(strobe):
    control = Control(15, 1)
    errors = {event for event in control.events if "error" in event}
    log = talk(
        [(AT["status"], 0xFFFFFFFF, strobe)],
        [AT["status"]] * 3,
        control=control,
        events=lambda c: errors if c == 0 else set(),
        cycles=20,
    )
    written = sum(0xFF << 8 * k for k in range(4) if strobe >> k & 1)
    assert log.reads[-1] == (0xFFFFFFFC & ~written, OKAY)


def test_clearing_sets_all_counters_to_zero():
    busy = {"in0_frame_in", "out0_stalled", "in1_stalled"}
    reads = [AT["input_0_frames"], AT["output_0_stalled"], AT["input_1_stalled"], AT["cycles_low"], AT["busy_low"]]
    log = talk([(AT["control"], 1, 15)], [0] * 8 + reads, events=lambda c: busy if c < 2 else set())
    counts = [data for data, _ in log.reads[8:]]
    assert counts[:3] == [0, 0, 0]
    assert 0 < counts[3] == log.at["ar"][11] - first_done(log)


def test_busy_lasts_from_the_first_beat_taken_to_the_last_beat_given():
    control = Control(1, 1)
    levels = {"in0_begun": range(5, 9), "in0_frame_in": [9], "out0_frame_out": [20]}
    log = talk(
        reads=[AT["status"]] * 12 + [AT["busy_low"]],
        control=control,
        events=lambda c: {name for name, when in levels.items() if c in when},
    )
    seen = [data for data, _ in log.reads[:12]]
    assert seen == [int(6 <= t + 1 <= 21) for t in log.at["ar"][:12]]
    assert log.reads[12][0] == 16  # beats taken in cycles 4 to 8, last beat given in cycle 19


@pytest.mark.parametrize(
    "low, high", [("cycles_low", "cycles_high"), ("busy_low", "busy_high"), ("cycles_low", "busy_high")]
)
def test_upper_half_is_that_of_the_lower_half_read_last(low, high):
    start = {"cycles": 0x1_FFFF_FFFA, "busy": 0x7_FFFF_FFFA}
    log = talk(reads=[AT[low], AT[high]] * 4, start=start, events=lambda c: {"in0_begun"})
    whole = [upper << 32 | lower for (lower, _), (upper, _) in zip(log.reads[::2], log.reads[1::2], strict=True)]
    name = low.removesuffix("_low")
    assert np.diff(whole).tolist() == np.diff(log.at["ar"][::2]).tolist()
    assert whole[0] >> 32 == start[name] >> 32 < whole[-1] >> 32


def test_ready_is_low_during_reset_and_the_cycle_after():
    domain, dut, seen = ClockDomain("sync"), CONTROL.component(), []
    m = Module()
    m.domains.sync = domain
    m.submodules.dut = dut
    m.d.comb += dut.identity.eq(Cat(Const(word, 32) for word in IDENTITY))

    async def drive(ctx):  # type: ignore[no-untyped-def]
        for reset in (1, 1, 0, 0, 1, 1, 0, 0):
            ctx.set(domain.rst, reset)
            seen.append([ctx.get(s) for s in (dut.s_awready, dut.s_wready, dut.s_arready)])
            await ctx.tick()

    simulator = Simulator(m)
    simulator.add_clock(1e-6)
    simulator.add_testbench(drive)
    simulator.run()
    assert seen == [[k] * 3 for k in (0, 0, 0, 1, 1, 0, 0, 1)]


@pytest.mark.parametrize("inputs, outputs, width", [(1, 1, 8), (15, 8, 8), (1, 9, 9), (2, 40, 9), (2, 41, 10)])
def test_map_has_every_register_once_within_the_address(inputs, outputs, width):
    rows, control = register_map(inputs, outputs), Control(inputs, outputs)
    offsets = [row.offset for row in rows]
    assert len(set(offsets)) == len({row.name for row in rows}) == 16 + 2 * (inputs + outputs)
    assert offsets == sorted(offsets)
    assert all(offset % 4 == 0 and offset < 1 << control.address_width for offset in offsets)
    assert control.external["s_araddr"] == ("input", width)


def test_ports_beyond_8_bits_of_address_answer():
    control = Control(15, 9)
    address = {row.name: row.offset for row in control.registers}
    reads = [address["output_8_frames"], address["input_14_stalled"], address["status"]]
    high = {"out8_frame_out", "in14_stalled", "in14_error_late"}
    log = talk(reads=reads, control=control, events=lambda c: high if c < 2 else set())
    assert [data for data, _ in log.reads] == [2, 2, 1 << 31 | 1]


@pytest.mark.parametrize("inputs, outputs", [(1, 1), (2, 3), (15, 20)])
def test_fields_of_a_register_are_bits_of_their_own(inputs, outputs):
    for row in register_map(inputs, outputs):
        bits = [b for f in fields(row, inputs) for b in range(f.low, f.low + f.width)]
        assert bits == sorted(set(bits)) and bits[0] >= 0 and bits[-1] < 32
        names = [f.name for f in fields(row, inputs)]
        assert len(set(names)) == len(names)
        assert row.access in {f.access for f in fields(row, inputs)}


@pytest.mark.parametrize("event", ["early", "late"])
@pytest.mark.parametrize("port", range(15))
def test_fields_of_status_are_where_errors_appear(port, event):
    model = Registers(Control(15, 1))
    model.tick({f"in{port}_error_{event}": True})
    (status,) = (row for row in model.control.registers if row.name == "status")
    word, _ = model.read(status.offset)
    assert [f.name for f in fields(status, 15) if word >> f.low & 1] == [f"input_{port}_{event}"]


@pytest.mark.parametrize(
    "inputs, outputs, why",
    [
        (0, 1, "1 to 15 inputs, not 0"),
        (16, 1, "1 to 15 inputs, not 16"),
        (1, 0, "at least 1 output, not 0"),
    ],
)
def test_what_cannot_be_described_is_refused_wrong(inputs, outputs, why):
    with pytest.raises(ValueError, match=why):
        Control(inputs, outputs)


def test_map_is_the_one_in_the_documentation():
    page = (Path(__file__).parent.parent / "docs" / "hardware" / "axi.md").read_text(encoding="utf-8")
    for row in register_map(1, 1, memories=1):
        port = row.name.startswith(("input_", "output_"))
        offset = f"`0x{row.offset:02X}`" + " + 8k" * port
        name, what = (
            text.replace("put_0", "put_<k>").replace("put 0", "put `k`") for text in (row.name, row.description)
        )
        assert f"| {offset} | `{name}` | {row.access} | {what} |" in page
