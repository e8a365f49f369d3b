"""A requantizer equals onnxruntime on every sum that can occur, whatever chain of operators it stands for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from tcompile import reference
from tcompile.errors import ModelError
from tcompile.ir import integer as I
from tcompile.lowering import steps as steps_module
from tcompile.lowering.lifted import AccumulatorStart
from tests.models import Net, code_range, integers_of, with_outputs

CHANNELS = 3
ROWS = {"ternary": ("int2", 1), "int4": ("int4", 7), "int8": ("int8", 127)}

smooth = st.floats(0.03125, 3, width=32)
scalars = st.one_of(smooth, smooth.map(lambda x: -x), st.sampled_from([1.0, -1.0, 0.5, 0.75, 2.0, 1 / 3]))
vectors = st.lists(scalars, min_size=CHANNELS, max_size=CHANNELS)
operands = st.one_of(scalars, vectors)


def _constant(net: Net, value: object, rank: int) -> str:
    array = np.float32(value)
    return net.const(array.reshape(-1, *(1,) * (rank - 2)) if array.ndim else array)


def _binary(op: str):
    return lambda net, x, rank, c: net.op(op, x, _constant(net, c, rank))


def _reverse_sub(net: Net, x: str, rank: int, c: object) -> str:
    return net.op("Sub", _constant(net, c, rank), x)


def _batch_normalization(net: Net, x: str, rank: int, c: object) -> str:
    values = np.broadcast_to(np.float32(c), CHANNELS)
    parts = (values, values[::-1] / 3, -values / 2, np.abs(values) + np.float32(0.1))
    return net.op("BatchNormalization", x, *map(net.const, parts), epsilon=1e-3)


def _clip(net: Net, x: str, rank: int, c: object) -> str:
    low = float(np.min(c))
    return net.op("Clip", x, net.const(low), net.const(low + 2.5))


def _unary(op: str, **attributes: float):
    return lambda net, x, rank, c: net.op(op, x, **attributes)


def _hard_swish(net: Net, x: str, rank: int, c: object) -> str:
    gate = net.op("Clip", net.op("Add", x, net.const(3.0)), net.const(0.0), net.const(6.0))
    return net.op("Div", net.op("Mul", x, gate), net.const(6.0))


def _choice(net: Net, x: str, rank: int, c: object) -> str:
    return net.op("Where", net.op("Greater", x, _constant(net, c, rank)), x, net.op("Neg", x))


OPERATORS = {
    "Add": _binary("Add"), "Sub": _binary("Sub"), "Mul": _binary("Mul"), "Div": _binary("Div"),
    "ReverseSub": _reverse_sub, "BatchNormalization": _batch_normalization, "Relu": _unary("Relu"), "Clip": _clip,
    "LeakyRelu": _unary("LeakyRelu", alpha=0.1), "Sigmoid": _unary("Sigmoid"), "Tanh": _unary("Tanh"),
    "HardSigmoid": _unary("HardSigmoid", alpha=0.2, beta=0.4), "HardSwish": _hard_swish, "Floor": _unary("Floor"),
    "Ceil": _unary("Ceil"), "Round": _unary("Round"), "Abs": _unary("Abs"), "Neg": _unary("Neg"),
    "Sign": _unary("Sign"), "Max": _binary("Max"), "Min": _binary("Min"), "PRelu": _binary("PRelu"),
    "Softsign": _unary("Softsign"), "Elu": _unary("Elu", alpha=0.7), "Erf": _unary("Erf"), "Where": _choice,
}  # fmt: skip


@dataclass(frozen=True)
class End:
    """How a chain becomes codes."""

    kind: str
    scale: float
    zero: int
    dtype: str

    def __call__(self, net: Net, x: str) -> str:
        lo, hi = code_range(self.dtype)
        if self.kind == "quantize":
            return net.q(x, self.scale, self.zero, self.dtype)
        if self.kind == "quantize-clip":
            codes = net.q(x, self.scale, self.zero, self.dtype)
            return net.op("Clip", codes, net.const(lo // 2, self.dtype), net.const(hi // 2, self.dtype))
        scaled = net.op("Round", net.op("Div", x, net.const(self.scale)))
        return net.op(
            "Cast", net.op("Clip", scaled, net.const(lo), net.const(hi)), to={"uint8": 2, "int8": 3}[self.dtype]
        )


@st.composite
def ends(draw):
    kind = draw(st.sampled_from(["quantize", "quantize", "quantize-clip", "round-clip-cast"]))
    packed = ["uint4", "int4", "uint2", "int2"] if kind == "quantize" else []
    dtype = draw(st.sampled_from(["uint8", "int8", *packed]))
    lo, hi = code_range(dtype)
    zero = draw(st.one_of(st.just(0), st.integers(lo, hi)))
    return End(kind, draw(st.floats(0.0078125, 1, width=32)), zero, dtype)


steps = st.lists(st.tuples(st.sampled_from(sorted(OPERATORS)), operands), max_size=5)


@dataclass
class Layer:
    """A Dense or 1x1 Conv on 8-bit codes with a chain behind it; what its sums can be is worked out here."""

    conv: bool
    weight: np.ndarray
    dtype: str
    scale: np.ndarray
    x_scale: float
    zero: int
    chain: list
    end: End

    @property
    def rank(self) -> int:
        return 4 if self.conv else 2

    def whole(self):
        net = Net()
        inputs = self.weight.shape[1]
        x = net.dq(net.input((1, inputs, 2, 3) if self.conv else (1, inputs)), self.x_scale, self.zero)
        if self.conv:
            w = net.weight(self.weight[:, :, None, None], self.scale, self.dtype)
            y = net.op("Conv", x, w)
        else:
            y = net.op("MatMul", x, net.weight(self.weight.T, self.scale, self.dtype, 1))
        return net.model(self.chained(net, y))

    def alone(self, count: int):
        """The chain on floats, in the layout that the file has: channels on axis 1."""
        net = Net()
        x = net.input((1, CHANNELS, count, 1) if self.conv else (count, CHANNELS), "float32")
        y = self.chained(net, x)
        return with_outputs(net.model(y), [y])

    def chained(self, net: Net, x: str) -> str:
        for name, operand in self.chain:
            x = OPERATORS[name](net, x, self.rank, operand)
        return self.end(net, x)

    def sums(self) -> np.ndarray:
        """Every Σ w·q of every channel, as columns; the last repeats where a channel has fewer."""
        low = np.minimum(self.weight, 0).sum(axis=1) * 255
        high = np.maximum(self.weight, 0).sum(axis=1) * 255
        return np.minimum(low + np.arange((high - low).max() + 1)[:, None], high)

    def floats(self, sums: np.ndarray) -> np.ndarray:
        real = (sums - self.zero * self.weight.sum(axis=1)) * (np.float64(self.x_scale) * self.scale.astype(np.float64))
        return real.astype(np.float32)

    def expected(self, sums: np.ndarray) -> np.ndarray:
        floats = self.floats(sums)
        feed = floats.T[None, :, :, None] if self.conv else floats
        codes = next(iter(reference.run(self.alone(len(sums)), {"in0": np.ascontiguousarray(feed)}).values()))
        return (codes[0, :, :, 0].T if self.conv else codes).astype(np.int64)


@st.composite
def layers(draw):
    dtype, largest = ROWS[draw(st.sampled_from(sorted(ROWS)))]
    inputs = draw(st.integers(1, 3 if dtype == "int8" else 9))
    row = st.lists(st.integers(-largest, largest), min_size=inputs, max_size=inputs)
    weight = np.array(draw(st.lists(row, min_size=CHANNELS, max_size=CHANNELS)))
    x_scale = draw(st.sampled_from([2.0**-6, 0.75 / 64, 1 / 100, 0.02]))
    scale = np.float32(draw(st.lists(st.floats(0.0625, 1, width=32), min_size=CHANNELS, max_size=CHANNELS)))
    conv = draw(st.booleans())
    return Layer(
        conv,
        weight,
        dtype,
        scale,
        np.float32(x_scale),
        draw(st.sampled_from([0, 0, 7, 128])),
        draw(steps),
        draw(ends()),
    )


def requantized(layer: Layer, sums: np.ndarray) -> np.ndarray:
    (requantize,) = integers_of(layer.whole())[1].graph.all(I.Requantize)
    return requantize.form(sums, requantize.axis and 1)


@given(layers())
@settings(max_examples=120)
def test_requantizer_equals_onnxruntime_on_every_reachable_sum(layer):
    sums = layer.sums()
    np.testing.assert_array_equal(requantized(layer, sums), layer.expected(sums))


@pytest.mark.parametrize("name", sorted(OPERATORS))
@pytest.mark.parametrize("conv", [False, True], ids=["dense", "conv"])
def test_each_operator_alone(name, conv):
    weight = np.array([[1, -1, 0], [0, 1, 1], [-1, -1, 1]])
    chain = [(name, [0.7, -1.3, 0.4])]
    layer = Layer(
        conv, weight, "int2", np.float32([0.3, 0.5, 0.9]), np.float32(0.02), 3, chain, End("quantize", 0.05, 5, "int8")
    )
    sums = layer.sums()
    np.testing.assert_array_equal(requantized(layer, sums), layer.expected(sums))


def test_each_operator_alone_wrong():
    """Another slope moves a step: the comparison above is able to fail."""
    weight = np.array([[1, -1, 0], [0, 1, 1], [-1, -1, 1]])
    end = End("quantize", 0.05, 5, "int8")
    right, wrong = (
        Layer(False, weight, "int2", np.float32([0.3, 0.5, 0.9]), np.float32(0.02), 3, [("LeakyRelu", 0)], end),
        Layer(False, weight, "int2", np.float32([0.3, 0.5, 0.91]), np.float32(0.02), 3, [("LeakyRelu", 0)], end),
    )
    sums = right.sums()
    assert not np.array_equal(requantized(wrong, sums), right.expected(sums))


MONOTONE = ("Add", "Sub", "Mul", "Div", "ReverseSub", "BatchNormalization", "Relu", "Clip", "LeakyRelu", "Floor", "Neg")
monotone_steps = st.lists(st.tuples(st.sampled_from(MONOTONE), operands), max_size=4)


def lifted_of(layer: Layer):
    """A layer's sum with its whole chain."""
    graph, lowered = integers_of(layer.whole())
    (lifted,) = (p for p in lowered.probes.values() if isinstance(p.start, AccumulatorStart))
    for node in graph:
        if lifted.value in node.uses:
            lifted = lifted.then(node)
    return lifted


@given(layers(), monotone_steps)
@settings(max_examples=40)
def test_bisection_finds_the_steps_of_the_table(layer, chain):
    """Sums too many to tabulate are bisected where the operators' algebra says that the chain is monotone."""
    layer.chain = chain
    lifted = lifted_of(layer)
    assert steps_module.direction(lifted) is not None
    table = steps_module.steps_of(lifted)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps_module, "TOTAL", 0)
        assert steps_module.steps_of(lifted) == table


def chain_too_long(name: str, *, used: bool):
    """A chain behind a sum, and whether another operation follows its codes."""
    net = Net()
    y = net.op("MatMul", net.dq(net.input((1, 3)), 1.0), net.weight(np.array([[1], [-1], [1]]), 1.0, axis=1))
    codes = net.q(OPERATORS[name](net, y, 2, 0.5), 1.0, 0, "int8")
    return net.model(net.dq(codes, 1.0, 0, "int8") if used else codes)


@pytest.mark.parametrize("used", [True, False])
@pytest.mark.parametrize("name", ["HardSwish", "Where", "Abs", "Sigmoid"])
def test_too_many_sums_of_another_chain_are_refused(name, used, monkeypatch):
    monkeypatch.setattr(steps_module, "TOTAL", 0)
    monkeypatch.setattr(steps_module, "TABLE", 100)
    with pytest.raises(ModelError, match="not monotone by its algebra"):
        integers_of(chain_too_long(name, used=used))


def test_a_cast_that_wraps_around_is_not_monotone():
    net = Net()
    y = net.op("MatMul", net.dq(net.input((1, 1)), 1.0), net.weight(np.array([[2]]), 1.0, axis=1))
    clipped = net.op("Clip", y, net.const(-100.0), net.const(300.0))
    codes = {to: net.op("Cast", clipped, to=to) for to in (TensorProto.UINT8, TensorProto.INT32, TensorProto.BOOL)}
    graph, lowered = integers_of(net.model(*codes.values()))
    (lifted,) = (p for p in lowered.probes.values() if p.start.value == y)
    directions = {}
    for to, name in codes.items():
        nodes = {n.origin.tensor: n for n in graph}
        chain = lifted.then(nodes[clipped]).then(nodes[name])
        directions[to] = steps_module.direction(chain) is not None
    assert directions == {TensorProto.UINT8: False, TensorProto.INT32: True, TensorProto.BOOL: False}


@pytest.mark.parametrize("row", [[0, 0, 0], [0, 1, 0]], ids=["zero-row", "single-value"])
def test_channels_without_steps(row):
    weight = np.array([row, [0, 0, 0], [1, -1, 1]])
    layer = Layer(
        True,
        weight,
        "int2",
        np.float32([0.3, 0.5, 0.9]),
        np.float32(0.02),
        0,
        [("Add", [0.3, -0.2, 0.1])],
        End("quantize", 50.0, 1, "uint4"),
    )
    sums = layer.sums()
    np.testing.assert_array_equal(requantized(layer, sums), layer.expected(sums))
