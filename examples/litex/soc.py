"""An accelerator in a LiteX SoC on a ULX3S board (ECP5-85F): frames through memory, everything reached over the serial port.

    python examples/litex/soc.py build/digits -o build/litex            Verilog, constraints and scripts
    python examples/litex/soc.py build/digits -o build/litex --build    a bitstream; needs yosys, nextpnr-ecp5 and ecppack on PATH

The SoC has no processor: LiteX's UARTBone gives a host the bus. A frame lies in the memory `frames` as the bytes of host/pack.py, each
filled up to whole words of 32 bits. `reader` moves frames from there to s_axis_0, `writer` results from m_axis_0 to memory; `csr.json`
has their addresses. The registers of host/registers.json are at the region `accelerator`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from litex.build.generic_platform import IOStandard, Pins, Subsignal
from litex.build.lattice import LatticePlatform
from litex.gen import LiteXModule
from litex.soc.cores.dma import WishboneDMAReader, WishboneDMAWriter
from litex.soc.integration.builder import Builder
from litex.soc.integration.soc import SoCRegion
from litex.soc.integration.soc_core import SoCMini
from litex.soc.interconnect import axi, stream, wishbone
from migen import ClockDomain, ClockSignal, Constant, If, Instance, ResetSignal, Signal

CLOCK = 25_000_000
FRAMES, REGISTERS = 0x1000_0000, 0x2000_0000
MOST_FRAMES_BYTES = 64 * 1024
IO = [
    ("clk25", 0, Pins("G2"), IOStandard("LVCMOS33")),
    ("serial", 0, Subsignal("tx", Pins("L4")), Subsignal("rx", Pins("M1")), IOStandard("LVCMOS33")),
]


class Accelerator(LiteXModule):
    """``tcompile_top`` of a build directory with LiteX's interfaces.

    Attributes
    ----------
    sinks, sources : dict of str to stream.Endpoint
        AXI4-Stream ports by name; ``data`` is TDATA, ``last`` is TLAST.
    control : axi.AXILiteInterface
    """

    def __init__(self, platform, build: Path) -> None:
        layout = json.loads((build / "host" / "layout.json").read_text(encoding="utf-8"))
        rows = json.loads((build / "host" / "registers.json").read_text(encoding="utf-8"))["registers"]
        self.control = axi.AXILiteInterface(data_width=32, address_width=32)
        self.sinks = {p["name"]: stream.Endpoint([("data", 8 * beat_bytes(p))]) for p in layout["inputs"]}
        self.sources = {p["name"]: stream.Endpoint([("data", 8 * beat_bytes(p))]) for p in layout["outputs"]}
        pins = {
            "p_MEM_DIR": f"{(build / 'rtl').resolve()}/",
            "i_ap_clk": ClockSignal("sys"),
            "i_ap_rst_n": ~ResetSignal("sys"),
        }
        for name, port in self.sinks.items():
            pins |= {f"i_{name}_t{n}": getattr(port, n) for n in ("valid", "last", "data")} | {
                f"o_{name}_tready": port.ready
            }
        for name, port in self.sources.items():
            pins |= {f"o_{name}_t{n}": getattr(port, n) for n in ("valid", "last", "data")} | {
                f"i_{name}_tready": port.ready
            }
        self.specials += Instance("tcompile_top", **pins, **control_pins(self.control, rows[-1]["offset"].bit_length()))
        for source in sorted((build / "rtl").glob("*.v")):
            platform.add_source(str(source.resolve()))


def beat_bytes(port: dict) -> int:
    return -(-port["lanes"] * port["bits"] // 8)


def control_pins(port: axi.AXILiteInterface, address_bits: int) -> dict:
    """Pins of ``s_axi_control``."""
    pins = {}
    for channel, way, fields in (
        ("aw", "i", ("addr",)), ("w", "i", ("data", "strb")), ("b", "o", ("resp",)), ("ar", "i", ("addr",)), ("r", "o", ("data", "resp")),
    ):  # fmt: skip
        end, back = getattr(port, channel), "o" if way == "i" else "i"
        pins |= {f"{way}_s_axi_control_{channel}valid": end.valid, f"{back}_s_axi_control_{channel}ready": end.ready}
        for name in fields:
            wire = getattr(end, name)
            pins[f"{way}_s_axi_control_{channel}{name}"] = wire[:address_bits] if name == "addr" else wire
    return pins | {"i_s_axi_control_awprot": Constant(0, 3), "i_s_axi_control_arprot": Constant(0, 3)}


class ToBeats(LiteXModule):
    """Words of memory to beats; what fills up a frame's last word is dropped, TLAST is made."""

    def __init__(self, port: dict) -> None:
        size = port["beats"] * beat_bytes(port)
        whole = -(-size // 4) * 4
        self.bytes = stream.Converter(32, 8)
        self.beats = stream.Converter(8, 8 * beat_bytes(port))
        self.sink, self.source = self.bytes.sink, self.beats.source
        count, inside = Signal(max=whole + 1), Signal()
        self.comb += [
            inside.eq(count < size),
            self.beats.sink.data.eq(self.bytes.source.data),
            self.beats.sink.valid.eq(self.bytes.source.valid & inside),
            self.beats.sink.last.eq(count == size - 1),
            self.bytes.source.ready.eq(self.beats.sink.ready | ~inside),
        ]
        moved = If(count == whole - 1, count.eq(0)).Else(count.eq(count + 1))
        self.sync += If(self.bytes.source.valid & self.bytes.source.ready, moved)


class FromBeats(LiteXModule):
    """Beats to words of memory; a frame begins a new word."""

    def __init__(self, port: dict) -> None:
        self.bytes = stream.Converter(8 * beat_bytes(port), 8)
        self.words = stream.Converter(8, 32)
        self.comb += self.bytes.source.connect(self.words.sink)
        self.sink, self.source = self.bytes.sink, self.words.source


class Clock(LiteXModule):
    """The board's clock, and a reset in the first cycles."""

    def __init__(self, platform) -> None:
        self.cd_sys = ClockDomain()
        self.cd_start = ClockDomain(reset_less=True)
        wait = Signal(5, reset=31)
        clock = platform.request("clk25")
        platform.add_period_constraint(clock, 1e9 / CLOCK)
        self.comb += [self.cd_sys.clk.eq(clock), self.cd_start.clk.eq(clock), self.cd_sys.rst.eq(wait != 0)]
        self.sync.start += If(wait != 0, wait.eq(wait - 1))


class Soc(SoCMini):
    """UARTBone, memory for frames, two DMAs, the accelerator."""

    def __init__(self, platform, build: Path, baud: int) -> None:
        self.crg = Clock(platform)
        super().__init__(platform, clk_freq=CLOCK, ident="tcompile", ident_version=False)
        self.add_uartbone(baudrate=baud)
        self.add_ram("frames", origin=FRAMES, size=MOST_FRAMES_BYTES)
        layout = json.loads((build / "host" / "layout.json").read_text(encoding="utf-8"))
        (taken,), (given,) = layout["inputs"], layout["outputs"]
        self.accelerator = Accelerator(platform, build)
        self.bus.add_slave(
            "accelerator", self.accelerator.control, SoCRegion(origin=REGISTERS, size=0x1000, cached=False)
        )
        self.reader = WishboneDMAReader(self.master("reader"), endianness="big", with_csr=True)
        self.writer = WishboneDMAWriter(self.master("writer"), endianness="big", with_csr=True)
        self.to_beats, self.from_beats = ToBeats(taken), FromBeats(given)
        self.comb += [
            self.reader.source.connect(self.to_beats.sink, omit={"last"}),
            self.to_beats.source.connect(self.accelerator.sinks[taken["name"]]),
            self.accelerator.sources[given["name"]].connect(self.from_beats.sink),
            self.from_beats.source.connect(self.writer.sink, omit={"last"}),
        ]

    def master(self, name: str) -> wishbone.Interface:
        """A new master of the bus."""
        port = wishbone.Interface(data_width=32, address_width=32, addressing="word")
        self.bus.add_master(name=name, master=port)
        return port


def main() -> None:
    """Write the SoC of a build directory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "folder", type=Path, help="build directory of tcompile, of a network with one input and one output"
    )
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--baud", type=int, default=1_000_000)
    parser.add_argument("--build", action="store_true", help="run synthesis, place and route")
    given = parser.parse_args()
    platform = LatticePlatform("LFE5U-85F-6BG381C", IO, toolchain="trellis")
    soc = Soc(platform, given.folder, given.baud)
    builder = Builder(
        soc, output_dir=str(given.output), csr_json=str(given.output / "csr.json"), compile_software=False
    )
    builder.build(run=given.build, build_name="top")


if __name__ == "__main__":
    main()
