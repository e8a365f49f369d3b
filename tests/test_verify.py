"""Verification: random inputs reach every code, and whatever is wrong is found and located."""

from __future__ import annotations

import importlib
import json
from dataclasses import fields, replace

import numpy as np
import pytest

from tcompile.errors import ModelError, Problem, UsageError
from tcompile.hosts import Port
from tcompile.ir.graph import Tensor, TensorType
from tcompile.ir.integer import Requantize
from tcompile.options import BuildOptions
from tcompile.pipeline import compile_file
from tcompile.reference import Session
from tcompile.verify import Network, frames_of, labels_of, random_inputs, verify
from tests.command import DIGITS
from tests.models import Net, typed

verification = importlib.import_module("tcompile.verify")  # the package's own name is a function's too


@pytest.fixture(scope="module", name="digits")
def _digits() -> Network:
    return compile_file(DIGITS, BuildOptions()).network


def network_of(net: Net, *outputs: str, folder) -> Network:
    (folder / "net.onnx").write_bytes(typed(net.model(*outputs)).SerializeToString())
    return compile_file(folder / "net.onnx", BuildOptions()).network


def codes_of(network: Network, samples: int) -> dict[str, np.ndarray]:
    frames = random_inputs(network, samples)
    before = Session(network.pre)
    return before.frames({i: frames[i] for i in before.inputs})


# random inputs


def test_random_inputs_reach_every_code_evenly(digits):
    (codes,) = codes_of(digits, 100).values()
    values, counts = np.unique(codes, return_counts=True)
    assert values.tolist() == list(range(16))
    assert counts.min() > 0.7 * counts.max()


@pytest.mark.parametrize(
    "dtype, zero", [("uint8", 0), ("uint8", 100), ("int8", -3), ("int4", 2), ("uint2", 1), ("int2", 0)]
)
@pytest.mark.parametrize("scale", [0.1, 3.0])
def test_random_inputs_reach_all_codes_of_any_type(tmp_path, dtype, zero, scale):
    net = Net()
    x = net.qdq(net.input((1, 4, 8, 8), "float32"), scale, zero, dtype)
    y = net.op("Conv", x, net.weight(np.ones((2, 4, 1, 1)), np.float32(0.5)))
    (codes,) = codes_of(network_of(net, y, folder=tmp_path), 64).values()
    bits = int("".join(c for c in dtype if c.isdigit()))
    low = 0 if dtype.startswith("u") else -(1 << bits - 1)
    assert np.unique(codes).tolist() == list(range(low, low + (1 << bits)))


def test_inputs_that_are_codes_already(tmp_path):
    net = Net()
    x = net.dq(net.input((1, 16), "uint8"), 0.25)
    network = network_of(net, net.op("MatMul", x, net.weight(np.ones((16, 2)), np.float32(1), axis=1)), folder=tmp_path)
    frames = random_inputs(network, 200)
    assert frames["in0"].dtype == np.uint8
    assert len(np.unique(frames["in0"])) == 256
    assert verify(network, frames).mismatches == 0


def test_two_inputs_have_ranges_of_their_own(tmp_path):
    net = Net()
    a = net.qdq(net.input((1, 2, 8, 8), "float32"), 0.5, 0, "uint8")
    b = net.qdq(net.input((1, 2, 8, 8), "float32"), 0.5, 3, "int4")
    y = net.q(net.op("Add", a, b), 0.5)
    network = network_of(net, y, folder=tmp_path)
    assert [len(np.unique(c)) for c in codes_of(network, 40).values()] == [256, 16]
    assert verify(network, random_inputs(network, 10)).mismatches == 0


def test_the_seed_decides(digits):
    first, again, other = (random_inputs(digits, 2, seed)["image"] for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


# what is wrong is found


def changed(network: Network, name: str, **fields: object) -> Network:
    graph = network.graph
    nodes = [replace(n, **fields) if n.name == name else n for n in graph]  # type: ignore[arg-type]
    return replace(network, graph=graph.with_nodes(nodes))


def test_the_compiled_network_has_no_mismatch(digits):
    found = verify(digits, random_inputs(digits, 10))
    assert (found.mismatches, found.integers, found.identical_outputs) == (0, 100, 10)
    assert found.located == found.located_other == ()


@pytest.mark.parametrize("name", ["conv1", "conv2", "conv3", "linear"])
def test_a_changed_weight_is_found_in_its_layer_wrong(digits, name):
    weight = digits.graph[name].weight  # type: ignore[attr-defined]
    array = weight.array.copy()
    array[0] = -array[0]
    found = verify(changed(digits, name, weight=Tensor(array, weight.dtype)), random_inputs(digits, 20))
    assert found.mismatches > 0
    assert found.located[0].value == name
    assert found.located[0].accelerator != found.located[0].reference


def test_a_changed_requantizer_is_found_in_its_layer_wrong(digits):
    node = next(n for n in digits.graph if isinstance(n, Requantize) and n.name.startswith("conv2"))
    graph = digits.graph
    other = next(n for n in graph if isinstance(n, Requantize) and n.name.startswith("conv3"))
    found = verify(changed(digits, other.name, form=type(other.form)(**shifted(other))), random_inputs(digits, 20))
    assert found.located[0].value == other.name
    found = verify(changed(digits, node.name, form=type(node.form)(**shifted(node))), random_inputs(digits, 20))
    assert found.located[0].value == node.name


def shifted(node: Requantize) -> dict[str, object]:
    """The fields of a requantizer, its thresholds moved by a few."""
    values = {f.name: getattr(node.form, f.name) for f in fields(node.form)}
    key = next(k for k in ("thresholds", "addend", "offset", "numerator", "table") if k in values)
    values[key] = values[key] + 3 if not isinstance(values[key], tuple) else tuple(v + 3 for v in values[key])
    return values


def test_a_wrong_port_is_found_wrong(digits):
    (port,) = digits.outputs
    scale = tuple(s * 2 for s in port.scale)
    assert verify(replace(digits, outputs=(replace(port, scale=scale),)), random_inputs(digits, 5)).mismatches > 0
    correction = tuple(c + 1 for c in port.correction)
    wrong = verify(replace(digits, outputs=(replace(port, correction=correction),)), random_inputs(digits, 5))
    assert wrong.mismatches == wrong.integers == 50


def test_mismatches_are_counted_by_integers_wrong(digits):
    (port,) = digits.outputs
    correction = (port.correction[0] + 1, *port.correction[1:])
    found = verify(replace(digits, outputs=(replace(port, correction=correction),)), random_inputs(digits, 5))
    assert (found.mismatches, found.integers) == (5, 50)


def test_a_reference_that_does_not_run_is_the_other_one_only(digits, monkeypatch):
    """A failing second reference costs its comparison, not the verification."""
    real = verification.Watch

    def watch(model, mode, wanted):
        if mode == "fused":
            raise ModelError(Problem("reference-refused", "planted"))
        return real(model, mode, wanted)

    monkeypatch.setattr(verification, "Watch", watch)
    found = verify(digits, random_inputs(digits, 2))
    assert (found.mismatches, found.differences_other_reference) == (0, None)


# ports


def test_a_port_reads_sums_back():
    port = Port("v", "t", (), "sums", "float32", 0, 0, (0.5, 0.25), (3, -2), (1.0, 0.0))
    sums = np.array([[[7, -1], [0, 5]]])
    real = (sums - np.array([[3], [-2]])) * np.array([[0.5], [0.25]]) + np.array([[1.0], [0.0]])
    assert np.array_equal(port.decode(real.astype(np.float32)), sums)


def test_a_port_goes_through_json():
    port = Port("v", "t", ("a", "b"), "sums", "float32", 1, 0, (0.1,), (3,), (1.5,))
    assert Port.from_json(json.loads(json.dumps(port.to_json()))) == port


# frames and labels

TYPES = {"x1": TensorType("float32", (1, 3)), "x2": TensorType("uint8", (2, 2))}


def test_frames_of_several_inputs():
    frames = frames_of(TYPES, {"x1": np.zeros((5, 3)), "x2": np.zeros((5, 2, 2), np.int64)})
    assert {name: (a.shape, str(a.dtype)) for name, a in frames.items()} == {
        "x1": ((5, 1, 3), "float32"),
        "x2": ((5, 2, 2), "uint8"),
    }


@pytest.mark.parametrize(
    "arrays, said",
    [
        ({"x": np.zeros((5, 3))}, "must hold 'x1'"),
        ({"x1": np.zeros((5, 3)), "x2": np.zeros((4, 2, 2), np.uint8)}, "same number of frames"),
        ({"x1": np.zeros((5, 3)), "x2": np.zeros((5, 2, 2))}, "must hold uint8"),
        ({"x1": np.zeros((5, 3)), "x2": np.full((5, 2, 2), 256)}, "beyond"),
        ({"x1": np.zeros((5, 3)), "x2": np.full((5, 2, 2), -1)}, "beyond"),
        ({"x1": np.full((5, 3), 1e39), "x2": np.zeros((5, 2, 2), np.uint8)}, "beyond"),
    ],
)
def test_wrong_frames_of_several_inputs(arrays, said):
    with pytest.raises(UsageError, match=said):
        frames_of(TYPES, arrays)


def test_all_wrong_inputs_are_listed():
    with pytest.raises(UsageError) as caught:
        frames_of(TYPES, {"x1": np.zeros((5, 4)), "x2": np.zeros((5, 2, 3), np.uint8)})
    assert len(caught.value.problems) == 2


def test_labels_are_optional():
    assert labels_of({}, 3) is None
    assert labels_of({"y": np.array([[1], [2], [3]])}, 3).tolist() == [1, 2, 3]  # type: ignore[union-attr]
