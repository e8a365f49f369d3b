"""The connections of a design's top level as data, from which the Verilog top and the Amaranth top are both made."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from hw.axi_lite import Control
from hw.axi_stream import AxisIn, AxisOut
from hw.block import Block, Memory, pack
from tcompile.errors import InternalError, Problem
from tcompile.mapping.design import Design, Instance

__all__ = [
    "CONTROL",
    "IDENTITY",
    "KEYWORDS",
    "RESET",
    "RESET_CYCLES",
    "Cell",
    "Net",
    "Netlist",
    "Pin",
    "Rom",
    "control_of",
    "netlist",
    "stream_net",
]

CONTROL = "s_axi_control"
IDENTITY = "build_identity"
RESET = "reset"
RESET_CYCLES = 4  # from the pin to the blocks: two registers for all, two more in each part
PARTS = 4  # that have a reset of their own: a tile of an ECP5 takes two, and with one per layer a full device has no legal placement
PLAIN = re.compile(r"[a-z][a-z0-9_]*")
_WORDS = """
    accept_on alias always always_comb always_ff always_latch and assert assign assume automatic before begin
    bind bins binsof bit break buf bufif0 bufif1 byte case casex casez cell chandle checker class clocking
    cmos config const constraint context continue cover covergroup coverpoint cross deassign default defparam
    design disable dist do edge else end endcase endchecker endclass endclocking endconfig endfunction
    endgenerate endgroup endinterface endmodule endpackage endprimitive endprogram endproperty endsequence
    endspecify endtable endtask enum event eventually expect export extends extern final first_match for force
    foreach forever fork forkjoin function generate genvar global highz0 highz1 if iff ifnone ignore_bins
    illegal_bins implements implies import incdir include initial inout input inside instance int integer
    interconnect interface intersect join join_any join_none large let liblist library local localparam logic
    longint macromodule matches medium modport module nand negedge nettype new nexttime nmos nor
    noshowcancelled not notif0 notif1 null or output package packed parameter pmos posedge primitive priority
    program property protected pull0 pull1 pulldown pullup pulsestyle_ondetect pulsestyle_onevent pure rand
    randc randcase randsequence rcmos real realtime ref reg reject_on release repeat restrict return rnmos
    rpmos rtran rtranif0 rtranif1 s_always s_eventually s_nexttime s_until s_until_with scalared sequence
    shortint shortreal showcancelled signed small soft solve specify specparam static string strong strong0
    strong1 struct super supply0 supply1 sync_accept_on sync_reject_on table tagged task this throughout time
    timeprecision timeunit tran tranif0 tranif1 tri tri0 tri1 triand trior trireg type typedef union unique
    unique0 unsigned until until_with untyped use uwire var vectored virtual void wait wait_order wand weak
    weak0 weak1 while wildcard wire with within wor xnor xor
"""
KEYWORDS = frozenset(_WORDS.split())  # of Verilog and SystemVerilog, those in lower case


@dataclass(frozen=True)
class Net:
    """A wire of the top level."""

    name: str
    width: int


@dataclass(frozen=True)
class Pin:
    """A port of the top level; `way` is ``input`` or ``output``."""

    name: str
    way: str
    width: int


@dataclass(frozen=True)
class Cell:
    """A block in its place; `wires` joins its ports, as ``i__valid``, to nets and pins."""

    name: str
    block: Block | Control
    wires: Mapping[str, str]


@dataclass(frozen=True)
class Rom:
    """A memory that blocks only read; `address` and `data` are nets, and `enable`, unless it is read in every cycle."""

    name: str
    shape: Memory
    words: tuple[int, ...]
    address: str
    data: str
    enable: str = ""

    @property
    def pieces(self) -> int:
        """Parts of 32 bits in which a word is loaded."""
        return -(-self.shape.width // 32)


@dataclass(frozen=True)
class Netlist:
    """A top level; the clock goes to every cell. Where it is loadable, memories are numbered as they stand here.

    The reset reaches the blocks of each part of the pipeline through registers of their own, which can stand where the part does: `resets`
    are their nets. It is as late everywhere.
    """

    name: str
    pins: tuple[Pin, ...]
    nets: tuple[Net, ...]
    cells: tuple[Cell, ...]
    roms: tuple[Rom, ...]
    resets: tuple[str, ...]
    identity: int
    loadable: bool = False


def stream_net(stream: str, signal: str) -> str:
    """The net of one signal (``payload``, ``valid``, ``ready``) of a stream."""
    return f"st_{stream}_{signal}"


def netlist(design: Design, identity: tuple[int, ...]) -> Netlist:
    """Join a design's instances, its memories and the control registers; memories that can be loaded have a word for every place.

    Parameters
    ----------
    design : Design
    identity : tuple of int
        Eight words of 32 bits that the control registers show.

    Raises
    ------
    InternalError
        A name is no plain identifier, or streams and ports do not fit.
    """
    _check(design)
    control = control_of(design)
    layers = list(dict.fromkeys(instance.layer for instance in design.instances))
    parts = {layer: f"{RESET}_{k * PARTS // len(layers)}" for k, layer in enumerate(layers)}
    resets = tuple(dict.fromkeys(parts.values()))
    cells = [_cell(design, instance, parts[instance.layer]) for instance in design.instances]
    pins = [*_axis_pins(design), *(Pin(f"{CONTROL}_{n[2:]}", *pin) for n, pin in control.external.items())]
    events = [Net(f"ev_{event}", 1) for event in control.events]
    wires = {n: f"{CONTROL}_{n[2:]}" for n in control.external} | {e: f"ev_{e}" for e in control.events}
    wires |= {"identity": IDENTITY, "rst": RESET} | {name: name for name in control.loading}
    roms = [rom for instance in design.instances for rom in _roms(instance)]
    memory_nets = [
        net
        for rom in roms
        for net in (Net(rom.address, rom.shape.address_width), Net(rom.data, rom.shape.width), Net(rom.enable, 1))
        if net.name
    ]
    loading = (Net(*net) for net in control.loading.items())
    nets = (*_stream_nets(design), *memory_nets, *events, *loading, *(Net(n, 1) for n in (RESET, *resets)))
    _distinct("nets", [n.name for n in nets])
    return Netlist(
        design.name, tuple(pins), nets, (*cells, Cell("control", control, wires)), tuple(roms), resets,
        pack(identity, 32), design.loadable,
    )  # fmt: skip


def control_of(design: Design) -> Control:
    """The control port of a design."""
    return Control(len(design.inputs), len(design.outputs), design.memories if design.loadable else 0)


def _check(design: Design) -> None:
    _distinct("instances", [i.name for i in design.instances] + ["control"])
    if design.name in KEYWORDS or design.name.startswith("tc_"):
        raise _fault(f"the top module must not be named {design.name!r}: that word is taken")
    for name in (design.name, *design.streams, *(i.name for i in design.instances)):
        if not PLAIN.fullmatch(name):
            raise _fault(f"names of a design must be plain lower-case identifiers, not {name!r}")
    for instance in design.instances:
        _check_ports(design, instance)
        if set(instance.memories) != set(instance.block.memories):
            raise _fault(f"{instance.name} must have the memories {sorted(instance.block.memories)}")
    for side in ("inputs", "outputs"):
        _distinct(f"ends of streams at {side}", [s for i in design.instances for s in getattr(i, side)])
        ends = {s for i in design.instances for s in getattr(i, side)}
        if ends != set(design.streams):
            raise _fault(f"streams without end at {side} of instances: {sorted(set(design.streams) ^ ends)}")


def _check_ports(design: Design, instance: Instance) -> None:
    for side in ("inputs", "outputs"):
        names, buses = getattr(instance, side), getattr(instance.block, side)
        found = [design.streams[n].bus.bits for n in names]
        if found != [bus.bits for bus in buses]:
            raise _fault(f"{side} of {instance.name} must have {[b.bits for b in buses]} bits, not {found}")


def _distinct(what: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise _fault(f"{what} must be distinct: {name!r} is there twice")
        seen.add(name)


def _fault(message: str) -> InternalError:
    return InternalError(Problem("bad-design", message))


def _stream_nets(design: Design) -> Iterator[Net]:
    for name, stream in design.streams.items():
        yield Net(stream_net(name, "payload"), stream.bus.bits)
        yield Net(stream_net(name, "valid"), 1)
        yield Net(stream_net(name, "ready"), 1)


def _axis_pins(design: Design) -> Iterator[Pin]:
    for instance in design.instances:
        if isinstance(instance.block, AxisIn | AxisOut):
            prefix, _ = _axis_names(design, instance)
            for name, pin in instance.block.external.items():
                yield Pin(f"{prefix}{name[2:]}", *pin)


def _axis_names(design: Design, instance: Instance) -> tuple[str, str]:
    """Beginnings of the names of an AXI4-Stream port's pins and of its events."""
    taking = isinstance(instance.block, AxisIn)
    (stream,) = instance.outputs if taking else instance.inputs
    port = next((e.port for e in (design.inputs if taking else design.outputs) if e.stream == stream), None)
    if port is None:
        raise _fault(f"{instance.name} is no port of the design: stream {stream!r} is no edge")
    return (f"s_axis_{port}_", f"ev_in{port}_") if taking else (f"m_axis_{port}_", f"ev_out{port}_")


def _cell(design: Design, instance: Instance, reset: str) -> Cell:
    block = instance.block
    wires = {"rst": reset}
    ends = [*zip(block.input_names, instance.inputs), *zip(block.output_names, instance.outputs)]  # noqa: B905
    for port, stream in ends:
        wires |= {f"{port}__{signal}": stream_net(stream, signal) for signal in ("payload", "valid", "ready")}
    for name, memory in block.memories.items():
        pins = ("addr", "data", "en")[: 2 + memory.waits]
        wires |= {f"{name}_{pin}": f"rom_{instance.name}_{name}_{pin}" for pin in pins}
    if isinstance(block, AxisIn | AxisOut):
        begins, events = _axis_names(design, instance)
        wires |= {name: f"{begins}{name[2:]}" for name in block.external}
        wires |= {event: f"{events}{event}" for event in block.events}
    return Cell(instance.name, block, wires)


def _roms(instance: Instance) -> Iterator[Rom]:
    for name, shape in instance.block.memories.items():
        words = tuple(instance.memories[name])
        if not shape.takes(words):
            raise _fault(f"{name} of {instance.name} must hold {shape.depth} words of {shape.width} bits")
        if instance.loadable:  # others may have more
            words += (0,) * (shape.depth - len(words))
        base = f"rom_{instance.name}_{name}"
        enable = f"{base}_en" if shape.waits else ""
        yield Rom(base.removeprefix("rom_"), shape, words, f"{base}_addr", f"{base}_data", enable)
