"""Tiles, ternary weights, signed digits: by hand, and as properties."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tcompile.errors import UsageError
from tcompile.frontend.export import export
from tcompile.ir import real as R
from tcompile.ir.graph import Graph, Origin, Tensor, TensorType
from tcompile.passes import (
    PASSES,
    PruneTiles,
    SignedDigits,
    Ternarize,
    apply,
    csd,
    nearest_with_digits,
    tile_counts,
    tiles,
)
from tcompile.passes.ternarize import fitted, statistical
from tcompile.passes.weights import float_layers
from tcompile.reference import run

WEIGHTS = arrays(np.float64, (3, 12), elements=st.floats(-4, 4, width=32).map(lambda x: 0.0 if abs(x) < 0.5 else x))


def const(name: str, array: np.ndarray) -> R.Const:
    tensor = Tensor.of(np.asarray(array, np.float32))
    return R.Const(name=name, value=tensor, type=TensorType("float32", tensor.shape))


def conv(weight: np.ndarray, bias: np.ndarray | None = None, group: int = 1) -> Graph:
    """x (1, C, 4, 4) -> Conv, a kernel as large as the weights say, no padding."""
    channels, (kh, kw) = weight.shape[1] * group, weight.shape[2:]
    x = R.Input(name="x", type=TensorType("float32", (1, channels, 4, 4)), origin=Origin((), "x"))
    inputs = ("x", "w") if bias is None else ("x", "w", "b")
    y = R.Conv(
        name="y", inputs=inputs, type=TensorType("float32", (1, len(weight), 5 - kh, 5 - kw)), kernel_shape=(kh, kw),
        strides=(1, 1), pads=(0, 0, 0, 0), dilations=(1, 1), group=group, origin=Origin((("conv", "Conv"),), "y"),
    )  # fmt: skip
    consts = [const("w", weight)] + ([] if bias is None else [const("b", bias)])
    return Graph("real", (x, *consts, y), ("y",))


def gemm(weight: np.ndarray, bias: np.ndarray | None = None, **options: float) -> Graph:
    """x (1, K) -> Gemm with weights (K, N), or (N, K) with transB."""
    k, n = weight.shape[::-1] if options.get("transB") else weight.shape
    x = R.Input(name="x", type=TensorType("float32", (1, k)), origin=Origin((), "x"))
    inputs = ("x", "w") if bias is None else ("x", "w", "b")
    y = R.Gemm(
        name="y", inputs=inputs, type=TensorType("float32", (1, n)), origin=Origin((("fc", "Gemm"),), "y"), **options
    )  # type: ignore[arg-type]
    consts = [const("w", weight)] + ([] if bias is None else [const("b", bias)])
    return Graph("real", (x, *consts, y), ("y",))


def chain(*weights: np.ndarray) -> Graph:
    """MatMuls one after the other."""
    nodes: list[R.RealNode] = [
        R.Input(name="x", type=TensorType("float32", (1, len(weights[0]))), origin=Origin((), "x"))
    ]
    for k, weight in enumerate(weights):
        origin = Origin(((f"m{k}", "MatMul"),), f"y{k}")
        kind = TensorType("float32", (1, weight.shape[1]))
        nodes += [const(f"w{k}", weight)]
        nodes += [R.MatMul(name=f"y{k}", inputs=(f"y{k - 1}" if k else "x", f"w{k}"), type=kind, origin=origin)]
    return Graph("real", tuple(nodes), (f"y{len(weights) - 1}",))


def weights(graph: Graph) -> list[np.ndarray]:
    return [layer.weight for layer in float_layers(graph)[0]]


def codes(graph: Graph) -> Tensor:
    """Codes of the only layer's weights."""
    (const_,) = [n for n in graph.all(R.Const) if n.type.is_integer]
    return const_.value


def output(graph: Graph, x: np.ndarray, mode: str = "plain") -> np.ndarray:
    (value,) = run(export(graph), {"x": x.astype(np.float32)}, mode).values()  # type: ignore[arg-type]
    return value


# Tiles


def test_tile_strength_is_root_mean_square_of_the_weights_inside() -> None:
    weight = np.array([[1.0, 1, 3, 3], [1, 1, 3, 3], [0, 0, 0, 4]])
    assert tiles(weight, pe=2, simd=2).tolist() == [[[[1, 3]], [[0, np.sqrt(8)]]]]


def test_tile_strength_does_not_count_padding() -> None:
    assert tiles(np.full((3, 5), 2.0), pe=2, simd=4).tolist() == [[[[2, 2]], [[2, 2]]]]


def test_tile_strength_wrong_with_padding_counted() -> None:
    assert tiles(np.full((1, 1), 2.0), pe=2, simd=2).tolist() != [[[[1.0]]]]


def test_a_tile_never_crosses_a_tap_or_a_group() -> None:
    weight = np.zeros((4, 3, 2, 2))
    assert tiles(weight, pe=8, simd=8, group=2).shape == (2, 1, 4, 1)
    weight[2, 1, 1, 0] = 5  # second group, third tap
    assert np.argwhere(tiles(weight, 8, 8, 2)).tolist() == [[1, 0, 2, 0]]


def test_tile_counts() -> None:
    weight = np.zeros((6, 9, 3, 3), np.int8)
    assert tile_counts(weight, 4, 8) == (2 * 9 * 2, 0)
    weight[0, 8, 0, 0] = weight[5, 0, 2, 2] = -1
    assert tile_counts(weight, 4, 8) == (36, 2)


@given(
    arrays(np.int8, (5, 6, 2, 1), elements=st.integers(-1, 1)),
    st.integers(1, 4),
    st.integers(1, 7),
    st.sampled_from([1, 5]),
)
def test_kept_tiles_are_those_with_strength(weight: np.ndarray, pe: int, simd: int, group: int) -> None:
    strength = tiles(weight, pe, simd, group)
    assert tile_counts(weight, pe, simd, group) == (strength.size, np.count_nonzero(strength))


def test_pruning_zeroes_the_weakest_tiles() -> None:
    weight = np.array([[1.0, 1, 3, 3], [1, 1, 3, 3], [2, 2, 4, 4], [2, 2, 4, 4]])
    result = PruneTiles(0.5, pe=2, simd=2).run(gemm(weight, transB=1))
    assert weights(result.graph)[0].tolist() == [[0, 0, 3, 3], [0, 0, 3, 3], [0, 0, 4, 4], [0, 0, 4, 4]]
    assert result.changed and "2 of 4 tiles are zero" in result.notes


def test_pruning_matrices_that_are_not_transposed() -> None:
    weight = np.array([[1.0, 1, 3, 3], [1, 1, 3, 3], [2, 2, 4, 4], [2, 2, 4, 4]])
    result = PruneTiles(0.5, pe=2, simd=2).run(gemm(weight.T))
    assert weights(result.graph)[0].tolist() == [[0, 0, 3, 3], [0, 0, 3, 3], [0, 0, 4, 4], [0, 0, 4, 4]]


def test_pruning_convolutions_by_tap() -> None:
    weight = np.ones((2, 4, 2, 2))
    weight[:, :, 0, 1] = 0.5
    pruned = weights(PruneTiles(0.25, pe=2, simd=4).run(conv(weight)).graph)[0]
    assert (pruned == np.where(weight == 0.5, 0, 1)).all()


def test_pruning_convolutions_of_few_channels_by_rows_of_taps() -> None:
    weight = np.ones((2, 3, 2, 2))
    weight[:, :, 1] = 0.5
    pruned = weights(PruneTiles(0.5, pe=2, simd=6).run(conv(weight)).graph)[0]
    assert (pruned == np.where(weight == 0.5, 0, 1)).all()


def test_pruning_groups() -> None:
    weight = np.ones((4, 1, 1, 1))
    weight[2] = 0.5
    pruned = weights(PruneTiles(0.25, pe=1, simd=1).run(conv(weight, group=4)).graph)[0]
    assert pruned.ravel().tolist() == [1, 1, 0, 1]


def test_of_equal_tiles_the_first_goes() -> None:
    pruned = weights(PruneTiles(0.5, pe=1, simd=1).run(gemm(np.ones((1, 4)), transB=1)).graph)[0]
    assert pruned.tolist() == [[1, 0, 0, 1]]  # the first of the strongest is kept for the layer's sake


def test_network_scope_compares_relative_to_the_layer() -> None:
    small, large = np.array([[1.0, 1], [0.9, 1]]), np.array([[100.0, 10], [100, 100]])
    pruned = weights(PruneTiles(0.25, pe=1, simd=1).run(chain(small, large)).graph)
    assert [w.T.tolist() for w in pruned] == [[[1, 1], [0, 1]], [[100, 0], [100, 100]]]


def test_network_scope_wrong_with_absolute_norms() -> None:
    small, large = np.array([[1.0, 1], [0.9, 1]]), np.array([[100.0, 10], [100, 100]])
    pruned = weights(PruneTiles(0.25, pe=1, simd=1).run(chain(small, large)).graph)
    assert np.count_nonzero(pruned[0]) != 2


def test_layer_scope_takes_the_share_of_every_layer() -> None:
    even, uneven = np.ones((2, 2)), np.array([[100.0, 1], [1, 100]])
    pruned = weights(PruneTiles(0.5, pe=1, simd=1, scope="layer").run(chain(even, uneven)).graph)
    assert [(w == 0).sum() for w in pruned] == [2, 2]


def test_network_scope_takes_more_where_tiles_are_weak() -> None:
    even, uneven = np.ones((2, 2)), np.array([[100.0, 1], [1, 100]])
    pruned = weights(PruneTiles(0.25, pe=1, simd=1).run(chain(even, uneven)).graph)
    assert [(w == 0).sum() for w in pruned] == [0, 2]


@pytest.mark.parametrize("scope", ["network", "layer"])
def test_no_layer_is_emptied(scope: str) -> None:
    pruned = weights(PruneTiles(0.99, pe=1, simd=1, scope=scope).run(chain(np.eye(2), 9 * np.eye(2))).graph)  # type: ignore[arg-type]
    assert [np.count_nonzero(w) for w in pruned] == [1, 1]


def test_a_layer_is_emptied_when_asked() -> None:
    pruned = weights(PruneTiles(1, pe=1, simd=1, allow_empty=True).run(chain(np.eye(2))).graph)
    assert not pruned[0].any()


def test_per_layer_ratio_and_skip_first() -> None:
    graph = chain(np.ones((2, 2)), np.ones((2, 2)), np.ones((2, 2)))
    pruned = weights(
        PruneTiles(0.25, pe=1, simd=1, scope="layer", per_layer={"m1": 0.75}, skip_first=True).run(graph).graph
    )
    assert [np.count_nonzero(w) for w in pruned] == [4, 1, 3]


def test_pruning_says_what_is_padded() -> None:
    notes = PruneTiles(0, pe=8, simd=4).run(conv(np.ones((6, 5, 1, 1)))).notes
    assert notes[0] == "'conv': 2 tiles of 8 x 4, 0 zero (rows 6 padded to 8, channels 5 padded to 8)"


def test_pruning_nothing_returns_the_same_graph() -> None:
    graph = conv(np.ones((2, 2, 1, 1)))
    result = PruneTiles(0).run(graph)
    assert result.graph is graph and not result.changed


@pytest.mark.parametrize(
    "options",
    [
        {"ratio": 1}, {"ratio": -0.1}, {"ratio": float("nan")}, {"ratio": 0.5, "pe": 0}, {"ratio": 0.5, "scope": "x"},
        {"ratio": 0.5, "per_layer": {"conv": 2}},
    ],
)  # fmt: skip
def test_pruning_refuses(options: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        PruneTiles(**options)  # type: ignore[arg-type]


def test_pruning_refuses_an_unknown_layer_and_suggests_one() -> None:
    with pytest.raises(UsageError) as error:
        PruneTiles(0.5, per_layer={"konv": 0.5}).run(conv(np.ones((2, 2, 1, 1))))
    assert error.value.problems[0].hint == "is 'conv' meant?"


# Ternary weights


def test_threshold_edge_belongs_to_the_support() -> None:
    weight = np.array([[8.0, 0.5, 0.4375, -0.5, -0.4375, 0]])
    found, step = statistical(weight, beta=0.0625)
    assert found.tolist() == [[1, 1, 0, -1, 0, 0]]
    assert step.tolist() == [3.0]  # (8 + 0.5 + 0.5) / 3


def test_threshold_edge_wrong_if_left_out() -> None:
    assert statistical(np.array([[8.0, 0.5]]), beta=0.0625)[0].tolist() != [[1, 0]]


def test_two_terms_are_nested_and_lie_on_one_grid() -> None:
    weight = np.array([[16.0, 15, -16, 3, -3, 3, 1, 0]])  # thresholds 2 and 4; levels 3 and 15.67: 1 to 5
    found, step = statistical(weight, terms=2, beta=0.125)
    assert found.tolist() == [[5, 5, -5, 1, -1, 1, 0, 0]]
    assert step[0] == pytest.approx((5 * 47 + 9) / (3 * 25 + 3))


def test_all_zero_channel_has_scale_one_and_codes_zero() -> None:
    for found, step in (
        statistical(np.zeros((1, 4)), 2),
        fitted(np.zeros((1, 4)), 2),
        SignedDigits(2).fit(np.zeros((1, 4))),
    ):
        assert not found.any() and step.tolist() == [1.0]


def test_scale_is_the_mean_of_the_support() -> None:
    weight = np.random.default_rng(0).normal(size=(4, 50))
    found, step = statistical(weight)
    assert step == pytest.approx(np.array([np.abs(w[k != 0]).mean() for w, k in zip(weight, found, strict=True)]))


@given(WEIGHTS, st.integers(1, 5))
def test_zero_stays_zero_codes_fit_and_signs_stay(weight: np.ndarray, terms: int) -> None:
    for found, step in (statistical(weight, terms), fitted(weight, terms)):
        assert not found[weight == 0].any()
        assert np.abs(found).max() <= (1 if terms == 1 else 7) and (step > 0).all()
        assert (found * np.sign(weight) >= 0).all()


@given(WEIGHTS, st.integers(1, 5))
def test_supports_are_nested(weight: np.ndarray, terms: int) -> None:
    """A larger magnitude never has a smaller code: one threshold per level."""
    for found, _ in (statistical(weight, terms), fitted(weight, terms)):
        order = np.argsort(np.abs(weight), axis=1)
        assert (np.diff(np.take_along_axis(np.abs(found), order, axis=1), axis=1) >= 0).all()


@given(WEIGHTS)
def test_steps_have_the_least_squared_error(weight: np.ndarray) -> None:
    found, step = statistical(weight, 2)

    def error(s: np.ndarray) -> np.ndarray:
        return ((weight - found * s[:, None]) ** 2).sum(axis=1)

    assert (error(step) <= error(step * 1.01)).all() and (error(step) <= error(step * 0.99)).all()


def test_fitted_thresholds_have_less_error() -> None:
    weight = np.random.default_rng(0).normal(size=(4, 200))
    for terms in (1, 2, 4):
        errors = [
            ((weight - c * s[:, None]) ** 2).sum() for c, s in (statistical(weight, terms), fitted(weight, terms))
        ]
        assert errors[1] < 0.9 * errors[0]


def test_more_terms_have_less_error() -> None:
    weight = np.random.default_rng(1).normal(size=(4, 200))
    errors = [((weight - c * s[:, None]) ** 2).sum() for c, s in (fitted(weight, n) for n in (1, 2, 3, 7, 9))]
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("terms, dtype", [(1, "int2"), (2, "int4"), (7, "int4"), (9, "int8")])
def test_narrowest_type_is_written(terms: int, dtype: str) -> None:
    weight = np.random.default_rng(0).normal(size=(4, 3, 3, 3))
    result = Ternarize(terms, thresholds="fitted").run(conv(weight))
    assert codes(result.graph).dtype == dtype


def test_mean_correction_keeps_the_power_of_the_output() -> None:
    """The error of the output's mean power shrinks, for inputs that are alike and uncorrelated."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(6, 3, 2, 2))
    x = rng.normal(size=(400, 1, 3, 4, 4))
    kept = {}
    for correct in (False, True):
        graph = Ternarize(1, mean_correction=correct).run(conv(weight)).graph
        power = [np.mean([output(g, f) ** 2 for f in x]) for g in (conv(weight), graph)]
        kept[correct] = abs(power[1] / power[0] - 1)
    assert kept[True] < 0.05 < kept[False]


@pytest.mark.parametrize("per, axes", [("layer", (0, 1)), ("channel", (1,))])
def test_stretched_weights_have_the_norm_of_the_weights(per: str, axes: tuple[int, ...]) -> None:
    weight = np.array([[1.0, 2, 0], [3, -5, 7]])
    graph = Ternarize(1, per=per).run(gemm(weight, transB=1)).graph  # type: ignore[arg-type]
    (scale,) = [graph[n.inputs[1]].value.array for n in graph.all(R.Mul)]  # type: ignore[union-attr]
    quantized = codes(graph).array * (scale if per == "layer" else scale[:, None])
    assert (quantized**2).sum(axis=axes) == pytest.approx((weight**2).sum(axis=axes))


def test_one_scale_per_layer() -> None:
    weight = np.array([[1.0, 1], [3, 3]])
    graph = Ternarize(1, per="layer", mean_correction=False).run(gemm(weight, transB=1)).graph
    (scale,) = [graph[n.inputs[1]].value for n in graph.all(R.Mul)]  # type: ignore[union-attr]
    assert scale.array.tolist() == 2.0 and scale.shape == ()


@pytest.mark.parametrize(
    "make", [Ternarize(1), Ternarize(2, per="layer"), SignedDigits(3)], ids=["one", "layer", "csd"]
)
@pytest.mark.parametrize("bias", [None, np.array([1.0, -2, 3])], ids=["bare", "bias"])
def test_written_form_computes_codes_times_scale_plus_bias(
    make: Ternarize | SignedDigits, bias: np.ndarray | None
) -> None:
    rng = np.random.default_rng(0)
    weight, x = rng.normal(size=(3, 2, 3, 3)), rng.integers(0, 256, (1, 2, 4, 4))
    graph = make.run(conv(weight, bias)).graph
    (times,) = graph.all(R.Mul)
    scale = graph[times.inputs[1]].value.array  # type: ignore[union-attr]
    windows = np.lib.stride_tricks.sliding_window_view(x[0], (3, 3), axis=(1, 2))
    sums = np.einsum("mcij,cyxij->myx", codes(graph).array.astype(int), windows)
    expected = sums.astype(np.float32) * scale
    if bias is not None:
        expected = expected + bias.astype(np.float32)[:, None, None]
    assert (output(graph, x)[0] == expected).all()


def test_alpha_and_beta_are_folded() -> None:
    weight, bias = np.array([[2.0, -2], [4, 0]]), np.array([[1.0, 2]])
    graph = Ternarize(1).run(gemm(weight, bias, alpha=0.5, beta=2.0, transB=1)).graph
    (layer,) = graph.all(R.Gemm)
    assert (layer.alpha, layer.beta, len(layer.inputs)) == (1, 1, 2)
    assert output(graph, np.array([[1, 10]])).tolist() == [[-9 + 2, 2 + 4]]


def test_alpha_wrong_if_dropped() -> None:
    weight = np.array([[2.0, -2], [4, 0]])
    graph = Ternarize(1).run(gemm(weight, alpha=0.5, transB=1)).graph
    assert output(graph, np.array([[1, 10]])).tolist() != [[-18, 4]]


def test_written_layer_keeps_its_value_and_origin() -> None:
    graph = Ternarize(1).run(conv(np.ones((2, 1, 1, 1)), np.ones(2))).graph
    assert graph.outputs == ("y",) and graph["y"].origin.tensor == "y" and graph["y"].op == "Add"
    assert all(n.origin.names == ("conv",) for n in graph if n.name not in ("x",))
    assert [n.origin.tensor for n in graph if n.origin.tensor] == ["x", "y"]


def test_quantized_layers_are_left_alone() -> None:
    graph = Ternarize(1).run(conv(np.ones((2, 1, 1, 1)))).graph
    for again in (Ternarize(1), SignedDigits(2), PruneTiles(0.5)):
        result = again.run(graph)  # type: ignore[attr-defined]
        assert result.graph is graph and result.notes == ("'conv' left alone: its weights are quantized already",)


def test_pruned_weights_stay_pruned() -> None:
    weight = np.random.default_rng(0).normal(size=(8, 8, 3, 3))
    graph, records = apply(conv(weight), [PruneTiles(0.5, pe=4, simd=4), Ternarize(2)])
    count, kept = tile_counts(codes(graph).array, 4, 4)
    assert (count, kept) == (36, 18)
    assert [r.name for r in records] == ["prune-tiles", "ternarize"] and all(r.changed for r in records)


@pytest.mark.parametrize("make", [PruneTiles(0.5, pe=1, simd=1), Ternarize(2), SignedDigits(2)])
def test_the_given_graph_stays_as_it_is(make: PruneTiles) -> None:
    graph = conv(np.random.default_rng(0).normal(size=(2, 2, 3, 3)), np.ones(2))
    before, weight = graph.nodes, graph["w"].value  # type: ignore[attr-defined]
    text = repr(before)
    assert make.run(graph).changed
    assert graph.nodes is before and repr(before) == text and not weight.array.flags.writeable


@pytest.mark.parametrize(
    "options", [{"terms": 0}, {"terms": 65}, {"terms": 20}, {"beta": 0.0}, {"per": "network"}, {"thresholds": "none"}]
)
def test_ternarize_refuses(options: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        Ternarize(**options)  # type: ignore[arg-type]


# Signed digits


@pytest.mark.parametrize(
    "n, digits",
    [
        (0, ()),
        (1, (1,)),
        (3, (-1, 0, 1)),
        (7, (-1, 0, 0, 1)),
        (-3, (1, 0, -1)),
        (11, (-1, 0, -1, 0, 1)),
        (6, (0, -1, 0, 1)),
    ],
)
def test_csd(n: int, digits: tuple[int, ...]) -> None:
    assert csd(n) == digits


@given(st.integers(-300, 300))
def test_csd_is_canonical(n: int) -> None:
    digits = csd(n)
    assert sum(d << k for k, d in enumerate(digits)) == n
    assert set(digits) <= {-1, 0, 1}
    assert not any(a and b for a, b in pairwise(digits))


def test_binary_digits_are_wrong_for_csd() -> None:
    assert csd(3) != (1, 1)


@given(st.floats(-150, 150), st.integers(1, 4), st.integers(2, 8))
def test_nearest_has_few_digits_and_none_is_nearer(value: float, digits: int, bits: int) -> None:
    found = int(nearest_with_digits(np.array([value]), digits, bits)[0])
    top = 2 ** (bits - 1) - 1
    allowed = [n for n in range(-top, top + 1) if np.count_nonzero(csd(n)) <= digits]
    assert found in allowed
    assert abs(found - value) == min(abs(n - value) for n in allowed)


def test_of_two_equally_near_the_smaller() -> None:
    assert nearest_with_digits(np.array([0.5, -0.5, 1.5, 3, -3, 0]), 1).tolist() == [0, 0, 1, 2, -2, 0]


@given(WEIGHTS, st.integers(1, 3))
def test_signed_digits_keep_zero_and_range(weight: np.ndarray, digits: int) -> None:
    found, step = SignedDigits(digits, 5).fit(weight)
    assert not found[weight == 0].any() and np.abs(found).max() <= 15 and (step > 0).all()
    assert all(np.count_nonzero(csd(int(n))) <= digits for n in np.unique(found))


def test_more_digits_have_less_error() -> None:
    weight = np.random.default_rng(0).normal(size=(4, 100))
    errors = [((weight - c * s[:, None]) ** 2).sum() for c, s in (SignedDigits(n).fit(weight) for n in (1, 2, 3, 4))]
    assert errors == sorted(errors, reverse=True) and errors[2] < 0.001 * (weight**2).sum()


@pytest.mark.parametrize("digits, bits", [(0, 8), (9, 8), (2, 1), (2, 9)])
def test_signed_digits_refuse(digits: int, bits: int) -> None:
    with pytest.raises(UsageError):
        SignedDigits(digits, bits)


# All of them


def test_every_pass_has_a_name_and_a_line() -> None:
    assert [p.name for p in PASSES] == [
        "declare-inputs", "prune-tiles", "scale-inputs", "equalize", "ternarize", "signed-digits", "match-outputs",
        "relu-before-max-pool", "quantize-activations",
    ]  # fmt: skip
    assert all((p.__doc__ or "").splitlines()[0].endswith(".") for p in PASSES)
