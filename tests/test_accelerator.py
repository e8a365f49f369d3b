"""The Python interface: compile, verify, write."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

import tcompile
from tcompile.accelerator import build_options
from tcompile.errors import ModelError, UsageError
from tcompile.options import BuildOptions
from tests.command import DIGITS, DIGITS_DATA
from tests.models import Net, typed


@pytest.fixture(scope="module", name="data")
def _data() -> dict[str, np.ndarray]:
    with np.load(DIGITS_DATA) as archive:
        return {"x": archive["x_test"], "y": archive["y_test"].astype(np.int64)}


@pytest.fixture(name="acc")
def _acc() -> tcompile.Accelerator:
    return tcompile.compile(DIGITS)


def test_the_example_of_the_package_runs(tmp_path, monkeypatch, data):
    (tmp_path / "model.onnx").write_bytes(DIGITS.read_bytes())
    monkeypatch.chdir(tmp_path)
    example = re.search(r"::\n\n((?:    .*\n|\n)+)", tcompile.__doc__)
    assert example is not None
    code = "\n".join(line[4:] for line in example[1].splitlines())
    assert code.count("acc.") == 2
    names = {"x": data["x"][:20], "y": data["y"][:20]}
    exec(code, names)
    report = json.loads((tmp_path / "build" / "report.json").read_text())
    assert report == names["acc"].report  # type: ignore[attr-defined]
    assert report["verification"]["samples"] == 20


def test_verification_is_returned_and_entered(acc, data):
    assert acc.report["verification"]["samples"] is None
    found = acc.verify(data["x"], data["y"], simulator="model")
    assert found.mismatches == 0
    assert found.integers == 10 * len(data["x"])
    assert found.identical_outputs == found.samples == len(data["x"])
    assert found.accuracy == found.accuracy_reference == acc.report["verification"]["accuracy"] >= 0.95


def test_frames_by_name_and_at_random(acc, data):
    assert acc.verify({"image": data["x"][:3]}, simulator="model").samples == 3
    first, second = (acc.verify(samples=5, seed=3, simulator="model") for _ in range(2))
    assert first == second
    assert acc.verify(simulator="model").samples == 16


def test_what_is_written_passes_verification_again(acc, tmp_path):
    acc.write(tmp_path / "build")
    with pytest.raises(UsageError, match="must not exist"):
        acc.write(tmp_path / "build")
    acc.write(str(tmp_path / "build"), force=True)
    report = json.loads((tmp_path / "build" / "report.json").read_text())
    assert report == acc.report


def test_the_two_ways_write_the_same_bytes(acc, tmp_path):
    from tests.command import tcompile as command
    from tests.command import tree

    acc.write(tmp_path / "a")
    assert command("build", DIGITS, "-o", tmp_path / "b", "-q").code == 0
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def float_net(tmp_path):
    net = Net()
    weight = net.const(np.random.default_rng(0).normal(size=(8, 4)))
    (tmp_path / "float.onnx").write_bytes(
        typed(net.model(net.op("MatMul", net.input((1, 8), "float32"), weight))).SerializeToString()
    )
    return tmp_path / "float.onnx"


def test_calibration_as_array_mapping_and_file(tmp_path):
    x = np.random.default_rng(1).normal(size=(32, 8)).astype(np.float32)
    np.savez(tmp_path / "calib.npz", x=x)
    path = float_net(tmp_path)
    reports = [tcompile.compile(path, ternary="sws:2", calib=c).report for c in (x, {"in0": x}, tmp_path / "calib.npz")]
    assert reports[0] == reports[1] == reports[2]
    assert reports[0]["weights"]["count"] > 0


def test_a_float_network_without_compression_is_refused(tmp_path):
    with pytest.raises(ModelError):
        tcompile.compile(float_net(tmp_path))


def test_wrong_calls_raise(acc, tmp_path, data):
    with pytest.raises(UsageError, match="ternry"):
        tcompile.compile(DIGITS, ternry="sws")
    with pytest.raises(UsageError, match="No such file"):
        tcompile.compile(tmp_path / "none.onnx")
    with pytest.raises(UsageError, match="shape"):
        acc.verify(data["x"][:, :, :4], simulator="model")
    with pytest.raises(UsageError, match="labels"):
        acc.verify(data["x"][:4], data["y"][:3], simulator="model")


def test_an_unknown_option_suggests_the_nearest():
    with pytest.raises(UsageError) as caught:
        build_options({"untill_node": "x", "pe": 0})
    assert {p.hint for p in caught.value.problems} == {"is until_node meant?", ""}


@pytest.mark.parametrize(
    "given, terms, digits, ratio",
    [
        ({}, 0, 0, 0.0),
        ({"ternary": "sws"}, 1, 0, 0.0),
        ({"ternary": "sws:4"}, 4, 0, 0.0),
        ({"weights": "csd:3"}, 0, 3, 0.0),
        ({"prune": "tile:0.25"}, 0, 0, 0.25),
        ({"prune": "tile:.5"}, 0, 0, 0.5),
        ({"prune": "tile:0"}, 0, 0, 0.0),
    ],
)
def test_options_are_read(given, terms, digits, ratio):
    options = BuildOptions(**given)
    assert (options.terms, options.digits, options.ratio) == (terms, digits, ratio)
    assert options.compresses == bool(given)
