"""The whole board design in Verilator: bytes in at the pin, bytes out at the pin, and the host's driver at the other end."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import tcompile
from hw.axi_lite import MAGIC
from hw.frame_port import ERROR, RESULT, Command, Refusal
from hw.packets import decode, encode
from tcompile.process import running
from tcompile.simulate.verilator import find_tools
from tests.conftest import ROOT
from tests.models import Net, typed

DIGITS = ROOT / "examples" / "digits"
PATIENT = "60"  # seconds; the chip is simulated, perhaps on a busy machine

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(shutil.which("g++") is None or shutil.which("make") is None, reason="needs g++ and make"),
]


@pytest.fixture(scope="module", name="folder")
def _folder(tmp_path_factory) -> Path:
    """The digits network with its board, and the bench of the board built."""
    place = tmp_path_factory.mktemp("board") / "build"
    tcompile.compile(DIGITS / "digits.int2.onnx", board="ulx3s").write(place)
    made = make(place, "build")
    assert made.returncode == 0, made.stdout
    return place


def make(folder: Path, *targets: str) -> subprocess.CompletedProcess[str]:
    tools = find_tools()
    command = [tools.make, "-s", "-C", str(folder / "board" / "sim"), f"VERILATOR={tools.verilator}", *targets]
    return subprocess.run(
        command, env=tools.environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )


def bench(folder: Path, *arguments: str) -> list[str]:
    return [str(folder / "board" / "sim" / "obj_8" / "bench"), *arguments]


def heard(folder: Path, data: bytes, tmp_path: Path) -> tuple[list[bytes | None], dict[str, int]]:
    """Packets that the chip sends for bytes at its pin, and what the bench saw."""
    result = tmp_path / "result.json"
    done = subprocess.run(
        bench(folder, "--result", str(result)), cwd=folder / "rtl", input=data, capture_output=True, check=True
    )
    return decode(done.stdout), json.loads(result.read_text())


@contextmanager
def terminal(folder: Path) -> Iterator[str]:
    """A serial port at which the simulated chip listens."""
    with running(bench(folder, "--pty"), cwd=folder / "rtl", stdout=subprocess.PIPE, text=True) as process:
        yield process.stdout.readline().strip()
        process.terminate()


@pytest.fixture(name="driver")
def _driver(folder, monkeypatch) -> Iterator[Any]:
    """The module serial_frames.py of the build directory."""
    pytest.importorskip("serial", reason="pyserial is missing: python -m pip install pyserial")
    monkeypatch.syspath_prepend(str(folder / "host"))
    yield importlib.import_module("serial_frames")
    for name in ("serial_frames", "pack"):
        sys.modules.pop(name, None)


def chip_at(driver: Any, folder: Path, line: Any) -> Any:
    board, layout = (json.loads((folder / "host" / f"{n}.json").read_text()) for n in ("board", "layout"))
    return driver.Chip(line, board, layout, timeout=float(PATIENT))


@contextmanager
def opened(driver: Any, folder: Path) -> Iterator[Any]:
    import serial

    with terminal(folder) as name, serial.Serial(name, 1_000_000, timeout=0.02) as line:
        yield line


def golden(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "host" / "golden.npz") as data:
        return {name: data[name] for name in data.files}


def frames(folder: Path, driver: Any) -> list[bytes]:
    """Golden frames as packets, numbered from 0."""
    layout = json.loads((folder / "host" / "layout.json").read_text())
    arrays = golden(folder)["s_axis_0"]
    packed = [driver.pack.pack(arrays[k : k + 1], layout["inputs"][0]) for k in range(len(arrays))]
    return [encode(bytes([Command.FRAME, 0, k]) + content) for k, content in enumerate(packed)]


def results(folder: Path, driver: Any, packets: list[bytes | None]) -> np.ndarray:
    layout = json.loads((folder / "host" / "layout.json").read_text())
    bodies = [p[3:] for p in packets if p and p[0] == RESULT]
    return driver.pack.unpack(b"".join(bodies), layout["outputs"][0])


def several_ports(net: Net) -> list[str]:
    """Two inputs that meet, and two outputs that part at the end: none may wait for another."""
    a, b = net.dq(net.input((1, 3, 4, 4)), 0.5, 1), net.dq(net.input((1, 3, 4, 4)), 0.25, 0)
    total = net.qdq(net.op("Add", a, b), 0.5, 2)
    weight = net.weight(np.random.default_rng(1).integers(-7, 8, (5, 3, 3, 3)), 0.125, "int4")
    return [
        net.q(net.op("Conv", total, weight, pads=[1] * 4), 1.0, 100),
        net.q(net.op("Mul", total, net.const(2.0)), 1.0, 3),
    ]


@pytest.mark.exhaustive
def test_a_chip_with_several_ports_passes(tmp_path):
    net = Net()
    onnx.save(typed(net.model(*several_ports(net))), tmp_path / "model.onnx")
    tcompile.compile(tmp_path / "model.onnx", board="ulx3s", reference="plain").write(tmp_path / "build")
    done = make(tmp_path / "build")
    assert done.returncode == 0 and "6 of 6 packets as expected" in done.stdout, done.stdout


# --- bytes at the pins -------------------------------------------------------------------------------------------------


def test_the_bench_of_the_build_directory_passes(folder):
    done = make(folder)
    assert done.returncode == 0 and "PASS: " in done.stdout and "4 of 4 packets" in done.stdout, done.stdout


def test_the_bench_of_the_build_directory_passes_wrong(folder, tmp_path):
    wanted = bytearray((folder / "board" / "sim" / "golden" / "chip.bin").read_bytes())
    wanted[-45] ^= 1
    (tmp_path / "chip.bin").write_bytes(wanted)
    sent = str(folder / "board" / "sim" / "golden" / "host.bin")
    command = bench(folder, "--in", sent, "--expect", str(tmp_path / "chip.bin"))
    done = subprocess.run(command, cwd=folder / "rtl", capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stdout.startswith("FAIL")


@pytest.mark.exhaustive
def test_the_real_speed_of_the_line_passes(folder):
    clocks = json.loads((folder / "host" / "board.json").read_text())["bit_clocks"]
    done = make(folder, f"BIT_CLOCKS={clocks}")
    assert clocks == 100
    assert done.returncode == 0 and "PASS: " in done.stdout, done.stdout


def test_frames_at_the_pin_give_the_golden_integers(folder, driver, tmp_path):
    found, seen = heard(folder, b"".join(frames(folder, driver)), tmp_path)
    assert np.array_equal(results(folder, driver, found), golden(folder)["m_axis_0"])
    assert seen["broken"] == 0


@pytest.mark.parametrize("fault", ["checksum", "lost byte", "byte from nowhere", "half a frame"])
def test_a_fault_is_answered_and_what_follows_is_right(fault, folder, driver, tmp_path):
    sent = frames(folder, driver)
    first = sent[0]
    spoilt = {
        "checksum": first[:-2] + bytes([first[-2] ^ 1]) + first[-1:],
        "lost byte": first[:20] + first[21:],
        "byte from nowhere": b"\x55",
        "half a frame": first[:30],
    }[fault]
    found, seen = heard(folder, spoilt + b"".join(sent), tmp_path)
    assert found[0] == bytes([ERROR, Refusal.CHECKSUM, 0])
    assert np.array_equal(results(folder, driver, found), golden(folder)["m_axis_0"])
    assert seen["led"] & 4


def test_a_fault_is_answered_wrong(folder, driver, tmp_path):
    found, seen = heard(folder, b"".join(frames(folder, driver)), tmp_path)
    assert all(p is not None and p[0] == RESULT for p in found)
    assert not seen["led"] & 4


def test_the_register_map_is_read_through_the_line(folder, tmp_path):
    identity = json.loads((folder / "host" / "board.json").read_text())["identity"]
    asked = b"".join(encode(bytes([Command.READ, offset, 0])) for offset in (0, 0x20, 0x3C))
    found, _ = heard(folder, asked, tmp_path)
    assert [int.from_bytes(p[3:7], "little") for p in found if p] == [MAGIC, identity[0], identity[7]]


def test_lights_show_what_the_host_says(folder, tmp_path):
    _, seen = heard(folder, encode(bytes([Command.SHOW, 21])), tmp_path)
    assert seen["led"] >> 3 == 21


# --- the host's driver -------------------------------------------------------------------------------------------------


def command_line(folder: Path, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        str(folder / "host" / "serial_frames.py"),
        "--port",
        name,
        "--timeout",
        PATIENT,
        *arguments,
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.usefixtures("driver")
def test_digits_are_classified_through_the_line(folder, tmp_path):
    out = tmp_path / "out.npz"
    with terminal(folder) as name:
        done = command_line(
            folder, name, "--inputs", str(DIGITS / "digits.npz"), "--samples", "40", "--output", str(out)
        )
    assert done.returncode == 0, done.stderr
    with np.load(DIGITS / "digits.npz") as data:
        x, y = data["x_test"][:40], data["y_test"][:40]
    wanted = reference(x)
    with np.load(out) as data:
        assert np.array_equal(data[data.files[0]].reshape(wanted.shape), wanted)
    assert np.array_equal(wanted.argmax(axis=1), y)
    assert "accuracy 100.00%, 40 of 40" in done.stdout


def reference(x: np.ndarray) -> np.ndarray:
    """onnxruntime's outputs for the whole file, every node as it stands."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(DIGITS / "digits.int2.onnx", options, providers=["CPUExecutionProvider"])
    entry = session.get_inputs()[0]
    made = [session.run(None, {entry.name: f.reshape(entry.shape)})[0].reshape(-1) for f in x]
    return np.stack(made)


@pytest.mark.exhaustive
@pytest.mark.usefixtures("driver")
def test_all_digits_are_classified_through_the_line(folder, tmp_path):
    with terminal(folder) as name:
        done = command_line(folder, name, "--inputs", str(DIGITS / "digits.npz"))
    assert "accuracy 99.33%, 447 of 450" in done.stdout, done.stderr


@pytest.mark.usefixtures("driver")
def test_one_host_after_the_other(folder):
    with terminal(folder) as name:
        asked = [command_line(folder, name, what) for what in ("--identify", "--golden")]
    assert [(d.returncode, d.stderr) for d in asked] == [(0, ""), (0, "")]
    assert "protocol 1, 0 errors" in asked[0].stdout
    assert asked[1].stdout == "0 of 40 integers of 4 golden frames differ\n"


def test_a_host_that_comes_in_the_middle_of_a_transfer_recovers(folder, driver):
    with opened(driver, folder) as line:
        sent = frames(folder, driver)
        line.write(sent[0] + sent[1] + sent[2][:25])
        line.read(5)  # of a result; whoever sent the frames is gone
        chip = chip_at(driver, folder, line)
        chip.check()
        found = chip.run({"s_axis_0": golden(folder)["s_axis_0"]})
    assert np.array_equal(found["m_axis_0"], golden(folder)["m_axis_0"])
    assert chip.recoveries == 0


class Noisy:
    """A line that spoils every so many bytes, in both ways: turned, lost, doubled, one after the other."""

    def __init__(self, line: Any, to_chip: int, to_host: int) -> None:
        self.line, self.rates, self.counts, self.faults = line, (to_chip, to_host), [0, 0], 0

    @property
    def in_waiting(self) -> int:
        return self.line.in_waiting

    def _spoilt(self, data: bytes, way: int) -> bytes:
        result = bytearray()
        for byte in data:
            self.counts[way] += 1
            act = self.faults % 3 if self.counts[way] % self.rates[way] == 0 else None
            self.faults += act is not None
            result += bytes({None: [byte], 0: [byte ^ 0x10], 1: [], 2: [byte, byte]}[act])
        return bytes(result)

    def write(self, data: bytes) -> None:
        self.line.write(self._spoilt(data, 0))

    def read(self, size: int) -> bytes:
        return self._spoilt(self.line.read(size), 1)


@pytest.mark.parametrize("to_chip, to_host", [(701, 10**9), (10**9, 223), (997, 401)])
def test_whatever_is_lost_on_the_line_all_results_come(to_chip, to_host, folder, driver):
    codes = np.concatenate([golden(folder)["s_axis_0"]] * 6)
    with opened(driver, folder) as line:
        chip = chip_at(driver, folder, Noisy(line, to_chip, to_host))
        chip.timeout = 5.0
        found = chip.run({"s_axis_0": codes})
    assert np.array_equal(found["m_axis_0"], np.concatenate([golden(folder)["m_axis_0"]] * 6))
    assert chip.recoveries > 0


def test_a_chip_of_another_build_is_refused_wrong(folder, driver):
    with opened(driver, folder) as line:
        chip = chip_at(driver, folder, line)
        chip.board["identity"][3] ^= 1
        with pytest.raises(driver.ChipError, match="another build"):
            chip.check()


def test_a_line_without_a_chip_is_refused_wrong(folder, driver):
    class Silent:
        in_waiting = 0

        def write(self, data: bytes) -> None: ...
        def read(self, size: int) -> bytes:
            return b""

    chip = chip_at(driver, folder, Silent())
    chip.timeout = 0.01
    with pytest.raises(driver.ChipError, match="nothing answers"):
        chip.check()


@pytest.mark.usefixtures("driver")
def test_a_port_that_is_none_is_refused_wrong(folder, tmp_path):
    done = command_line(folder, str(tmp_path / "none"), "--identify")
    assert done.returncode == 3 and "must be a serial line" in done.stderr


def test_packets_of_the_driver_are_those_of_the_gateware(driver):
    bodies = [np.random.default_rng(k).bytes(k + 1) for k in range(40)] + [bytes(range(0x70, 0x90))]
    line = b"".join(map(driver.encode, bodies))
    assert line == b"".join(map(encode, bodies))
    spoilt = line[:50] + line[52:200] + b"\x7d" + line[200:]
    assert driver.Decoder().feed(spoilt) == decode(spoilt)
