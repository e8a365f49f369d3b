"""Emitted Verilog in other people's tools: nothing multiplies, nothing is warned of, and simulated it computes right."""

from __future__ import annotations

import os
import pkgutil
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from inspect import isabstract
from pathlib import Path

import numpy as np
import pytest

import hw
import tcompile
from hw.block import Block, pack
from hw.engine import Engine
from hw.quotient import Quotient
from tcompile.emit.top import rtl_files
from tcompile.ir.graph import Graph, Tensor
from tcompile.ir.integer import Input
from tcompile.ir.interpret import interpret
from tcompile.ir.requantizers import Comparators, Division, Shift, Table
from tcompile.mapping.design import Design, Edge
from tcompile.mapping.folding import Folding, Wish
from tcompile.mapping.network import map_network
from tcompile.mapping.plan import Choice, labels
from tcompile.simulate.netlist import RESET_CYCLES, netlist
from tcompile.simulate.verilator import find_tools
from tests.command import DIGITS
from tests.networks import Builder
from tests.yosys import COARSE, INFERENCE, SYNTHESIS, cells, dsp_blocks, multipliers

TOP = "tcompile_top"
FRAMES = 3
BOTH = pytest.mark.parametrize("name", ["blocks", "digits"])


def every_block() -> Graph:
    """A network that needs every kind of block: residual, grouped, pooled, cut, padded; INT8 weights at first."""
    rng = np.random.default_rng(5)
    b = Builder()
    x = b.input((1, 2, 4, 4), 0, 7)
    t = b.requantize(x, Table(np.array([0]), (rng.integers(0, 4, 8),)))
    a = b.conv(t, rng.integers(-128, 128, (4, 2, 3, 3)), pads=(1,) * 4)
    a = b.requantize(a, corrected_division())
    d = b.conv(a, rng.integers(-1, 2, (4, 1, 2, 2)), pads=(1, 1, 0, 0), group=4)
    d = b.requantize(d, Shift(np.array(False), 5, rng.integers(-9, 9, 4), "up", *np.array([[0], [3]]), np.arange(2, 6)))
    g = b.conv(d, rng.integers(-1, 2, (4, 2, 1, 2)), pads=(0, 1, 0, 0), group=2)
    s = b.add_scaled(g, a, (3, -5))
    thresholds = tuple(np.sort(rng.integers(-30, 20, 3)) for _ in range(4))
    s = b.requantize(s, Comparators(thresholds, (np.arange(4),) * 4))
    c = b.pad(b.concat([s, t], 1), (0, 0, 1, 0, 0, 0, 0, 1), 2)
    e = b.slice(b.pool(c, (2, 2)), (0, 1, 0, 0), (1, 1, 1, 2), (1, 4, 4, 2))
    p = b.pool(e, (2, 1), strides=(2, 1), maximum=False)
    y = b.conv(b.transpose(p, (0, 1, 3, 2)), rng.integers(-1, 2, (3, 4, 1, 1)))
    return b.graph(b.argmax(y, 1), y)


def corrected_division() -> Division:
    """Quotients, rounded to even, of rising and falling numerators, with exceptions in three of four channels."""
    exceptions, corrections = ([0, 350], [], [7], [1]), ([1, 1], [], [1], [1])
    return Division(
        np.array([False, True, False, False]), 3, np.array([-70, 12, 0, 55]), "even", np.zeros(4, int), np.full(4, 6),
        np.array([301, 303, 297, 255]), exceptions=tuple(map(np.array, exceptions)), corrections=tuple(map(np.array, corrections)),
    )  # fmt: skip


@pytest.fixture(name="blocks", scope="module")
def _blocks() -> tuple[Graph, Design]:
    graph = every_block()
    return graph, map_network(graph, mixed(graph)).design


def mixed(graph: Graph) -> Choice:
    """A choice with layers of all three forms."""
    *_, grouped, last = (label for name, label in labels(graph).items() if graph[name].op == "Conv")
    return Choice(2, 4, Folding({grouped: Wish(form="parallel"), last: Wish(form="serial")}))


@pytest.fixture(name="digits", scope="module")
def _digits() -> tcompile.Accelerator:
    return tcompile.compile(DIGITS)


@pytest.fixture(name="rtl", scope="module")
def _rtl(blocks, digits, tmp_path_factory):
    """Folders with Verilog and memories by name of the network."""
    found = {"blocks": rtl_files(blocks[1]), "digits": digits._built.bundle().files}
    return {
        name: written(tmp_path_factory.mktemp(name), {n: c for n, c in files.items() if n.startswith("rtl/")})
        for name, files in found.items()
    }


def written(folder: Path, files) -> Path:
    for name, content in files.items():
        (folder / Path(name).name).write_bytes(content)
    return folder


@pytest.fixture(name="copy")
def _copy(rtl, tmp_path):
    """Copies of the folders, to be changed."""
    return lambda name: shutil.copytree(rtl[name], tmp_path / name)


# --- every kind of block ---------------------------------------------------------------------------------------------


def kinds(cls=Block):
    """All kinds of blocks in the gateware."""
    for module in pkgutil.iter_modules(hw.__path__):
        import_module(f"hw.{module.name}")
    below = {c for s in cls.__subclasses__() for c in (s, *kinds(s))}
    return {c for c in below if c.__module__.startswith("hw.") and not isabstract(c)}


def test_network_has_every_kind_of_block(blocks):
    placed = [i.block for i in blocks[1].instances]
    quotients = [b for b in placed if isinstance(b, Quotient)]
    engines = [b for b in placed if isinstance(b, Engine)]
    assert {type(b) for b in placed} == kinds()
    assert {e.kind for e in engines} == {"dot", "lane", "sum", "max"}
    assert {e.passes for e in engines} >= {1, 4}
    assert any(q.exceptions for q in quotients) and any(q.shifts for q in quotients)


# --- multiplication --------------------------------------------------------------------------------------------------


@BOTH
def test_nothing_multiplies_before_mapping(rtl, name):
    found = cells(rtl[name], TOP, COARSE)
    assert found["$add"] > 20
    assert multipliers(found) == {}


@pytest.mark.parametrize("operator, kind", [("*", "$mul"), ("/", "$div"), ("%", "$mod"), ("**", "$pow")])
def test_planted_operator_is_found_wrong(copy, operator, kind):
    folder = copy("blocks")
    planted(folder, operator)
    assert set(multipliers(cells(folder, TOP, COARSE))) == {kind}


@pytest.mark.long
@pytest.mark.exhaustive
@pytest.mark.parametrize("family", SYNTHESIS)
def test_synthesis_takes_no_dsp_block(rtl, family):
    found = cells(rtl["blocks"], TOP, SYNTHESIS[family])
    assert sum(n for kind, n in found.items() if kind.startswith("LUT")) > 500
    assert multipliers(found) == dsp_blocks(found) == {}


@pytest.mark.parametrize("family", INFERENCE)
def test_inference_finds_no_dsp_block(rtl, family):
    """The steps of synthesis that map arithmetic to DSP blocks."""
    found = cells(rtl["digits"], TOP, INFERENCE[family])
    assert found["$alu"] > 50
    assert dsp_blocks(found) == {}


@pytest.mark.parametrize("scripts", [SYNTHESIS, INFERENCE], ids=["synthesis", "inference"])
@pytest.mark.parametrize("family, dsp", [("ecp5", "MULT18X18D"), ("xcup", "DSP48E2")])
def test_planted_product_takes_a_dsp_block_wrong(copy, scripts, family, dsp):
    folder = copy("blocks")
    block = planted(folder, "*")
    for file in folder.glob("*.v"):
        if file.stem != block:
            file.unlink()
    assert dsp_blocks(cells(folder, block, scripts[family])) == {dsp: 1}


def planted(folder: Path, operator: str) -> str:
    """Put an operation on two registers into a block; the name of the block."""
    file = next(iter(sorted(folder.glob("tc_fifo_*.v"))))
    text = file.read_text()
    foreign = f"""
  reg [15:0] planted_a, planted_b;
  (* keep *) reg [31:0] planted;
  always @(posedge clk) begin
    planted_a <= {{planted_a[14:0], rst}};
    planted_b <= planted_b + planted_a;
    planted <= planted_a {operator} planted_b;
  end
endmodule"""
    file.write_text(text.replace("\nendmodule", foreign, 1))
    return file.stem


# --- other readers ---------------------------------------------------------------------------------------------------


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """Everything that Verilator can warn of; the few kinds that generated text is full of are off in the files."""
    tools = find_tools()
    program = tools.root / "bin" / "verilator_bin" if tools.root else tools.verilator
    command = [program, "--lint-only", "-Wall", "--top-module", TOP, *sorted(folder.glob("*.v"))]
    return subprocess.run(command, env=tools.environment(), capture_output=True, text=True, check=False)


@BOTH
def test_verilator_warns_of_nothing(rtl, name):
    done = lint(rtl[name])
    assert (done.stderr, done.returncode) == ("", 0)


@pytest.mark.parametrize(
    "line, warning",
    [
        ("  wire [-1:0] planted;", "ASCRANGE"),
        ("  reg planted = 0;\n  always @(posedge clk) planted <= rst;", "PROCASSINIT"),
        ("  assign planted = rst;", "IMPLICIT"),
    ],
)
def test_planted_fault_is_warned_of_wrong(copy, line, warning):
    folder = copy("blocks")
    file = next(iter(sorted(folder.glob("tc_fifo_*.v"))))
    file.write_text(file.read_text().replace("\nendmodule", f"\n{line}\nendmodule", 1))
    done = lint(folder)
    assert done.returncode != 0
    assert warning in done.stderr


@BOTH
def test_only_documented_warnings_are_off(rtl, name):
    files = [f.read_text() for f in rtl[name].glob("*.v")]
    found = {w for text in files for w in re.findall(r"verilator lint_off (\w+)", text)}
    assert found == {"DECLFILENAME", "UNSIGNED", "UNUSEDSIGNAL", "WIDTH"}


def icarus(folder: Path, top: str, program: Path, *more: Path) -> subprocess.CompletedProcess[str]:
    if shutil.which("iverilog") is None:
        pytest.skip("iverilog is not on this machine")
    command = ["iverilog", "-g2001", "-Wall", "-s", top, "-o", program, *sorted(folder.glob("*.v")), *more]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@BOTH
def test_icarus_takes_it_as_verilog_2001(rtl, name, tmp_path):
    done = icarus(rtl[name], TOP, tmp_path / "program")
    assert (done.stdout + done.stderr, done.returncode) == ("", 0)


def test_icarus_computes_what_the_interpreter_does(rtl, blocks, tmp_path):
    assert simulated(rtl["blocks"], *blocks, tmp_path) == "PASS"


@pytest.mark.parametrize("after", [3, 40, 200, 531])
def test_icarus_computes_the_same_after_a_reset_within_a_frame(rtl, blocks, after, tmp_path):
    assert simulated(rtl["blocks"], *blocks, tmp_path, after, 2 * RESET_CYCLES) == "PASS"


def test_icarus_loses_beats_where_a_reset_is_too_short_wrong(rtl, blocks, tmp_path):
    """The ports take beats until the reset has reached them."""
    assert simulated(rtl["blocks"], *blocks, tmp_path, 40, 1).startswith("FAIL")


def test_icarus_with_another_weight_wrong(copy, blocks, tmp_path):
    folder = copy("blocks")
    for memory in folder.glob("*_weights.mem"):
        words = [f"{int(word, 16) ^ 1:x}" for word in memory.read_text().split()]
        memory.write_text("\n".join(words))
    assert simulated(folder, *blocks, tmp_path).startswith("FAIL")


def simulated(folder: Path, graph: Graph, design: Design, place: Path, after: int = 0, held: int = 0) -> str:
    """What a bench in Verilog says of random frames: an unknown bit is a fault. A reset of some cycles may make it begin anew."""
    generator = np.random.default_rng(0)
    codes = {n.name: generator.integers(n.type.lo, n.type.hi + 1, (FRAMES, *n.type.shape)) for n in graph.all(Input)}
    values = {**codes, **interpret(graph, codes)}
    for side, edges in (("s_axis", design.inputs), ("m_axis", design.outputs)):
        for edge in edges:
            hexadecimal(place / f"{side}_{edge.port}.hex", design, edge, values[edge.value])
            hexadecimal(place / f"{side}_{edge.port}_mask.hex", design, edge, np.full_like(values[edge.value], -1))
    (place / "bench.v").write_text(bench(design, after, held))
    built = icarus(folder, "bench", place / "program", place / "bench.v")
    assert built.returncode == 0, built.stdout + built.stderr
    for memory in folder.glob("*.mem"):
        shutil.copy(memory, place)
    done = subprocess.run(["vvp", "-n", "program"], cwd=place, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.strip()


def hexadecimal(path: Path, design: Design, edge: Edge, frames: np.ndarray) -> None:
    bus = design.streams[edge.stream].bus
    path.write_text("".join(f"{pack(row, bus.width):x}\n" for row in edge.layout.to_beats(frames, bus)))


def bench(design: Design, after: int, held: int) -> str:
    """A bench that sends, compares where a beat means something, and counts."""
    pins = [p for p in netlist(design, (0,) * 8).pins if p.name not in ("ap_clk", "ap_rst_n")]
    wires = "".join(f"  wire [{p.width - 1}:0] {p.name};\n" for p in pins)
    ties = "".join(f"  assign {p.name} = 0;\n" for p in pins if "control" in p.name and p.way == "input")
    ports = "".join(f", .{p.name}({p.name})" for p in pins)
    sides = [source(f"s_axis_{e.port}", e, design) for e in design.inputs]
    sides += [sink(f"m_axis_{e.port}", e, design) for e in design.outputs]
    done = " && ".join(f"m_axis_{e.port}_at == {FRAMES * design.streams[e.stream].beats}" for e in design.outputs)
    return f"""module bench;
  reg ap_clk, ap_rst_n;
  integer faults, cycles;
  initial begin ap_clk = 0; ap_rst_n = 0; faults = 0; cycles = 0; #6 ap_rst_n = 1; #{2 * after} ap_rst_n = {int(held == 0)}; #{2 * held} ap_rst_n = 1; end
  always #1 ap_clk = ~ap_clk;
{wires}{ties}  {TOP} dut (.ap_clk(ap_clk), .ap_rst_n(ap_rst_n){ports});
{"".join(sides)}  always @(posedge ap_clk) begin
    cycles <= cycles + 1;
    if ({done} && faults == 0) $display("PASS");
    else if ({done} || cycles > 50000) $display("FAIL: %0d faults, %0d cycles", faults, cycles);
    if ({done} || cycles > 50000) $finish;
  end
endmodule
"""


def source(port: str, edge: Edge, design: Design) -> str:
    beats, bits = design.streams[edge.stream].beats, design.streams[edge.stream].bus.bits
    return f"""  reg [{bits - 1}:0] {port}_mem [0:{FRAMES * beats - 1}];
  integer {port}_at;
  initial begin $readmemh("{port}.hex", {port}_mem); {port}_at = 0; end
  assign {port}_tvalid = ap_rst_n && {port}_at < {FRAMES * beats};
  assign {port}_tdata = {port}_mem[{port}_at];
  assign {port}_tlast = {port}_at % {beats} == {beats - 1};
  always @(posedge ap_clk) {port}_at <= ap_rst_n ? {port}_at + ({port}_tvalid && {port}_tready) : 0;
"""


def sink(port: str, edge: Edge, design: Design) -> str:
    beats, bits = design.streams[edge.stream].beats, design.streams[edge.stream].bus.bits
    return f"""  reg [{bits - 1}:0] {port}_mem [0:{FRAMES * beats - 1}];
  reg [{bits - 1}:0] {port}_mask [0:{FRAMES * beats - 1}];
  integer {port}_at;
  initial begin $readmemh("{port}.hex", {port}_mem); $readmemh("{port}_mask.hex", {port}_mask); {port}_at = 0; end
  assign {port}_tready = ap_rst_n;
  always @(posedge ap_clk) if (!ap_rst_n) {port}_at <= 0; else if ({port}_tvalid !== 0) begin
    if (({port}_tdata & {port}_mask[{port}_at]) !== {port}_mem[{port}_at] & {port}_mask[{port}_at]) faults <= faults + 1;
    {port}_at <= {port}_at + 1;
  end
"""


# --- memories --------------------------------------------------------------------------------------------------------

ROM = re.compile(
    r"tc_rom #\(\s*\.WIDTH\((\d+)\),\s*\.DEPTH\((\d+)\),\s*\.ADDR\((\d+)\),\s*\.FILE\(\{MEM_DIR, \"([\w.]+)\"\}\)"
)


def memory_faults(folder: Path) -> list[str]:
    """What is wrong between the memories of a top level and their files."""
    found = []
    roms = ROM.findall((folder / f"{TOP}.v").read_text())
    for width, depth, address, file in roms:
        words = (folder / file).read_text().split()
        if len(words) != int(depth) or int(depth) > 1 << int(address):
            found.append(f"{file} has {len(words)} words of {depth}")
        if any(int(word, 16) >> int(width) for word in words):
            found.append(f"{file} has words of more than {width} bits")
    return found + sorted({p.name for p in folder.glob("*.mem")} ^ {file for *_, file in roms})


@BOTH
def test_memory_files_fit_their_memories(rtl, name):
    top = (rtl[name] / f"{TOP}.v").read_text()
    assert len(ROM.findall(top)) == top.count("tc_rom") > 5
    assert memory_faults(rtl[name]) == []


@pytest.mark.parametrize("change", [lambda w: [*w, "0"], lambda w: w[1:], lambda w: ["f" + w[0], *w[1:]]])
def test_memory_files_that_do_not_fit_wrong(copy, change):
    folder = copy("blocks")
    memory = next(iter(sorted(folder.glob("*_schedule.mem"))))
    memory.write_text("\n".join(change(memory.read_text().split())))
    assert len(memory_faults(folder)) == 1


# --- the same bytes --------------------------------------------------------------------------------------------------

DIGEST = """
import sys, tcompile
print(tcompile.compile(sys.argv[1])._built.bundle().digest)
"""


@pytest.mark.parametrize("seed", ["0", "1"])
def test_two_builds_are_identical(digits, seed, tmp_path):
    """In processes of other hash seeds, from other folders."""
    model = shutil.copy(DIGITS, tmp_path)
    env = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(tcompile.__file__).parent.parent)}
    command = [sys.executable, "-c", DIGEST, model]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == digits._built.bundle().digest


def test_other_weights_are_another_build_wrong(blocks):
    graph, design = blocks
    nodes = [replace(n, weight=Tensor.of(-n.weight.array)) if n.op == "Conv" else n for n in graph]
    networks = every_block(), replace(graph, nodes=tuple(nodes))
    same, other = (map_network(g, mixed(g)).design for g in networks)
    assert rtl_files(same) == rtl_files(design) != rtl_files(other)
