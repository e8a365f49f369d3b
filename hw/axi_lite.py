"""The AXI4-Lite port of an accelerator: identity, status and counters.

One read is under way at a time, and one write; only the address of the next write is accepted before the response
to the last one is taken. A write is done in the cycle after both its address and its data were accepted, and its response follows
in the next cycle; a read is done in the cycle after its address was accepted, and its response follows two cycles later. Responses
stay until they are taken.
`Registers` is the model: it is told in which cycles reads and writes are done.

Where memories can be loaded, two more registers write them. A write to ``load_place`` names a memory and how many pieces of
32 bits each of its words has; every write to ``load_data`` is the next piece, from the lowest bits of word 0 on. While ``hold``
is set all else is held in reset, so that nothing reads what is half written, and no frame is inside afterwards. On the load
bus a piece stands for one cycle, in the cycle after its write is done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.axi_stream import INPUT_EVENTS, OUTPUT_EVENTS, Pins

__all__ = [
    "MAGIC",
    "MAP_VERSION",
    "OKAY",
    "SLVERR",
    "Control",
    "Field",
    "Register",
    "Registers",
    "fields",
    "register_map",
]

MAGIC = 0x54434D50  # TCMP
MAP_VERSION = 1
IDENTITY_WORDS = 8
MOST_INPUTS = 15  # two error bits each beside `busy`
MOST_MEMORIES = 1 << 16
HOLD = 31  # bit of ``load_place``
LOAD_BUS = {"load_go": 1, "load_memory": 16, "load_piece": 15, "load_word": 20, "load_data": 32}  # bits
OKAY, SLVERR = 0, 2
BANK = 32  # bytes of registers that a read chooses one from in a cycle
FLIGHT_BITS = 16  # frames inside the accelerator at the same time, counted modulo 2**16


class Register(NamedTuple):
    """A register of 32 bits.

    Parameters
    ----------
    name : str
    offset : int
        Address in bytes.
    access : str
        ``ro`` (a write is answered by an error), ``rw`` (holds what was written), ``wo`` (every write acts; reads as 0), ``w1c``
        (bits written as 1 are cleared), ``w1`` (bits written as 1 act once; reads as 0).
    description : str
    """

    name: str
    offset: int
    access: str
    description: str


def register_map(inputs: int, outputs: int, memories: int = 0) -> list[Register]:
    """The registers of an accelerator with so many AXI4-Stream ports, and memories that can be loaded, by rising offset."""
    rows = [
        Register("magic", 0x00, "ro", f"0x{MAGIC:08X}, the letters TCMP"),
        Register("version", 0x04, "ro", f"version of this map: {MAP_VERSION}"),
        Register("control", 0x08, "w1", "bit 0: set all counters to zero"),
        Register(
            "status",
            0x0C,
            "w1c",
            "bit 0: busy, a frame has begun and not left (not cleared by writing); "
            "bits 2+2k, 3+2k: at input k a TLAST came early, was missing",
        ),
        Register("cycles_low", 0x10, "ro", "cycles, bits 31 to 0; reading latches the upper half"),
        Register("cycles_high", 0x14, "ro", "upper half of the counter whose lower half was read last"),
        Register("busy_low", 0x18, "ro", "cycles while busy, bits 31 to 0; reading latches the upper half"),
        Register("busy_high", 0x1C, "ro", "upper half of the counter whose lower half was read last"),
    ]
    rows += [
        Register(f"identity_{k}", 0x20 + 4 * k, "ro", f"word {k} of the digest of the build")
        for k in range(IDENTITY_WORDS)
    ]
    for k in range(inputs):
        rows += [
            Register(f"input_{k}_frames", 0x40 + 8 * k, "ro", f"frames taken at input {k}, modulo 2^32"),
            Register(
                f"input_{k}_stalled", 0x44 + 8 * k, "ro", f"cycles with TVALID, no TREADY at input {k}, modulo 2^32"
            ),
        ]
    if memories:
        rows += [
            Register(
                "load_place",
                0xB8,
                "rw",
                "memory to load from word 0 on, pieces of its words less 1, bit 31: hold all in reset",
            ),
            Register("load_data", 0xBC, "wo", "the next 32 bits of the memory, lowest first"),
        ]
    for k in range(outputs):
        rows += [
            Register(f"output_{k}_frames", 0xC0 + 8 * k, "ro", f"frames given at output {k}, modulo 2^32"),
            Register(
                f"output_{k}_stalled", 0xC4 + 8 * k, "ro", f"cycles with TVALID, no TREADY at output {k}, modulo 2^32"
            ),
        ]
    return rows


class Field(NamedTuple):
    """Bits of a register.

    Parameters
    ----------
    name : str
    low, width : int
        Number of the lowest bit, and how many there are.
    access : str
        As that of `Register`.
    description : str
    """

    name: str
    low: int
    width: int
    access: str
    description: str


def fields(register: Register, inputs: int) -> list[Field]:
    """The bits of a register that mean something, of an accelerator with so many inputs, lowest first."""
    if register.name == "control":
        return [Field("clear_counters", 0, 1, "w1", "set all counters to zero")]
    if register.name == "status":
        rows = [Field("busy", 0, 1, "ro", "a frame has begun and not left")]
        for k in range(inputs):
            rows += [
                Field(f"input_{k}_early", 2 + 2 * k, 1, "w1c", f"a TLAST came early at input {k}"),
                Field(f"input_{k}_late", 3 + 2 * k, 1, "w1c", f"a TLAST was missing at input {k}"),
            ]
        return rows
    if register.name == "load_place":
        return [
            Field("memory", 0, 16, "rw", "number of the memory"),
            Field("pieces", 16, 15, "rw", "pieces of 32 bits of a word, less 1"),
            Field("hold", HOLD, 1, "rw", "all but the control port is held in reset"),
        ]
    return [Field("value", 0, 32, register.access, register.description)]


@dataclass(frozen=True)
class Control:
    """The register file behind the AXI4-Lite port.

    Parameters
    ----------
    inputs, outputs : int
        Numbers of AXI4-Stream ports.
    memories : int
        Number of memories that can be loaded.

    Members
    -------
    s_awaddr, s_awprot, s_awvalid, s_awready, s_wdata, s_wstrb, s_wvalid, s_wready, s_bresp, s_bvalid, s_bready,
    s_araddr, s_arprot, s_arvalid, s_arready, s_rdata, s_rresp, s_rvalid, s_rready : In or Out
        The AXI4-Lite port. All outputs depend on registers only; the ready signals are low during reset. The two low
        bits of addresses and the protection bits are ignored.
    identity : In(256)
        Constant: the digest of the build, word 0 in the low bits.
    in<k>_<event>, out<k>_<event> : In(1)
        Events of the AXI4-Stream ports; see `hw.axi_stream`.
    load_<part> : Out
        Where memories can be loaded, the load bus; see `LOAD_BUS`.
    load_hold : Out(1)
        There too: whether all else is to be held in reset.
    """

    inputs: int
    outputs: int
    memories: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.inputs <= MOST_INPUTS:
            raise ValueError(f"an accelerator must have 1 to {MOST_INPUTS} inputs, not {self.inputs}")
        if self.outputs < 1:
            raise ValueError(f"an accelerator must have at least 1 output, not {self.outputs}")
        if not 0 <= self.memories <= MOST_MEMORIES:
            raise ValueError(f"at most {MOST_MEMORIES} memories can be loaded, not {self.memories}")

    @property
    def registers(self) -> list[Register]:
        """The register map."""
        return register_map(self.inputs, self.outputs, self.memories)

    @property
    def address_width(self) -> int:
        """Bits of an address; at least 8."""
        return self.registers[-1].offset.bit_length()

    @property
    def external(self) -> Pins:
        """The AXI4-Lite signals by port name."""
        address = {"addr": self.address_width, "prot": 3}
        channels = {
            "aw": ("input", address),
            "w": ("input", {"data": 32, "strb": 4}),
            "b": ("output", {"resp": 2}),
            "ar": ("input", address),
            "r": ("output", {"data": 32, "resp": 2}),
        }
        pins: Pins = {}
        for channel, (way, fields) in channels.items():
            pins |= {f"s_{channel}{name}": (way, width) for name, width in fields.items()}
            pins |= {f"s_{channel}valid": (way, 1), f"s_{channel}ready": ("output" if way == "input" else "input", 1)}
        return pins

    @property
    def events(self) -> tuple[str, ...]:
        """Inputs of one bit, those of each port under its name: ``in<k>_<event>``, ``out<k>_<event>``."""
        return (
            *(f"in{k}_{event}" for k in range(self.inputs) for event in INPUT_EVENTS),
            *(f"out{k}_{event}" for k in range(self.outputs) for event in OUTPUT_EVENTS),
        )

    @property
    def loading(self) -> dict[str, int]:
        """Outputs that load memories, with their bits."""
        return {**LOAD_BUS, "load_hold": 1} if self.memories else {}

    @property
    def signature(self) -> dict[str, wiring.Member]:
        """Ports of the component."""
        pins = {name: (In if way == "input" else Out)(width) for name, (way, width) in self.external.items()}
        loading = {name: Out(width) for name, width in self.loading.items()}
        return pins | {"identity": In(32 * IDENTITY_WORDS)} | {name: In(1) for name in self.events} | loading

    def component(self) -> wiring.Component:
        """The gateware."""
        return _Control(self)


class Registers:
    """The register file, cycle by cycle.

    In each cycle: `read` and `write` if one is done in it, then `tick` with the events of that cycle.
    """

    def __init__(self, control: Control, identity: Sequence[int] = (0,) * IDENTITY_WORDS) -> None:
        self.control = control
        self.identity = tuple(identity)
        self.rows = {row.offset: row for row in control.registers}
        self.counters = {row.name: 0 for row in control.registers if row.name.endswith(("_frames", "_stalled"))}
        self.counters |= {"cycles": 0, "busy": 0}
        self.errors = 0
        self.busy = False
        self.high = 0
        self.flight = [0] * (control.inputs + control.outputs)
        self._latch: int | None = None
        self._clear_errors = 0
        self._clear_counters = False
        self.place = self._place = 0
        self._next = (0, 0)
        self.loaded: list[tuple[int, int, int, int]] = []

    def read(self, address: int) -> tuple[int, int]:
        """Data and response of a read in this cycle."""
        row = self.rows.get(address & ~3)
        if row is None:
            return 0, SLVERR
        if row.name.endswith("_low"):
            self._latch = self.counters[row.name.removesuffix("_low")] >> 32
        return self._value(row.name) & 0xFFFFFFFF, OKAY

    def _value(self, name: str) -> int:
        if name.startswith("identity_"):
            return self.identity[int(name.removeprefix("identity_"))]
        fixed = {"magic": MAGIC, "version": MAP_VERSION, "control": 0, "status": self.errors | self.busy}
        fixed |= {"load_place": self.place, "load_data": 0}
        if name in fixed:
            return fixed[name]
        return self.high if name.endswith("_high") else self.counters[name.removesuffix("_low")]

    def write(self, address: int, data: int, strobe: int = 15) -> int:
        """Response of a write in this cycle."""
        row = self.rows.get(address & ~3)
        if row is None or row.access == "ro":
            return SLVERR
        written = data & sum(0xFF << (8 * k) for k in range(4) if strobe >> k & 1)
        if row.name == "control":
            self._clear_counters = bool(written & 1)
        elif row.name == "load_place":
            self._place, self._next = written, (0, 0)
        elif row.name == "load_data":
            word, piece = self._next
            self.loaded.append((self.place & 0xFFFF, word, piece, written))
            more = piece < self.place >> 16 & 0x7FFF
            self._next = (word, piece + 1) if more else ((word + 1) % (1 << LOAD_BUS["load_word"]), 0)
        else:
            self._clear_errors = written
        return OKAY

    def tick(self, events: Mapping[str, bool]) -> None:
        """The end of a cycle in which these events were high; events that are not named are low."""
        self._count(events)
        if self._latch is not None:
            self.high = self._latch
        self.errors &= ~self._clear_errors
        for k in range(self.control.inputs):
            self.errors |= bool(events.get(f"in{k}_error_early")) << (2 + 2 * k)
            self.errors |= bool(events.get(f"in{k}_error_late")) << (3 + 2 * k)
        ins = [f"in{k}" for k in range(self.control.inputs)]
        frames = [bool(events.get(f"{p}_frame_in")) for p in ins]
        begun = [bool(events.get(f"{p}_begun")) for p in ins]
        self.busy = any(frames) or any(begun) or len(set(self.flight)) > 1
        frames += [bool(events.get(f"out{k}_frame_out")) for k in range(self.control.outputs)]
        held = bool(self.place >> HOLD & 1)
        self.flight = [0 if held else (n + f) % (1 << FLIGHT_BITS) for n, f in zip(self.flight, frames, strict=True)]
        self.place = self._place
        self._latch, self._clear_errors, self._clear_counters = None, 0, False

    def _count(self, events: Mapping[str, bool]) -> None:
        if self._clear_counters:
            self.counters = dict.fromkeys(self.counters, 0)
            return
        self.counters["cycles"] = (self.counters["cycles"] + 1) % (1 << 64)
        self.counters["busy"] = (self.counters["busy"] + self.busy) % (1 << 64)
        for counter, event in _counted(self.control).items():
            self.counters[counter] = (self.counters[counter] + bool(events.get(event))) % (1 << 32)


def _counted(control: Control) -> dict[str, str]:
    """The event that each counter of a port counts."""
    pairs: dict[str, str] = {}
    for k in range(control.inputs):
        pairs |= {f"input_{k}_frames": f"in{k}_frame_in", f"input_{k}_stalled": f"in{k}_stalled"}
    for k in range(control.outputs):
        pairs |= {f"output_{k}_frames": f"out{k}_frame_out", f"output_{k}_stalled": f"out{k}_stalled"}
    return pairs


class _Control(wiring.Component):
    def __init__(self, control: Control) -> None:
        self.control = control
        self.cycles = Signal(64)
        self.busy_cycles = Signal(64)
        self.place = Signal(32)
        super().__init__(control.signature)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        awake = Signal()
        m.d.sync += awake.eq(1)
        clear_errors, clear_counters = self._writes(m, awake)
        hold: Value = Const(0, 1)
        values = {"control": Const(0, 32), "magic": Const(MAGIC, 32), "version": Const(MAP_VERSION, 32)}
        values |= {f"identity_{k}": self.identity.word_select(k, 32) for k in range(IDENTITY_WORDS)}
        if self.control.memories:
            self._next_place(m)
            values |= {"load_place": self.place, "load_data": Const(0, 32)}
            hold = self.load_hold
        busy = self._busy(m, hold)
        values["status"] = Cat(busy, Const(0, 1), self._errors(m, clear_errors))
        values |= self._counters(m, busy, clear_counters)
        self._reads(m, awake, values)
        return m

    def _writes(self, m: Module, awake: Value) -> tuple[Signal, Signal]:
        """The write channels; bits of errors to clear in this cycle, and whether to clear the counters."""
        address, data, strobe = Signal(self.control.address_width), Signal(32), Signal(4)
        have_address, have_data, doing = Signal(), Signal(), Signal()
        clear_errors, clear_counters = Signal(32), Signal()
        written = Cat(Mux(strobe[k], data.word_select(k, 8), 0) for k in range(4))
        m.d.comb += [
            self.s_awready.eq(awake & ~have_address),
            self.s_wready.eq(awake & ~have_data & ~self.s_bvalid),
            doing.eq(have_address & have_data),
        ]
        with m.If(self.s_awvalid & self.s_awready):
            m.d.sync += [address.eq(self.s_awaddr), have_address.eq(1)]
        with m.If(self.s_wvalid & self.s_wready):
            m.d.sync += [data.eq(self.s_wdata), strobe.eq(self.s_wstrb), have_data.eq(1)]
        with m.If(self.s_bvalid & self.s_bready):
            m.d.sync += self.s_bvalid.eq(0)
        with m.If(doing):
            m.d.sync += [have_address.eq(0), have_data.eq(0), self.s_bvalid.eq(1), self.s_bresp.eq(SLVERR)]
            with m.Switch(address[2:]):
                for row in self.control.registers:
                    if row.access != "ro":
                        with m.Case(row.offset >> 2):
                            m.d.sync += self.s_bresp.eq(OKAY)
                            if row.name == "control":
                                m.d.comb += clear_counters.eq(written[0])
                            elif row.name == "load_place":
                                m.d.sync += [self.place.eq(written), self.load_word.eq(0), self.load_piece.eq(0)]
                            elif row.name == "load_data":
                                m.d.sync += [self.load_go.eq(1), self.load_data.eq(written)]
                            else:
                                m.d.comb += clear_errors.eq(written)
        return clear_errors, clear_counters

    def _next_place(self, m: Module) -> None:
        """Behind a piece that stands on the load bus comes the place of the next one."""
        m.d.comb += [self.load_memory.eq(self.place[:16]), self.load_hold.eq(self.place[HOLD])]
        with m.If(self.load_go):
            m.d.sync += [self.load_go.eq(0), self.load_piece.eq(self.load_piece + 1)]
            with m.If(self.load_piece == self.place[16:HOLD]):
                m.d.sync += [self.load_piece.eq(0), self.load_word.eq(self.load_word + 1)]

    def _errors(self, m: Module, clear: Value) -> Value:
        """Error bits that stay; an error in the cycle in which its bit is cleared is kept."""
        events = Cat(
            getattr(self, f"in{k}_{event}")
            for k in range(self.control.inputs)
            for event in ("error_early", "error_late")
        )
        errors = Signal(len(events))
        m.d.sync += errors.eq((errors & ~clear[2 : 2 + len(events)]) | events)
        return errors

    def _busy(self, m: Module, hold: Value) -> Value:
        """Whether, two cycles ago, a frame was partly taken or had not left by all outputs; none is inside while all is held."""
        frames = [getattr(self, f"in{k}_frame_in") for k in range(self.control.inputs)]
        begun = [getattr(self, f"in{k}_begun") for k in range(self.control.inputs)]
        ended = frames + [getattr(self, f"out{k}_frame_out") for k in range(self.control.outputs)]
        flight = [Signal(FLIGHT_BITS, name=f"flight_{k}") for k in range(len(ended))]
        m.d.sync += [number.eq(Mux(hold, 0, number + event)) for number, event in zip(flight, ended, strict=True)]
        busy = Signal()
        m.d.sync += busy.eq(Cat(*frames, *begun, *(number != flight[0] for number in flight[1:])).any())
        return busy

    def _counters(self, m: Module, busy: Value, clear: Value) -> dict[str, Value]:
        counters = {"cycles": self.cycles, "busy": self.busy_cycles}
        steps: dict[str, Value] = {"cycles": Const(1, 1), "busy": busy}
        for name, event in _counted(self.control).items():
            counters[name] = Signal(32, name=name)
            steps[name] = getattr(self, event)
        for name, counter in counters.items():
            m.d.sync += counter.eq(Mux(clear, 0, counter + steps[name]))
        for name in ("cycles", "busy"):
            counters[f"{name}_low"] = counters.pop(name)
        return counters

    def _reads(self, m: Module, awake: Value, values: Mapping[str, Value]) -> None:
        """The read channels; a value of 64 bits is read as its lower half, the upper one is kept for later.

        A value is chosen in two cycles: one of each bank first, then one of these.
        """
        address, high = Signal(self.control.address_width), Signal(32)
        doing, answering = Signal(), Signal()
        m.d.comb += self.s_arready.eq(awake & ~doing & ~answering & ~self.s_rvalid)
        with m.If(self.s_arvalid & self.s_arready):
            m.d.sync += [address.eq(self.s_araddr), doing.eq(1)]
        with m.If(self.s_rvalid & self.s_rready):
            m.d.sync += self.s_rvalid.eq(0)
        with m.If(doing):
            m.d.sync += [doing.eq(0), answering.eq(1)]
        with m.If(answering):
            m.d.sync += [answering.eq(0), self.s_rvalid.eq(1), self.s_rdata.eq(0), self.s_rresp.eq(SLVERR)]
        for bank, rows in groupby(self.control.registers, lambda row: row.offset // BANK):
            data, there = Signal(32, name=f"bank_{bank}"), Signal(name=f"in_bank_{bank}")
            m.d.sync += [data.eq(0), there.eq(0)]
            with m.Switch(address[2 : BANK.bit_length() - 1]):
                for row in rows:
                    with m.Case(row.offset % BANK >> 2):
                        value = high if row.name.endswith("_high") else values[row.name]
                        m.d.sync += [data.eq(value), there.eq(1)]
                        if row.name.endswith("_low"):
                            with m.If(doing & (address[BANK.bit_length() - 1 :] == bank)):
                                m.d.sync += high.eq(value[32:])
            with m.If(answering & there & (address[BANK.bit_length() - 1 :] == bank)):
                m.d.sync += [self.s_rdata.eq(data), self.s_rresp.eq(OKAY)]
