"""Where quantizers go, which steps they get, and that the files that come out are exact however they are run."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcompile.errors import UsageError
from tcompile.frontend.export import export
from tcompile.frontend.importer import import_model
from tcompile.frontend.load import load
from tcompile.frontend.normalize import normalize
from tcompile.ir import real as R
from tcompile.ir.graph import Graph, Origin, Tensor, TensorType
from tcompile.lowering.lower import lower
from tcompile.passes import (
    MatchOutputs,
    Pass,
    PruneTiles,
    QuantizeActivations,
    ReluBeforeMaxPool,
    SignedDigits,
    Ternarize,
    apply,
    calibrate,
)
from tcompile.passes.quantize_activations import Step, choose_step, quantization_points
from tcompile.reference import Session, run
from tests.conftest import shared_data, shared_model

RANDOM = np.random.default_rng(0)


class Net:
    """Builds graphs of (1, C, H, W) values; every method returns the name of the value it makes."""

    def __init__(self) -> None:
        self.nodes: list[R.RealNode] = []

    def _add(self, cls: type[R.RealNode], inputs: tuple[str, ...], shape: tuple[int, ...], **fields: object) -> str:
        name = f"{cls.__name__.lower()}{len(self.nodes)}"
        kind = TensorType("float32", shape)
        origin = Origin(((name, cls.__name__),) if inputs else (), name)
        self.nodes.append(cls(name=name, inputs=inputs, type=kind, origin=origin, **fields))  # type: ignore[arg-type]
        return name

    def shape(self, name: str) -> tuple[int, ...]:
        return next(n.type.shape for n in self.nodes if n.name == name)

    def input(self, *shape: int) -> str:
        return self._add(R.Input, (), shape)

    def const(self, array: object) -> str:
        tensor = Tensor.of(np.asarray(array, np.float32))
        return self._add(R.Const, (), tensor.shape, value=tensor)

    def conv(self, x: str, channels: int = 4) -> str:
        n, c, h, w = self.shape(x)
        weight, bias = self.const(RANDOM.normal(size=(channels, c, 3, 3))), self.const(RANDOM.normal(size=channels))
        window = {"kernel_shape": (3, 3), "strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1)}
        return self._add(R.Conv, (x, weight, bias), (n, channels, h, w), **window)

    def dense(self, x: str, count: int = 3, weight: np.ndarray | None = None) -> str:
        weight = RANDOM.normal(size=(self.shape(x)[1], count)) if weight is None else weight
        return self._add(R.MatMul, (x, self.const(weight)), (1, count))

    def pool(self, cls: type[R.RealNode], x: str) -> str:
        n, c, h, w = self.shape(x)
        return self._add(
            cls, (x,), (n, c, h // 2, w // 2), kernel_shape=(2, 2), strides=(2, 2), pads=(0, 0, 0, 0), dilations=(1, 1)
        )

    def same(self, cls: type[R.RealNode], *inputs: str, **fields: object) -> str:
        return self._add(cls, inputs, self.shape(inputs[0]), **fields)

    def flat(self, x: str) -> str:
        return self._add(R.Reshape, (x,), (1, int(np.prod(self.shape(x)))))

    def graph(self, *outputs: str) -> Graph:
        return Graph("real", tuple(self.nodes), outputs)


def frames(graph: Graph, count: int = 8) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {n.name: rng.integers(0, 256, (count, *n.type.shape[1:])).astype(np.float32) for n in graph.all(R.Input)}


def points(net: Net, *outputs: str) -> list[str]:
    return [p.rstrip("0123456789") for p in quantization_points(net.graph(*outputs))]


# Where


def test_inputs_and_ends_of_regions_are_quantized_and_the_last_is_not() -> None:
    net = Net()
    y = net.same(R.Relu, net.conv(net.input(1, 1, 8, 8)))
    y = net.same(R.Softmax, net.dense(net.flat(net.pool(R.MaxPool, y))))
    assert points(net, y) == ["input", "relu"]


def test_chains_are_followed_to_their_end() -> None:
    net = Net()
    y = net.conv(net.input(1, 1, 8, 8))
    y = net.same(R.Relu, net.same(R.Add, net.same(R.Mul, y, net.const(2)), net.const(1)))
    assert points(net, net.conv(y)) == ["input", "relu"]


def test_scaling_of_the_input_stays_before_its_quantizer() -> None:
    net = Net()
    y = net.same(R.Div, net.same(R.Sub, net.input(1, 1, 8, 8), net.const(128)), net.const(255))
    assert points(net, net.conv(y)) == ["div"]


def test_both_branches_of_an_add_and_its_sum_are_quantized() -> None:
    net = Net()
    x = net.same(R.Relu, net.conv(net.input(1, 1, 8, 8)))
    y = net.same(R.Relu, net.same(R.Add, net.conv(x), x))
    assert points(net, net.conv(y)) == ["input", "relu", "conv", "relu"]


def test_an_average_is_quantized_before_and_behind() -> None:
    net = Net()
    y = net.pool(R.AveragePool, net.same(R.Relu, net.conv(net.input(1, 1, 8, 8))))
    assert points(net, net.dense(net.flat(y))) == ["input", "relu", "averagepool"]


def test_two_uses_of_one_sum_are_one_region() -> None:
    """x · sigmoid(x) meets itself, not another branch."""
    net = Net()
    y = net.conv(net.input(1, 1, 8, 8))
    y = net.same(R.Mul, y, net.same(R.Sigmoid, y))
    assert points(net, net.conv(y)) == ["input", "mul"]


def test_concat_needs_its_parts_in_codes() -> None:
    net = Net()
    x = net.input(1, 1, 8, 8)
    left, right = net.same(R.Relu, net.conv(x)), net.same(R.Sigmoid, net.conv(x))
    y = net._add(R.Concat, (left, right), (1, 8, 8, 8), axis=1)
    assert points(net, net.conv(y)) == ["input", "relu", "sigmoid"]


def test_a_relu_behind_a_max_pool_moves_before_it() -> None:
    net = Net()
    x = net.input(1, 1, 8, 8)
    y = net.same(R.Relu, net.pool(R.MaxPool, net.conv(x)))
    graph = net.graph(net.dense(net.flat(y)))
    result = ReluBeforeMaxPool().run(graph)
    assert [n.op for n in result.graph if n.op in ("Relu", "MaxPool")] == ["Relu", "MaxPool"] and result.changed
    feed = {x: RANDOM.normal(size=(1, 1, 8, 8)).astype(np.float32)}
    before, after = (next(iter(run(export(g), feed).values())) for g in (graph, result.graph))
    assert (before == after).all()


def test_a_relu_stays_where_the_pool_has_another_use() -> None:
    net = Net()
    pool = net.pool(R.MaxPool, net.conv(net.input(1, 1, 8, 8)))
    graph = net.graph(net.same(R.Relu, pool), net.same(R.Abs, pool))
    assert ReluBeforeMaxPool().run(graph).graph is graph


def test_quantized_graphs_are_left_alone() -> None:
    net = Net()
    graph = net.graph(net.dense(net.flat(net.same(R.Relu, net.conv(net.input(1, 1, 4, 4))))))
    once = QuantizeActivations(8, frames(graph)).run(graph)
    again = QuantizeActivations(8).run(once.graph)
    assert once.changed and not again.changed and again.graph is once.graph


def test_a_relu_on_codes_stays_on_their_grid() -> None:
    net = Net()
    x = net.input(1, 1, 4, 4)
    first = QuantizeActivations(8, ranges={x: (-1, 1)}).run(net.graph(net.conv(x))).graph
    (real,) = first.all(R.DequantizeLinear)
    relu = R.Relu(name="again", inputs=(real.name,), type=real.type)
    conv = next(n for n in first.all(R.Conv))
    nodes = [n for n in first if n is not conv] + [
        relu,
        R.Conv(**{**vars(conv), "inputs": ("again", *conv.inputs[1:])}),
    ]
    assert quantization_points(first.with_nodes(nodes)) == ()


def test_the_given_graph_stays_as_it_is() -> None:
    net = Net()
    graph = net.graph(net.dense(net.flat(net.same(R.Relu, net.pool(R.MaxPool, net.conv(net.input(1, 1, 4, 4)))))))
    before, text = graph.nodes, repr(graph.nodes)
    apply(
        graph,
        [Ternarize(2), MatchOutputs(graph, frames(graph)), ReluBeforeMaxPool(), QuantizeActivations(4, frames(graph))],
    )
    assert graph.nodes is before and repr(graph.nodes) == text


# Which step


@pytest.mark.parametrize(
    "lo, hi, bits, step",
    [
        (0, 255, 8, Step(0, 0, 255)), (0, 256, 8, Step(1, 0, 255)), (0, 1, 8, Step(-7, 0, 255)),
        (0, 0, 8, Step(0, 0, 255)), (-128, 127, 8, Step(0, -128, 127)), (-128, 128, 8, Step(1, -128, 127)), (-1, 0, 4, Step(-3, -8, 7)),
        (0, 3, 2, Step(0, 0, 3)), (0, 1, 1, Step(0, 0, 1)), (-1, 1, 1, Step(0, -1, 1)),
    ],
)  # fmt: skip
def test_without_a_sample_nothing_is_clipped(lo: float, hi: float, bits: int, step: Step) -> None:
    assert choose_step(lo, hi, bits) == step


def test_covering_wrong_by_one() -> None:
    assert choose_step(0, 256, 8).exponent != 0


def test_of_steps_without_error_the_coarsest() -> None:
    assert choose_step(0, 128, 8, np.array([0.0, 64, 128])).exponent == 0


def test_outliers_are_clipped_when_that_is_less_error() -> None:
    sample = np.array([0.0, 1, 2, 3] * 10 + [4])
    assert choose_step(0, 4, 2, sample).exponent == 0  # one value is off by 1; with step 2 every 1 and 3 would be
    assert choose_step(0, 4, 2).exponent == 1


@given(st.floats(-100, 100, width=32), st.floats(0, 100, width=32), st.integers(2, 8))
def test_values_in_range_are_at_most_half_a_step_off(lo: float, size: float, bits: int) -> None:
    step = choose_step(lo, lo + size, bits)
    x = np.linspace(lo, lo + size, 33)
    assert (step.lo == 0) == (lo >= 0)
    assert (np.abs(step.values(x) - x) <= step.scale / 2).all()


@pytest.mark.parametrize(
    "bits, lo, dtype, full",
    [(8, 0, "uint8", True), (8, -1, "int8", True), (4, 0, "uint8", False), (16, -1, "int16", True)],
)
def test_types_of_codes(bits: int, lo: float, dtype: str, full: bool) -> None:
    step = choose_step(lo, 1, bits)
    assert (step.dtype, step.full) == (dtype, full)


def test_few_bits_are_clipped_behind_the_quantizer() -> None:
    net = Net()
    graph = net.graph(net.dense(net.flat(net.same(R.Relu, net.conv(net.input(1, 1, 4, 4))))))
    result = QuantizeActivations(4, frames(graph)).run(graph)
    (clip,) = result.graph.all(R.Clip)
    bounds = [result.graph[i].value.array for i in clip.inputs[1:]]  # type: ignore[union-attr]
    assert [int(b) for b in bounds] == [0, 15] and bounds[0].dtype == np.uint8
    assert [n.type.dtype for n in result.graph.all(R.QuantizeLinear)] == ["uint8", "uint8"]


def test_ranges_need_no_samples() -> None:
    net = Net()
    x = net.input(1, 1, 4, 4)
    relu = net.same(R.Relu, net.conv(x))
    result = QuantizeActivations(8, ranges={x: (0, 255), relu: (0, 3)}).run(net.graph(net.conv(relu)))
    assert result.notes == (f"'{x}': codes 0 .. 255, step 2^0", f"'{relu}': codes 0 .. 255, step 2^-6")


def test_without_samples_the_error_says_what_to_give() -> None:
    net = Net()
    with pytest.raises(UsageError) as error:
        QuantizeActivations(8).run(net.graph(net.conv(net.input(1, 1, 4, 4))))
    (problem,) = error.value.problems
    assert problem.code == "calibration-needed" and "--calib X.npz" in problem.hint


@pytest.mark.parametrize(
    "options", [{"bits": 0}, {"bits": 9}, {"bits": 8, "input_bits": 17}, {"bits": 8, "ranges": {"x": (1, 0)}}]
)
def test_options_that_make_no_sense(options: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        QuantizeActivations(**options)  # type: ignore[arg-type]


# Calibration


def test_calibration_sees_every_frame() -> None:
    net = Net()
    x = net.input(1, 2)
    y = net.same(R.Neg, x)
    samples = np.array([[1, 2], [5, 4], [-3, 0]], np.float32)
    seen = calibrate(net.graph(y), {x: samples})
    assert (seen[y].lo, seen[y].hi) == (-5, 3)
    assert sorted(seen[y].sample) == sorted(-samples.ravel())
    assert seen[x].mean.tolist() == [[1, 2]]


def test_calibration_keeps_a_bounded_number() -> None:
    net = Net()
    x = net.input(1, 1, 64, 64)
    seen = calibrate(net.graph(net.same(R.Neg, x)), {x: np.ones((64, 1, 64, 64))})
    assert all(len(o.sample) == 1 << 17 for o in seen.values())


@pytest.mark.parametrize(
    "array, code",
    [(None, "calibration-input"), (np.ones((3, 5)), "calibration-shape"), (np.ones((0, 2)), "calibration-shape"),
     (np.ones(()), "calibration-shape"), (np.full((1, 2), np.nan), "calibration-values")],
)  # fmt: skip
def test_calibration_data_that_does_not_fit(array: np.ndarray | None, code: str) -> None:
    net = Net()
    x = net.input(1, 2)
    with pytest.raises(UsageError) as error:
        calibrate(net.graph(net.same(R.Neg, x)), {} if array is None else {x: array})
    assert [p.code for p in error.value.problems] == [code]


def test_inputs_with_different_numbers_of_frames() -> None:
    net = Net()
    a, b = net.input(1, 2), net.input(1, 2)
    with pytest.raises(UsageError, match="same number of frames"):
        calibrate(net.graph(net.same(R.Add, a, b)), {a: np.ones((1, 2)), b: np.ones((2, 2))})


# Refitted scales


def _outputs(graph: Graph, samples: dict[str, np.ndarray], value: str) -> np.ndarray:
    session = Session(export(graph.with_nodes(graph.nodes, (value,))))
    (name,) = samples
    return np.array([next(iter(session({name: x.reshape(graph[name].type.shape)}).values())) for x in samples[name]])


def test_refitted_layers_have_the_mean_and_spread_of_the_original() -> None:
    net = Net()
    first = net.conv(net.input(1, 2, 6, 6))
    second = net.conv(net.same(R.Relu, first))
    graph = net.graph(second)
    samples = frames(graph, 20)
    rough = Ternarize(1).run(graph).graph
    fitted = MatchOutputs(graph, samples).run(rough).graph
    for value in (first, second):
        t, y, r = (_outputs(g, samples, value) for g in (graph, fitted, rough))
        axes = (0, 1, 3, 4)
        assert y.mean(axis=axes) == pytest.approx(t.mean(axis=axes), rel=1e-3, abs=1e-2)
        assert y.std(axis=axes) == pytest.approx(t.std(axis=axes), rel=1e-3)
        assert r.mean(axis=axes) != pytest.approx(t.mean(axis=axes), rel=1e-3, abs=1e-2)


def test_refitting_keeps_codes_and_form() -> None:
    net = Net()
    graph = net.graph(net.dense(net.flat(net.same(R.Relu, net.conv(net.input(1, 1, 4, 4))))))
    rough = Ternarize(1).run(graph).graph
    fitted = MatchOutputs(graph, frames(graph)).run(rough).graph
    assert [n.value for n in fitted.all(R.Const) if n.type.is_integer] == [
        n.value for n in rough.all(R.Const) if n.type.is_integer
    ]
    assert [len(fitted.consumers[n.name]) for n in fitted.all(R.Linear)] == [1, 1]
    assert [fitted.consumers[n.name][0].op for n in fitted.all(R.Linear)] == ["Mul", "Mul"]
    assert [fitted[o].op for o in fitted.outputs] == ["Add"] and fitted.outputs == graph.outputs


def test_a_channel_without_weights_gets_the_mean() -> None:
    net = Net()
    x = net.input(1, 2)
    y = net.dense(x, 2, np.array([[0.0, 1], [0, 1]]))
    graph = net.graph(net.same(R.Add, y, net.const([3.0, 0])))
    samples = {x: np.array([[1, 2], [3, 4]], np.float32)}
    fitted = MatchOutputs(graph, samples).run(Ternarize(1).run(graph).graph).graph
    assert _outputs(fitted, samples, fitted.outputs[0]).reshape(2, 2).tolist() == [[3, 3], [3, 7]]


def test_refitting_without_samples_says_what_to_give() -> None:
    net = Net()
    with pytest.raises(UsageError, match="calibration data is needed"):
        MatchOutputs(net.graph(net.input(1, 2)), {})


# The files that come out


def _exact(
    graph: Graph, passes: list[Pass], samples: dict[str, np.ndarray], tmp_path: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Outputs of the written file in both modes, once it has been read back and lowered with nothing at risk."""
    graph, _ = apply(graph, passes)
    model = export(graph)
    results = []
    for mode in ("plain", "fused"):
        session = Session(model, mode)  # type: ignore[arg-type]
        results.append(
            [
                session({i: samples[i][k : k + 1] for i in session.inputs})
                for k in range(len(next(iter(samples.values()))))
            ]
        )
    plain, fused = (np.array([next(iter(r.values())).ravel() for r in rows]) for rows in results)
    path = tmp_path / "written.onnx"
    path.write_bytes(model.SerializeToString())
    lowered = lower(import_model(load(path).model), "plain", {})
    assert lowered.certificate and {e.method for e in lowered.certificate} <= {"exact", "pairs"}
    assert not any(e.at_risk for e in lowered.certificate)
    assert not lowered.notes
    return plain, fused


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("weights", [Ternarize(1), Ternarize(2), SignedDigits(3)], ids=["sws1", "sws2", "csd3"])
def test_written_files_are_exact_and_alike_in_both_modes(weights: Pass, bits: int, tmp_path: Path) -> None:
    net = Net()
    x = net.input(1, 2, 8, 8)
    a = net.same(R.Relu, net.conv(x))
    b = net.same(R.Relu, net.same(R.Add, net.conv(a), a))
    y = net.same(R.Relu, net.pool(R.MaxPool, net.conv(b)))
    graph = net.graph(net.dense(net.flat(net.same(R.Relu, net.dense(net.flat(y), 6)))))
    samples = frames(graph)
    passes: list[Pass] = [
        PruneTiles(0.25, 2, 2),
        weights,
        MatchOutputs(graph, samples),
        ReluBeforeMaxPool(),
        QuantizeActivations(bits, samples),
    ]
    plain, fused = _exact(graph, passes, samples, tmp_path)
    assert (plain == fused).all()


@pytest.mark.parametrize("bits", [4, 8])
def test_averages_and_joined_branches_are_exact_and_alike_in_both_modes(bits: int, tmp_path: Path) -> None:
    net = Net()
    a = net.same(R.Relu, net.conv(net.input(1, 2, 8, 8)))
    b = net._add(R.Concat, (a, net.same(R.Relu, net.conv(a))), (1, 8, 8, 8), axis=1)
    y = net.pool(R.AveragePool, net.same(R.Relu, net.conv(b)))
    y = net._add(R.GlobalAveragePool, (net.same(R.Relu, net.conv(y)),), (1, 4, 1, 1))
    graph = net.graph(net.same(R.Softmax, net.dense(net.flat(y))))
    samples = frames(graph)
    plain, fused = _exact(graph, [SignedDigits(3), QuantizeActivations(bits, samples)], samples, tmp_path)
    assert (plain == fused).all()


def test_a_scale_that_is_no_power_of_two_is_not_exact(tmp_path: Path) -> None:
    """What the steps are powers of two for."""
    net = Net()
    graph = net.graph(net.dense(net.flat(net.same(R.Relu, net.conv(net.input(1, 2, 8, 8))))))
    samples = frames(graph)
    graph, _ = apply(graph, [SignedDigits(3), QuantizeActivations(8, samples)])
    steps = {n.inputs[1] for n in graph.all(R.QuantizeLinear)}
    nodes = [
        R.Const(name=n.name, value=Tensor.of(np.array(0.3, np.float32)), type=n.type) if n.name in steps else n
        for n in graph
    ]  # type: ignore[attr-defined]
    lowered = lower(import_model(normalize(export(graph.with_nodes(nodes)))), "plain", {})
    assert {e.method for e in lowered.certificate} != {"exact"}


MNIST = {"mnist8_cntk.onnx": (1, 0), "mnist_lenet_fyh.onnx": (1 / 255 / 0.3081, -0.1307 / 0.3081)}


@pytest.mark.parametrize("name", MNIST)
@pytest.mark.parametrize("weights, least", [(Ternarize(2), 0.75), (SignedDigits(3), 0.97)], ids=["sws2", "csd3"])
def test_trained_networks_without_training(name: str, weights: Pass, least: float, tmp_path: Path) -> None:
    scale, shift = MNIST[name]
    folder = shared_data("mnist")
    pixels = np.frombuffer(gzip.decompress(next(folder.glob("t10k-images*")).read_bytes()), np.uint8, offset=16)
    labels = np.frombuffer(gzip.decompress(next(folder.glob("t10k-labels*")).read_bytes()), np.uint8, offset=8)
    images = (pixels.reshape(-1, 1, 28, 28) * scale + shift).astype(np.float32)
    graph = import_model(load(shared_model(name)).model)
    (tensor,) = (n.origin.tensor for n in graph.all(R.Input))
    calib = {tensor: images[-64:]}
    passes: list[Pass] = [PruneTiles(0.1 if isinstance(weights, Ternarize) else 0), weights]
    passes += [MatchOutputs(graph, calib), ReluBeforeMaxPool(), QuantizeActivations(8, calib)]
    plain, fused = _exact(graph, passes, {tensor: images[:500]}, tmp_path)
    assert (plain == fused).all()
    assert (plain.argmax(axis=1) == labels[:500]).mean() >= least
