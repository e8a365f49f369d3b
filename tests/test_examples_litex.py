"""The LiteX example: its SoC fits the accelerator, and the golden frames go through all of it."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import tcompile
from tcompile.simulate.verilator import find_tools
from tests.conftest import ROOT
from tests.models import Net, typed

pytestmark = pytest.mark.long
EXAMPLE = ROOT / "examples" / "litex"


def network() -> onnx.ModelProto:
    """Frames of 27 bytes in, 4 bytes of three-channel positions out: neither fills whole words."""
    net, rng = Net(), np.random.default_rng(3)
    x = net.dq(net.input((1, 3, 3, 3)), 0.5, 3)
    y = net.op("Conv", x, net.weight(rng.integers(-1, 2, (3, 3, 3, 3)), 0.5, "int2"))
    return typed(net.model(net.q(y, 1.7, 100)))


@pytest.fixture(name="build", scope="module")
def _build(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("litex")
    onnx.save(network(), folder / "model.onnx")
    tcompile.compile(folder / "model.onnx", pe=2, simd=1).write(folder / "build")
    return folder / "build"


def example(name: str, *words: object) -> subprocess.CompletedProcess[str]:
    """One of the example's programs in a process of its own; LiteX warns of Python's deprecations."""
    command = [sys.executable, EXAMPLE / name, *map(str, words)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(name="soc", scope="module")
def _soc(build) -> Path:
    for name in ("litex", "migen"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not here: pip install litex")
    done = example("soc.py", build, "-o", build.parent / "soc", "--baud", 3_125_000)
    assert done.returncode == 0, done.stderr
    return build.parent / "soc"


def complaints(build: Path, top: Path) -> list[str]:
    """What Verilator says of the pins of the accelerator; other warnings are of LiteX's own Verilog."""
    tools = find_tools()
    command = [tools.verilator, "--lint-only", "-Wno-fatal", "-Wall", "--top-module", "top", top]
    command += sorted((build / "rtl").glob("*.v"))
    done = subprocess.run(command, env=tools.environment(), capture_output=True, text=True, check=False)
    assert str(top) in done.stderr  # it was read
    return [n for n in done.stderr.splitlines() if n.startswith("%Error") or "port connection" in n or "-PIN" in n]


@pytest.mark.parametrize(
    "pattern, new",
    [
        (r"\.m_axis_0_tlast", ".m_axis_0_tuser"),
        (r"(\.s_axis_0_tdata\s*\()(.*)\)", r"\1{\2, 1'd0})"),
        (r"\.s_axi_control_bready.*\n", ""),
    ],
)
def test_pins_of_the_accelerator_are_those_of_the_soc(build, soc, tmp_path, pattern, new):
    top = (soc / "gateware" / "top.v").read_text()
    assert complaints(build, soc / "gateware" / "top.v") == []
    wrong, count = re.subn(pattern, new, top)
    assert count == 1
    (tmp_path / "top.v").write_text(wrong)
    assert complaints(build, tmp_path / "top.v") != []


def test_script_reads_all_sources(build, soc):
    script = (soc / "gateware" / "top.ys").read_text()
    assert all(str(p) in script for p in (build / "rtl").glob("*.v"))


@pytest.mark.exhaustive
def test_golden_frames_go_through_the_whole_soc(build, soc):
    if importlib.util.find_spec("cocotb") is None:
        pytest.skip("cocotb is not here: pip install cocotb")
    done = example("simulate.py", build, soc)
    assert done.stdout.splitlines()[-1:] == ["PASS"], done.stdout[-4000:] + done.stderr[-4000:]
    golden = build / "sim" / "golden" / "m_axis_0.bin"
    golden.write_bytes(bytes([golden.read_bytes()[0] ^ 1]) + golden.read_bytes()[1:])
    done = example("simulate.py", build, soc)
    assert done.returncode != 0
    assert done.stdout.splitlines()[-1:] == ["FAIL"]
