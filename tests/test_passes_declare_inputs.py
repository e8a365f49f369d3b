"""Inputs declared as integers: the network computes the same, and becomes integers."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from tcompile import reference
from tcompile.errors import UsageError
from tcompile.frontend.export import export
from tcompile.frontend.importer import import_model
from tcompile.frontend.normalize import normalize
from tcompile.passes import DeclareInputs
from tests.command import tcompile


@pytest.fixture(name="integers")
def _integers():
    """A convolution of integers, as NEMO writes it: floats, and a division that rounds towards zero."""
    rng = np.random.default_rng(0)
    constants = {
        "w": rng.integers(-50, 60, (4, 2, 3, 3)).astype(np.float32), "k": np.full((1, 4, 1, 1), 11, np.float32),
        "d": np.array(1 << 8, np.int64), "low": np.float32(0), "high": np.float32(255),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "conv", pads=[1] * 4),
        helper.make_node("Mul", ["a", "k"], ["b"], "mul"),
        helper.make_node("Cast", ["b"], ["c"], "cast", to=TensorProto.INT64),
        helper.make_node("Div", ["c", "d"], ["e"], "div"),
        helper.make_node("Cast", ["e"], ["f"], "back", to=TensorProto.FLOAT),
        helper.make_node("Clip", ["f", "low", "high"], ["y"], "clip"),
    ]
    graph = helper.make_graph(
        nodes, "nemo",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 5, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 5, 5])],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_declared_input_changes_no_integer(integers):
    graph = import_model(normalize(integers))
    declared = DeclareInputs({"x": "uint8"}).run(graph)
    x = np.random.default_rng(1).integers(0, 256, (1, 2, 5, 5)).astype(np.float32)
    (wanted,), (found,) = (reference.run(m, {"x": x}).values() for m in (integers, export(declared.graph)))
    assert declared.changed and np.array_equal(found, wanted)


def test_a_network_of_integers_compiles_and_verifies(integers, tmp_path):
    (tmp_path / "nemo.onnx").write_bytes(integers.SerializeToString())
    without = tcompile("check", tmp_path / "nemo.onnx")
    assert without.code == 2 and "--input-type x=uint8" in without.err
    assert tcompile("build", tmp_path / "nemo.onnx", "--input-type", "x=uint8", "-o", tmp_path / "b", "-q").code == 0
    found = tcompile("verify", tmp_path / "b", "--simulator", "model", "--samples", 20, "--json")
    assert found.code == 0 and found.json["verification"]["mismatches"] == 0


@pytest.mark.parametrize("types", [{"nothing": "uint8"}])
def test_an_unknown_input_wrong(integers, types):
    with pytest.raises(UsageError, match="must have an input 'nothing'"):
        DeclareInputs(types).run(import_model(normalize(integers)))


@pytest.mark.parametrize("text", ["uint8", "x=float", "=uint8"])
def test_a_wrong_type_is_told(integers, tmp_path, text):
    (tmp_path / "nemo.onnx").write_bytes(integers.SerializeToString())
    assert tcompile("check", tmp_path / "nemo.onnx", "--input-type", text).code == 2
