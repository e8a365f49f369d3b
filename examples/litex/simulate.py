"""The whole SoC of soc.py in Verilator: a host at the serial port sends the golden frames of the build and reads the results.

python examples/litex/soc.py build/digits -o build/litex --baud 3125000
python examples/litex/simulate.py build/digits build/litex          PASS or FAIL
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, FallingEdge

from tcompile.simulate.verilator import find_tools

CYCLES_PER_BIT = 8  # at 3.125 MBaud and 25 MHz
WRITE, READ = 1, 2  # commands of UARTBone: bursts to rising addresses
BURST = 128  # words
PATIENCE = 1000  # looks at whether all results are there


def main() -> None:
    """Build the simulation and run it."""
    from cocotb_tools.runner import get_results, get_runner

    build, soc = (Path(p).resolve() for p in sys.argv[1:3])
    tools = find_tools()
    if tools.root:  # the wheel is not on PATH, and its rules for make lack an option
        os.environ["PATH"] = f"{tools.root / 'bin'}{os.pathsep}{os.environ['PATH']}"
        os.environ["MAKEFLAGS"] = " -- CFG_CXXFLAGS_PCH_I=-include"
    os.environ |= {"TC_BUILD": str(build), "TC_SOC": str(soc)}
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    gateware = soc / "gateware"
    runner = get_runner("verilator")
    runner.build(
        sources=[gateware / "top.v", *sorted((build / "rtl").glob("*.v"))],
        hdl_toplevel="top",
        build_dir=soc / "obj_cocotb",
        build_args=["-Wno-fatal", "-Wno-lint", "-Wno-style", "-O3"],
        timescale=("1ns", "1ps"),
    )
    results = soc / "results.xml"
    try:
        runner.test(
            test_module="simulate",
            hdl_toplevel="top",
            build_dir=soc / "obj_cocotb",
            test_dir=gateware,
            results_xml=str(results),
        )
        tests, failed = get_results(results)
    except SystemExit:  # a test failed
        tests, failed = 1, 1
    passed = tests > 0 and failed == 0
    print("PASS" if passed else "FAIL")
    sys.exit(not passed)


class Host:
    """The host's end of UARTBone."""

    def __init__(self, dut) -> None:
        self.dut = dut
        dut.serial_rx.value = 1

    async def start(self) -> None:
        """Clock, and the end of reset."""
        Clock(self.dut.clk25, 40, "ns").start()
        await ClockCycles(self.dut.clk25, 64)

    async def write(self, address: int, words: list[int]) -> None:
        """Words to memory or registers."""
        for k in range(0, len(words), BURST):
            part = words[k : k + BURST]
            data = b"".join(w.to_bytes(4, "big") for w in part)
            await self._send(bytes([WRITE, len(part)]) + (address // 4 + k).to_bytes(4, "big") + data)

    async def read(self, address: int, count: int = 1) -> list[int]:
        """Words from there."""
        words: list[int] = []
        for k in range(0, count, BURST):
            size = min(BURST, count - k)
            answer = cocotb.start_soon(self._receive(4 * size))
            await self._send(bytes([READ, size]) + (address // 4 + k).to_bytes(4, "big"))
            data = await answer
            words += [int.from_bytes(data[j : j + 4], "big") for j in range(0, len(data), 4)]
        return words

    async def _send(self, data: bytes) -> None:
        for byte in data:
            for bit in (0, *(byte >> k & 1 for k in range(8)), 1):
                self.dut.serial_rx.value = bit
                await ClockCycles(self.dut.clk25, CYCLES_PER_BIT)

    async def _receive(self, count: int) -> bytes:
        data = bytearray()
        for _ in range(count):
            await FallingEdge(self.dut.serial_tx)
            await ClockCycles(self.dut.clk25, CYCLES_PER_BIT + CYCLES_PER_BIT // 2)
            byte = 0
            for k in range(8):
                byte |= int(self.dut.serial_tx.value) << k
                await ClockCycles(self.dut.clk25, CYCLES_PER_BIT)
            data.append(byte)
        return bytes(data)


def words_of(data: bytes, frame: int) -> list[int]:
    """Frames of so many bytes, each filled up to whole words."""
    frames = [data[k : k + frame] for k in range(0, len(data), frame)]
    whole = b"".join(f + bytes(-frame % 4) for f in frames)
    return [int.from_bytes(whole[k : k + 4], "little") for k in range(0, len(whole), 4)]


def meaningful(port: dict, data: bytes) -> list[list[int]]:
    """Elements of each position, without what its last beat has beyond them."""
    size = -(-port["lanes"] * port["bits"] // 8)
    per_position = -(-port["channels"] // port["lanes"])
    beats = [int.from_bytes(data[k : k + size], "little") for k in range(0, len(data), size)]
    elements = [b >> port["bits"] * k & (1 << port["bits"]) - 1 for b in beats for k in range(port["lanes"])]
    step = per_position * port["lanes"]
    return [elements[k : k + port["channels"]] for k in range(0, len(elements), step)]


@cocotb.test()
async def golden_frames(dut):
    """All golden frames through memory, accelerator and memory."""
    build, soc = Path(os.environ["TC_BUILD"]), Path(os.environ["TC_SOC"])
    layout = json.loads((build / "host" / "layout.json").read_text())
    known = json.loads((build / "host" / "registers.json").read_text())
    bus = json.loads((soc / "csr.json").read_text())
    (taken,), (given,) = layout["inputs"], layout["outputs"]
    frame = {p["name"]: p["beats"] * -(-p["lanes"] * p["bits"] // 8) for p in (taken, given)}
    golden = {n: (build / "sim" / "golden" / f"{n}.bin").read_bytes() for n in frame}
    count = len(golden[taken["name"]]) // frame[taken["name"]]
    sent, wanted = (words_of(golden[p["name"]], frame[p["name"]]) for p in (taken, given))
    memory, registers = (bus["memories"][n]["base"] for n in ("frames", "accelerator"))
    results = memory + 4 * len(sent)

    host = Host(dut)
    await host.start()
    rows = {r["name"]: r for r in known["registers"]}
    for name in ("magic", "version", *(f"identity_{k}" for k in range(8))):
        assert await host.read(registers + rows[name]["offset"]) == [rows[name]["reset"]], name
    await host.write(memory, sent)
    for dma, base, words in (("writer", results, wanted), ("reader", memory, sent)):
        await host.write(bus["csr_registers"][f"{dma}_base"]["addr"], [0, base])
        await host.write(bus["csr_registers"][f"{dma}_length"]["addr"], [4 * len(words)])
        await host.write(bus["csr_registers"][f"{dma}_enable"]["addr"], [1])
    for _ in range(PATIENCE):
        if await host.read(bus["csr_registers"]["writer_done"]["addr"]) == [1]:
            break
    else:
        raise AssertionError("not all results came")
    data = b"".join(w.to_bytes(4, "little") for w in await host.read(results, len(wanted)))
    whole = 4 * len(wanted) // count
    found = b"".join(data[k * whole : k * whole + frame[given["name"]]] for k in range(count))
    assert meaningful(given, found) == meaningful(given, golden[given["name"]])
    assert await host.read(registers + rows["input_0_frames"]["offset"]) == [count]
    assert await host.read(registers + rows["output_0_frames"]["offset"]) == [count]
    assert await host.read(registers + rows["status"]["offset"]) == [0]


if __name__ == "__main__":
    main()
