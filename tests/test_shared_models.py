"""Real trained networks against onnxruntime; the whole test sets run in `make bench`."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import tcompile
from benchmarks import exactness
from tcompile.verify import frames_of, input_types, verify
from tests.conftest import shared_model

SLOW = ("mlperf_resnet_large_int8_qdq.onnx", "mlperf_ad01_int8_qdq.onnx")
LIMITS = {"mlperf_resnet_large_int8_qdq.onnx": 40, "ece_gray96_int8_qdq.onnx": 100, "mlperf_ad01_int8_qdq.onnx": 300}
ACCURACY = {  # of the reference on the whole test set
    "qonnx_tfc_2w2a_ternary.onnx": 0.9660,
    "qonnx_tfc_1w2a.onnx": 0.9479,
    "qonnx_tfc_1w1a.onnx": 0.9317,
    "mlperf_dscnn_int8_qdq.onnx": 0.902,
}


def _data(case: exactness.Case):
    if case.file.startswith("examples"):
        return exactness.DATA
    return shared_model(case.file).parents[1 + case.file.count("/")]


def _cases():
    """Those that take more than half a minute are left to `make test-long`."""
    marks = pytest.mark.long, pytest.mark.exhaustive
    return [pytest.param(c, id=c.title, marks=marks if c.file in SLOW else ()) for c in exactness.CASES]


@pytest.mark.parametrize("case", _cases())
def test_every_output_integer_is_onnxruntimes(case):
    if case.frames is exactness.cifar:
        pytest.importorskip("PIL")
    _, row = exactness.run(case, _data(case), LIMITS.get(case.file, 1000))
    assert row["mismatches"] == 0
    assert row["integers"] > 0
    assert row["accuracy"] == row["accuracy_reference"]


@pytest.mark.parametrize("reference", ["plain", "fused"])
def test_demo_network_is_proved_against_both_references(reference):
    case = next(c for c in exactness.CASES if c.options.get("reference") == reference)
    accelerator, row = exactness.run(case, exactness.DATA)
    assert (row["verdict"], row["mismatches"], row["other_reference"]) == ("proved", 0, 0)
    assert accelerator.report["verification"]["identical_outputs"] == 450


@pytest.mark.parametrize("name", ["cnn_bn.qonnx.onnx", "cnn_bn.qcdq.onnx", "mlp_bn.qonnx.onnx"])
def test_brevitas_out_arrays_decode_to_the_same_integers(name):
    path = shared_model(f"brevitas/{name}")
    arrays = exactness.brevitas(name.split(".")[0])(path.parents[2])
    network = tcompile.compile(path)._built.compiled.network
    from tcompile.ir.interpret import interpret
    from tcompile.reference import Session
    from tcompile.verify import frames_of, input_types

    frames = frames_of(input_types(network), {"x": arrays["x"]})
    codes = Session(network.pre).frames(frames)
    (port,) = network.outputs
    mine = interpret(network.graph, codes)[port.value]
    assert np.array_equal(mine, port.decode(arrays["out"].reshape(mine.shape)))


def test_dscnn_differs_from_plain_in_located_places():
    case = next(c for c in exactness.CASES if "dscnn" in c.file)
    accelerator, row = exactness.run(case, _data(case))
    assert row["accuracy"] == ACCURACY[case.file]
    assert row["other_reference"] > 0
    assert accelerator.report["verification"]["located_other"][0]["node"] == "Conv_0"


def test_planted_wrong_step_is_found():
    case = next(c for c in exactness.CASES if "tfc_2w2a" in c.file)
    compiled = tcompile.compile(case.path(_data(case)))._built.compiled
    graph = compiled.network.graph
    layer = graph["MatMul_20"]
    weight = layer.weight.array.copy()
    weight[0] = -weight[0]
    wrong = dataclasses.replace(layer, weight=dataclasses.replace(layer.weight, array=weight))
    nodes = tuple(wrong if n is layer else n for n in graph)
    network = dataclasses.replace(compiled.network, graph=dataclasses.replace(graph, nodes=nodes))
    x = exactness.mnist_unit(_data(case))["x"][:200]
    found = verify(network, frames_of(input_types(network), {"x": x}))
    assert found.mismatches > 0
    assert found.located[0].value == "MatMul_20"


@pytest.mark.parametrize(
    "name", ["qonnx_tfc_2w2a_ternary.onnx", "qonnx_tfc_1w2a.onnx", "qonnx_tfc_1w1a.onnx", "qonnx_jettagging_6b.onnx"]
)
@pytest.mark.filterwarnings("ignore")
def test_qonnx_executor_agrees(name):
    path = shared_model(name)
    execution = pytest.importorskip("qonnx.core.onnx_exec")
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.transformation.infer_shapes import InferShapes
    from qonnx.util.cleanup import cleanup_model

    from tcompile.reference import Session
    from tcompile.verify import random_inputs

    network = tcompile.compile(path)._built.compiled.network
    frames = random_inputs(network, 5)
    model = cleanup_model(ModelWrapper(str(path))).transform(InferShapes())
    ours = Session(network.reference).frames(frames)
    for k in range(5):
        feeds = {model.graph.input[0].name: next(iter(frames.values()))[k]}
        theirs = execution.execute_onnx(model, feeds)[model.graph.output[0].name]
        mine = next(iter(ours.values()))[k]
        (port,) = network.outputs
        if port.tensor in ours:
            assert np.array_equal(port.decode(mine), port.decode(theirs))
        np.testing.assert_array_almost_equal_nulp(mine, theirs, 64)
