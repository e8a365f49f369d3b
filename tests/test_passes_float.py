"""Float files: channels scaled together, inputs that fill their codes, rounding that makes good its errors, ranges."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tcompile.errors import UsageError
from tcompile.frontend.export import export
from tcompile.ir import real as R
from tcompile.ir.graph import Graph
from tcompile.passes import Equalize, Pass, QuantizeActivations, ReluBeforeMaxPool, ScaleInputs, SignedDigits
from tcompile.passes.calibration import Observed
from tcompile.passes.channels import FIXED, rescaled, trace
from tcompile.passes.feedback import moments, rounded, rows_of
from tcompile.passes.quantize_activations import choose_step
from tcompile.passes.scale_inputs import fitting
from tcompile.passes.signed_digits import LARGEST_SUM, nearest_with_digits
from tcompile.passes.weights import float_layers
from tcompile.reference import run
from tests.test_passes_activations import Net, _exact, frames


class Wide(Net):
    """With channels of very different ranges, and depthwise layers."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.random = np.random.default_rng(seed)

    def conv(self, x: str, channels: int = 4, group: int = 1) -> str:
        n, c, h, w = self.shape(x)
        weight = self.random.normal(size=(channels, c // group, 3, 3)) * 4.0 ** self.random.integers(
            -3, 3, (channels, 1, 1, 1)
        )
        bias = self.const(self.random.normal(size=channels))
        window = {"kernel_shape": (3, 3), "strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1)}
        return self._add(R.Conv, (x, self.const(weight), bias), (n, channels, h, w), group=group, **window)


def wide(seed: int) -> Graph:
    """Convolution, depthwise, a residual sum, a constant added, both pools, a dense end."""
    net = Wide(seed)
    a = net.same(R.Relu, net.conv(net.input(1, 2, 8, 8)))
    b = net.same(R.Relu, net.conv(a, group=4))
    c = net.same(R.Relu, net.same(R.Add, net.conv(b), a))
    c = net.same(R.Add, c, net.const(net.random.normal(size=(4, 1, 1))))
    d = net._add(R.Concat, (c, net.same(R.LeakyRelu, net.conv(c))), (1, 8, 8, 8), axis=1)
    e = net.pool(R.MaxPool, net.pool(R.AveragePool, net.same(R.Relu, net.conv(d))))
    return net.graph(net.dense(net.flat(e)))


def outputs(graph: Graph, samples: dict[str, np.ndarray]) -> np.ndarray:
    return np.array(
        [
            next(iter(run(export(graph), {n: x[k : k + 1] for n, x in samples.items()}).values()))
            for k in range(len(next(iter(samples.values()))))
        ]
    )


# Channels


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 1 << 20))
def test_powers_of_two_change_no_bit_of_the_outputs(seed: int) -> None:
    graph = wide(seed)
    channels = trace(graph)
    roots = channels.roots()
    factors = np.exp2(np.random.default_rng(seed).integers(-6, 7, len(roots)))
    factors[FIXED] = 1
    scaled = rescaled(graph, channels, factors[roots])
    samples = frames(graph, 3)
    assert (outputs(scaled, samples) == outputs(graph, samples)).all()
    assert any(
        (a.weight != b.weight).any() for a, b in zip(*(float_layers(g)[0] for g in (graph, scaled)), strict=True)
    )


def test_factors_that_are_no_powers_of_two_change_bits_wrong() -> None:
    graph = wide(0)
    channels = trace(graph)
    roots = channels.roots()
    factors = np.where(roots == FIXED, 1.0, 1.1)
    samples = frames(graph, 3)
    found, expected = outputs(rescaled(graph, channels, factors), samples), outputs(graph, samples)
    assert (found != expected).any()
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-2)


def test_channels_scaled_without_those_they_meet_wrong() -> None:
    graph = wide(0)
    channels = trace(graph)
    factors = np.ones(len(channels.roots()))
    factors[next(iter(channels.made.values()))] = 2.0
    samples = frames(graph, 3)
    assert (outputs(rescaled(graph, channels, factors), samples) != outputs(graph, samples)).any()


def test_branches_of_a_sum_share_their_channels() -> None:
    net = Wide(0)
    a, b = (net.conv(net.input(1, 2, 4, 4)) for _ in range(2))
    channels = trace(net.graph(net.conv(net.same(R.Add, a, b))))
    roots = channels.roots()
    assert (roots[channels.made[a]] == roots[channels.made[b]]).all()
    assert len(set(roots[channels.made[a]])) == 4


@pytest.mark.parametrize("op", [R.Sigmoid, R.Exp, R.Tanh])
def test_what_is_not_homogeneous_keeps_its_channels(op: type[R.RealNode]) -> None:
    net = Wide(0)
    a = net.conv(net.input(1, 2, 4, 4))
    channels = trace(net.graph(net.conv(net.same(op, a))))
    assert (channels.roots()[channels.made[a]] == FIXED).all()


def test_a_clip_keeps_its_channels() -> None:
    net = Wide(0)
    a = net.conv(net.input(1, 2, 4, 4))
    b = net._add(R.Clip, (a, net.const(0), net.const(6)), net.shape(a))
    channels = trace(net.graph(net.conv(b)))
    assert (channels.roots()[channels.made[a]] == FIXED).all()


def test_outputs_keep_their_channels() -> None:
    net = Wide(0)
    a = net.conv(net.input(1, 2, 4, 4))
    channels = trace(net.graph(net.conv(a), a))
    assert (channels.roots()[channels.made[a]] == FIXED).all()


def test_padded_channels_meet_nothing() -> None:
    """The shortcut of ResNets: channels of zeros beside those of the branch."""
    net = Wide(0)
    a = net.conv(net.input(1, 2, 4, 4), 2)
    b = net._add(R.Pad, (a,), (1, 4, 4, 4), pads=(0, 1, 0, 0, 0, 1, 0, 0))
    c = net.conv(a)
    channels = trace(net.graph(net.conv(net.same(R.Add, b, c))))
    roots = channels.roots()
    assert (roots[channels.made[c]][1:3] == roots[channels.made[a]]).all()
    assert len({*roots[channels.made[c]], FIXED}) == 5


# Equalization


def ranges(graph: Graph, samples: dict[str, np.ndarray]) -> np.ndarray:
    (relu,) = graph.all(R.Relu)
    x = outputs(graph.with_nodes(graph.nodes, (relu.name,)), samples)
    return np.abs(x).max(axis=(0, 1, 3, 4))


def depthwise(seed: int) -> Graph:
    net = Wide(seed)
    a = net.same(R.Relu, net.conv(net.input(1, 2, 8, 8)))
    return net.graph(net.conv(a, group=4))


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 1 << 20))
def test_equalized_networks_give_the_same_bits(seed: int) -> None:
    graph = wide(seed)
    samples = frames(graph, 3)
    result = Equalize(samples).run(graph)
    assert result.changed
    assert (outputs(result.graph, samples) == outputs(graph, samples)).all()


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 1 << 20))
def test_channels_of_a_depthwise_layer_become_alike(seed: int) -> None:
    graph = depthwise(seed)
    samples = frames(graph, 4)
    before, after = ranges(graph, samples), ranges(Equalize(samples).run(graph).graph, samples)
    loud = before > before.max() / 16
    assert after[loud].max() <= 2 * after[loud].min() * (1 + 1e-6)


def test_equalizing_again_changes_nothing() -> None:
    graph = depthwise(1)
    samples = frames(graph, 4)
    once = Equalize(samples).run(graph).graph
    assert Equalize(samples).run(once).graph is once


def test_equalizing_needs_samples() -> None:
    with pytest.raises(UsageError, match="calibration data is needed"):
        Equalize({})


# Inputs


def observed(x: np.ndarray) -> Observed:
    return Observed(float(x.min()), float(x.max()), x.ravel().astype(np.float64), x)


@given(st.integers(-255, 0), st.integers(128, 255), st.floats(0.01, 100))
def test_values_on_a_grid_of_8_bits_become_their_codes(low: int, span: int, size: float) -> None:
    x = np.arange(low, low + span + 1) * size
    if low + span > 0:
        c = fitting(observed(x), 8)
        step = choose_step(x.min() * c, x.max() * c, 8, x * c, shared=True)
        assert step.values(x * c) / c == pytest.approx(x, rel=1e-5, abs=size * 1e-3)


def test_pixels_stay_as_they_are() -> None:
    assert fitting(observed(np.arange(256.0)), 8) == 1
    assert fitting(observed(np.zeros(4)), 8) == 1


def test_scaled_inputs_compute_the_same() -> None:
    graph = wide(3)
    samples = {n: x / 300 for n, x in frames(graph, 4).items()}
    result = ScaleInputs(samples).run(graph)
    (times,) = result.graph.all(R.Mul)
    factor = result.graph[times.inputs[1]].value.array  # type: ignore[union-attr]
    assert result.changed and factor == pytest.approx(300, rel=0.03)
    assert outputs(result.graph, samples) == pytest.approx(outputs(graph, samples), rel=1e-3, abs=1e-2)


def test_an_input_that_other_operations_take_is_not_scaled() -> None:
    net = Net()
    x = net.input(1, 2, 4, 4)
    graph = net.graph(net.conv(x), net.same(R.Sigmoid, x))
    assert ScaleInputs({x: np.full((2, 1, 2, 4, 4), 0.3, np.float32)}).run(graph).graph is graph


def test_inputs_of_both_signs_share_out_their_codes(tmp_path: Path) -> None:
    net = Net()
    x = net.input(1, 2, 8, 8)
    graph = net.graph(net.dense(net.flat(net.same(R.Relu, net.conv(x)))))
    samples = {x: (frames(graph)[x] - 200) * np.float32(0.37)}
    passes: list[Pass] = [ScaleInputs(samples), SignedDigits(3, samples=samples), QuantizeActivations(8, samples)]
    plain, fused = _exact(graph, passes, samples, tmp_path)
    assert (plain == fused).all()
    note = QuantizeActivations(8, samples).run(ScaleInputs(samples).run(graph).graph).notes[0]
    assert "codes -200 .. 55, step 2^0" in note


@pytest.mark.parametrize(
    "lo, hi, codes", [(-1, 3, (-64, 191)), (-3, 1, (-191, 64)), (-1, 1, (-128, 127)), (0, 1, (0, 255))]
)
def test_codes_in_the_ratio_of_the_ends(lo: float, hi: float, codes: tuple[int, int]) -> None:
    step = choose_step(lo, hi, 8, shared=True)
    assert (step.lo, step.hi) == codes
    assert step.lo + step.zero >= 0 or step.dtype == "int8"


# Rounding that makes good its errors


def correlated(rows: int, columns: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    x = random.normal(size=(200, 3)) @ random.normal(size=(3, columns)) + 0.1 * random.normal(size=(200, columns))
    return random.normal(size=(rows, columns)), np.cov(x.T, bias=True)


def left(weight: np.ndarray, codes: np.ndarray, scale: np.ndarray, covariance: np.ndarray) -> float:
    e = weight - codes * scale[:, None]
    return float(np.einsum("rk,kl,rl->", e, covariance, e))


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1 << 20), st.integers(1, 3))
def test_correlated_inputs_leave_less_error(seed: int, digits: int) -> None:
    weight, covariance = correlated(16, 24, seed)
    nearest, scale = SignedDigits(digits).fit(weight)
    codes, step = rounded(weight, covariance, scale, lambda x: nearest_with_digits(x, digits))
    assert left(weight, codes, step, covariance) < left(weight, nearest, scale, covariance) / 2


def test_inputs_without_correlation_are_rounded_to_the_nearest() -> None:
    weight = np.random.default_rng(0).normal(size=(4, 9))
    _, scale = SignedDigits(2).fit(weight)
    codes, _ = rounded(weight, np.eye(9), scale, lambda x: nearest_with_digits(x, 2))
    assert (codes == nearest_with_digits(weight / scale[:, None], 2)).all()


def test_pruned_weights_stay_zero() -> None:
    weight, covariance = correlated(8, 24, 0)
    weight[:, ::3] = 0
    codes, _ = rounded(weight, covariance, SignedDigits(2).fit(weight)[1], lambda x: nearest_with_digits(x, 2))
    assert (codes[:, ::3] == 0).all() and (codes != 0).any()


@pytest.mark.parametrize("group", [1, 2, 4])
def test_rows_are_what_the_weights_are_multiplied_with(group: int) -> None:
    net = Wide(0)
    x = net.input(1, 4, 5, 5)
    y = net.conv(x, group=group)
    graph = net.graph(y)
    ((layer,), _) = float_layers(graph)
    image = np.random.default_rng(1).normal(size=(1, 4, 5, 5)).astype(np.float32)
    rows = rows_of(layer, image, np.random.default_rng(0))
    weight = layer.weight.reshape(group, 4 // group, -1)
    found = np.sort(np.concatenate(rows @ weight.transpose(0, 2, 1), axis=1), axis=0)
    bias = graph[layer.node.inputs[2]].value.array  # type: ignore[union-attr]
    expected = np.sort((run(export(graph), {x: image})[y][0] - bias[:, None, None]).reshape(4, -1).T, axis=0)
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_moments_are_covariances() -> None:
    net = Net()
    x = net.input(1, 3)
    graph = net.graph(net.dense(x))
    ((layer,), _) = float_layers(graph)
    samples = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    ((found,),) = moments(graph, {x: samples}, (layer,)).values()
    assert found == pytest.approx(np.cov(samples.T, bias=True), rel=1e-5, abs=1e-7)


def test_inputs_that_hardly_move_do_no_harm() -> None:
    net = Net()
    x = net.input(1, 8)
    graph = net.graph(net.dense(x))
    samples = {
        x: 1000
        + np.random.default_rng(0).integers(0, 2, (64, 1)).astype(np.float32)
        * np.float32(1e-4)
        * np.ones(8, np.float32)
    }
    assert SignedDigits(2, samples=samples).run(graph).changed


# Sums that stay exact


def test_a_wide_layer_gets_fewer_bits_so_that_sums_are_exact() -> None:
    net = Net()
    weight = np.random.default_rng(0).uniform(0.5, 1, size=(4000, 3))
    result = SignedDigits(3).run(net.graph(net.dense(net.input(1, 4000), 3, weight)))
    (codes,) = (n.value.array for n in result.graph.all(R.Const) if n.type.is_integer)  # type: ignore[attr-defined]
    assert np.abs(codes.astype(int)).sum(axis=0).max() <= LARGEST_SUM < (1 << 24) // 255 + 1
    assert "bits so that sums are exact" in result.notes[0]


def test_a_wide_layer_with_all_bits_is_not_exact_wrong() -> None:
    weight = np.random.default_rng(0).uniform(0.5, 1, size=(3, 4000))
    codes, _ = SignedDigits(3).fit(weight)
    assert np.abs(codes).sum(axis=1).max() * 255 >= 1 << 24


# Ranges


def chosen(method: str, **options: float) -> str:
    net = Net()
    x = net.input(1, 100)
    graph = net.graph(net.dense(x))
    samples = {x: np.concatenate([np.arange(1, 100), [1000]]).astype(np.float32)[None]}
    return QuantizeActivations(8, samples, method=method, **options).run(graph).notes[0]  # type: ignore[arg-type]


def test_minmax_clips_nothing() -> None:
    assert "step 2^2, 0.00 % of the values clipped" in chosen("minmax")


def test_a_percentile_clips_what_is_above() -> None:
    assert "step 2^-1, 1.00 % of the values clipped" in chosen("percentile", percentile=98)


def test_the_least_squared_error_is_the_default() -> None:
    assert QuantizeActivations(8).method == "mse"


@pytest.mark.parametrize("options", [{"method": "largest"}, {"percentile": 50}, {"percentile": 101}])
def test_ranges_that_make_no_sense(options: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        QuantizeActivations(8, **options)  # type: ignore[arg-type]


# All of it


@pytest.mark.parametrize("bits", [4, 8])
def test_all_passes_together_are_exact_and_alike_in_both_modes(bits: int, tmp_path: Path) -> None:
    graph = wide(5)
    samples = {n: x / 7 - 9 for n, x in frames(graph).items()}
    passes: list[Pass] = [
        ScaleInputs(samples),
        Equalize(samples),
        SignedDigits(2, samples=samples),
        ReluBeforeMaxPool(),
        QuantizeActivations(bits, samples),
    ]
    plain, fused = _exact(graph, passes, samples, tmp_path)
    assert (plain == fused).all()
