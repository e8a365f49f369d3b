"""What is built from a dozen small networks, kept as text: no change of the output goes unseen.

``pytest tests/test_golden_builds.py --update-golden`` writes it anew; the difference is then part of the change.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import onnx
import pytest

import tcompile
from tcompile.ir.graph import Graph, Tensor
from tests.models import Net, typed

KEPT_WHOLE = 40  # elements; larger arrays by digest
IGNORED_PARTS = ("options", "tools", "performance", "verification", "synthesis")
IGNORED = {"name", "inputs", "type", "origin"}


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def conv_chain(net: Net) -> list[str]:
    """Padding with a zero point, stride, dilation, groups; batch normalization, pools, scales per channel."""
    x = net.dq(net.input((1, 4, 9, 9)), 0.25, 7)
    weight = net.weight(rng(1).integers(-1, 2, (6, 2, 3, 3)), [0.5, 0.25, 1, 2, 0.125, 0.5])
    y = net.op("Conv", x, weight, group=2, pads=[1, 1, 1, 1], strides=[2, 2])
    norm = [net.const(v) for v in ([1, -2, 0.5, 1, 0, 3], [1, 2, 3, 4, 5, -6], [0.5] * 6, [2.0] * 6)]
    y = net.qdq(net.op("Relu", net.op("BatchNormalization", y, *norm)), 0.5)
    y = net.op("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2], pads=[0, 0, 1, 1])
    y = net.op("Conv", y, net.weight(rng(2).integers(-7, 8, (3, 6, 2, 2)), 0.125, "int4"), dilations=[2, 2])
    return [net.q(net.op("Add", y, net.const(np.array([1.5, -2, 0.25]).reshape(3, 1, 1))), 0.75, 100)]


def odd_scales(net: Net) -> list[str]:
    """Scales that round: risks with their margins."""
    x = net.qdq(net.input((1, 24), "float32"), 0.0371, 3)
    y = net.op(
        "Gemm", x, net.weight(rng(3).integers(-127, 128, (5, 24)), 0.0113), net.const(rng(4).normal(size=5)), transB=1
    )
    return [net.dq(net.q(y, 0.31, 128), 0.31, 128)]


def branches(net: Net) -> list[str]:
    """Two scales meet; average; a table; the largest index."""
    x = net.dq(net.input((1, 3, 4, 4)), 0.5, 10)
    y = net.qdq(net.op("Mul", x, net.const(0.375)), 0.3125, 4)
    z = net.qdq(net.op("Add", x, y), 0.75, 20)
    z = net.qdq(net.op("AveragePool", z, kernel_shape=[2, 2], strides=[2, 2]), 0.75, 21)
    z = net.qdq(net.op("Sub", net.op("GlobalAveragePool", z), net.const(3.0)), 0.25, 99)
    return [net.op("ArgMax", net.op("Flatten", z), axis=1, keepdims=0)]


def layouts(net: Net) -> list[str]:
    """Concatenation of equal and of other grids, slices, padding on the grid, transposition."""
    a, b = net.dq(net.input((1, 2, 4, 4)), 0.5, 1), net.dq(net.input((1, 2, 4, 4)), 0.5, 1)
    c = net.dq(net.input((1, 1, 4, 4)), 0.25)
    joined = net.qdq(net.op("Concat", net.op("Concat", a, b, axis=1), c, axis=1), 0.5, 2)
    ints = [net.const(v, "int64") for v in ([1, 3], [4, 0], [1, 3], [2, -1])]
    cut = net.op("Slice", joined, *ints)
    padded = net.op("Pad", cut, net.const([0, 1, 0, 0, 0, 0, 0, 1], "int64"), net.const(1.5))
    return [net.q(net.op("Transpose", padded, perm=[0, 2, 3, 1]), 1.0, 3)]


def bits(net: Net) -> list[str]:
    """Few and many bits, signed codes, a step function that falls and rises."""
    x = net.dq(net.input((1, 6), "int8"), 0.5, -3, "int8")
    y = net.op("MatMul", x, net.weight(rng(5).integers(-2, 2, (6, 4)), 0.25, "int2", axis=1))
    y = net.dq(net.q(net.op("Abs", y), 1.0, 0, "uint8"), 1.0)
    y = net.op("MatMul", y, net.weight(rng(6).integers(-100, 100, (4, 3)), 0.5, axis=1))
    y = net.op("Clip", net.op("Neg", y), net.const(-20.0), net.const(300.0))
    return [net.q(net.op("Div", y, net.const([3.0, -7.0, 0.5])), 1.0, 0, "int8")]


def float_network(net: Net) -> list[str]:
    """Floating point, for the passes."""
    x = net.input((1, 3, 8, 8), "float32")
    y = net.op("Conv", x, net.const(rng(7).normal(size=(12, 3, 3, 3))), net.const(rng(8).normal(size=12)), pads=[1] * 4)
    y = net.op("Relu", net.op("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2]))
    z = net.op("Conv", y, net.const(rng(9).normal(size=(12, 12, 3, 3))), pads=[1] * 4)
    y = net.op("Relu", net.op("Add", y, z))
    y = net.op("Flatten", net.op("GlobalAveragePool", y))
    return [
        net.op(
            "Softmax",
            net.op("Gemm", y, net.const(rng(10).normal(size=(12, 5))), net.const(rng(11).normal(size=5))),
            axis=1,
        )
    ]


NETWORKS: dict[str, Callable[[Net], list[str]]] = {
    f.__name__: f for f in (conv_chain, odd_scales, branches, layouts, bits)
}
RECIPES: dict[str, dict[str, Any]] = {
    "sws-1": {"ternary": "sws", "prune": "tile:0.3", "pe": 4, "simd": 4},
    "sws-3": {"ternary": "sws:3", "act_bits": 4},
    "csd-2": {"weights": "csd:2", "act_bits": 5, "prune": "tile:0.5", "pe": 5, "simd": 2},
}


def plain(value: Any) -> Any:
    """A field of a node as JSON; long arrays by digest."""
    if isinstance(value, Tensor):
        return [value.dtype, *plain(value.array)]
    if isinstance(value, np.ndarray):
        return (
            value.tolist()
            if value.size <= KEPT_WHOLE
            else [list(value.shape), hashlib.sha256(value.tobytes()).hexdigest()[:16]]
        )
    if isinstance(value, tuple):
        return [plain(v) for v in value]
    if hasattr(value, "__dataclass_fields__"):
        return {"is": type(value).__name__, **{f.name: plain(getattr(value, f.name)) for f in fields(value)}}
    return value.item() if isinstance(value, np.generic) else value


def lines(graph: Graph) -> list[str]:
    return [
        f"{n.name} = {n.op}({', '.join(n.inputs)}) : {n.type.shape} {n.type.lo}..{n.type.hi} from {list(n.origin.names)} "
        + json.dumps({f.name: plain(getattr(n, f.name)) for f in fields(n) if f.name not in IGNORED})
        for n in graph
    ]


def text_of(accelerator: tcompile.Accelerator) -> str:
    """The integers and their report, without hardware."""
    compiled = accelerator._built.compiled
    kept = {k: v for k, v in compiled.report.items() if k not in IGNORED_PARTS}
    kept["model"] = {"format": kept["model"]["format"]}
    ports = [plain(p) for p in (*compiled.network.outputs, *compiled.network.probes)]
    nodes = {
        s: [n.op_type for n in m.graph.node]
        for s, m in (("pre", compiled.network.pre), ("post", compiled.network.post))
    }
    rest = json.dumps({"report": kept, "ports": ports, "host": nodes}, indent=1)
    return "\n".join(lines(compiled.network.graph)) + "\n" + rest + "\n"


def built(tmp_path, make: Callable[[Net], list[str]], **options: Any) -> tcompile.Accelerator:
    net = Net()
    path = tmp_path / "model.onnx"
    onnx.save(typed(net.model(*make(net))), path)
    return tcompile.compile(path, **options)


@pytest.mark.parametrize("mode", ["plain", "fused"])
@pytest.mark.parametrize("name", NETWORKS)
def test_integers_and_report_stay_what_they_are(name, mode, tmp_path, golden):
    text = text_of(built(tmp_path, NETWORKS[name], reference=mode))
    assert text == golden(f"{name}.{mode}.txt", text)


@pytest.mark.parametrize("recipe", RECIPES)
def test_passes_stay_what_they_are(recipe, tmp_path, golden):
    frames = rng(12).uniform(-1, 1, (6, 3, 8, 8)).astype(np.float32)
    text = text_of(built(tmp_path, float_network, calib=frames, reference="plain", **RECIPES[recipe]))
    assert text == golden(f"float.{recipe}.txt", text)


@pytest.mark.parametrize("name", NETWORKS)
def test_golden_networks_equal_onnxruntime(name, tmp_path):
    found = built(tmp_path, NETWORKS[name], reference="plain").verify(samples=20, simulator="model")
    assert found.mismatches == 0 and found.integers > 0
