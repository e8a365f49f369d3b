"""Groups of weights: each shape by hand, tiles as the hardware cuts them, norms and their gradients."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tcompile.compress.groups import Groups, groups_of, groups_of_layer
from tcompile.errors import UsageError
from tcompile.ir import real as R
from tcompile.ir.graph import Graph, Origin, Tensor, TensorType
from tcompile.mapping.linear import Linear
from tcompile.mapping.plan import tasks
from tcompile.mapping.schedule import tiled
from tcompile.passes import PruneTiles, tiles
from tcompile.passes.tile_view import TileView
from tcompile.passes.weights import float_layers
from tests.networks import Builder


def partition(ids: np.ndarray) -> set[frozenset[int]]:
    """Which weights, counted flat, stand together."""
    flat = ids.reshape(-1)
    return {frozenset(np.flatnonzero(flat == k).tolist()) for k in np.unique(flat)}


def real_layer(weight: np.ndarray, image: tuple[int, ...] = (), group: int = 1) -> Graph:
    """A convolution over an image of 6 x 6, or a dense layer behind the image, flattened."""
    w = Tensor.of(np.asarray(weight, np.float32))
    const = R.Const(name="w", value=w, type=TensorType("float32", w.shape))
    shape = (1, *image) if image else (1, weight.shape[1] * group, 6, 6)
    x = R.Input(name="x", type=TensorType("float32", shape), origin=Origin((), "x"))
    origin = Origin((("layer", "Conv"),), "y")
    if not image:
        kernel = weight.shape[2:]
        y: R.RealNode = R.Conv(
            name="y", inputs=("x", "w"), type=TensorType("float32", (1, len(weight), 7 - kernel[0], 7 - kernel[1])),
            kernel_shape=kernel, strides=(1, 1), pads=(0, 0, 0, 0), dilations=(1, 1), group=group, origin=origin,
        )  # fmt: skip
        return Graph("real", (x, const, y), ("y",))
    flat = R.Reshape(name="f", inputs=("x",), type=TensorType("float32", (1, prod(image))))
    y = R.Gemm(name="y", inputs=("f", "w"), type=TensorType("float32", (1, len(weight))), transB=1, origin=origin)
    return Graph("real", (x, const, flat, y), ("y",))


def hardware_tiles(shape: tuple[int, ...], pe: int, simd: int, image: tuple[int, ...], group: int = 1) -> np.ndarray:
    """The tile of each weight by the mapping: the engine's own cut of an integer layer."""
    numbers = np.arange(1, prod(shape) + 1).reshape(shape)
    low, high = (
        tiled(layer, layer.fit(pe, simd)) for layer in (mapped(n, image, group) for n in (numbers % 99, numbers // 99))
    )
    cut = low + 99 * high
    ids = np.zeros(prod(shape) + 1, np.int64)
    tile = np.arange(prod(cut.shape[:2])).reshape(*cut.shape[:2], 1, 1)
    ids[cut.reshape(-1)] = np.broadcast_to(tile, cut.shape).reshape(-1)
    return ids[1:].reshape(shape)


def mapped(weight: np.ndarray, image: tuple[int, ...], group: int) -> Linear:
    """A layer as the mapping sees it; what stands before a flattened image decides how it travels."""
    b = Builder()
    x = b.input((1, *image) if image else (1, weight.shape[1] * group, 6, 6))
    if image:
        x = b.conv(x, np.ones((image[0], 1, 1, 1), np.int64), group=image[0])
    y = b.dense(b.reshape(x, (1, prod(image))), weight) if image else b.conv(x, weight, group=group)
    return tasks(b.graph(y))[y].layer


CASES = {
    "plain": ((6, 10, 3, 3), (), 1),
    "few channels": ((9, 3, 3, 3), (), 1),
    "one channel": ((4, 1, 2, 5), (), 1),
    "pointwise": ((12, 7, 1, 1), (), 1),
    "grouped": ((12, 6, 2, 2), (), 2),
    "depthwise": ((10, 1, 3, 3), (), 10),
    "flattened": ((10, 9 * 6), (9, 3, 2), 1),
    "flattened, few channels": ((10, 2 * 12), (2, 3, 4), 1),
    "flattened, one channel": ((5, 30), (1, 5, 6), 1),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("pe, simd", [(8, 8), (4, 4), (2, 3), (1, 1), (3, 20)])
def test_tiles_are_those_that_the_engine_skips(case: str, pe: int, simd: int) -> None:
    shape, image, group = CASES[case]
    graph = real_layer(np.ones(shape), image, group)
    (layer,) = float_layers(graph)[0]
    found = groups_of_layer("tile", graph, layer, pe=pe, simd=simd)
    expected = hardware_tiles(shape, pe, simd, image, group)
    assert partition(found.ids.numpy()) == partition(expected)


def test_tiles_wrong_if_a_flattened_image_is_taken_for_a_vector() -> None:
    shape, image, _ = CASES["flattened"]
    expected = hardware_tiles(shape, 8, 8, image)
    assert partition(groups_of("tile", shape).ids.numpy()) != partition(expected)


@given(st.integers(1, 5), st.integers(1, 6), st.integers(1, 4), st.integers(1, 4))
def test_ids_count_tiles_as_their_strengths_do(rows: int, channels: int, pe: int, simd: int) -> None:
    weight = np.random.default_rng(rows).normal(size=(rows, channels, 2, 2))
    view = TileView.of(weight.shape, pe, simd)
    groups = groups_of("tile", weight.shape, pe=pe, simd=simd)
    by_pass = tiles(view.cut(weight), view.pe, view.simd).reshape(-1)
    assert groups.strengths(torch.from_numpy(weight)).numpy() == pytest.approx(by_pass)


def test_pruning_by_the_pass_kills_the_same_groups() -> None:
    weight = np.random.default_rng(0).normal(size=(12, 3, 3, 3))
    result = PruneTiles(0.5, pe=4, simd=4).run(real_layer(weight))
    (layer,) = float_layers(result.graph)[0]
    groups = groups_of_layer("tile", result.graph, layer, pe=4, simd=4)
    kept = groups.alive(torch.from_numpy(layer.weight))
    assert int((~kept).sum()) == round(groups.count / 2)
    assert torch.equal(torch.from_numpy(layer.weight) != 0, groups.spread(kept))


def test_shapes_by_hand() -> None:
    shape = (2, 2, 1, 2)  # two filters of two channels of two taps
    found = {
        s: groups_of(s, shape, pe=2, simd=2).ids.reshape(2, 4).tolist()
        for s in ("filter", "channel", "column", "weight")
    }  # type: ignore[arg-type]
    assert found == {
        "filter": [[0, 0, 0, 0], [1, 1, 1, 1]],
        "channel": [[0, 0, 1, 1], [0, 0, 1, 1]],
        "column": [[0, 1, 2, 3], [0, 1, 2, 3]],
        "weight": [[0, 1, 2, 3], [4, 5, 6, 7]],
    }


def test_slice_is_one_filter_by_some_channels_over_all_taps() -> None:
    ids = groups_of("slice", (2, 3, 2, 1), simd=2).ids
    assert ids[:, :, 0, 0].tolist() == [[0, 0, 1], [2, 2, 3]]
    assert torch.equal(ids[:, :, 0], ids[:, :, 1])


def test_tile_over_taps_joins_the_taps() -> None:
    single, joined = (groups_of(s, (4, 6, 3, 3), pe=2, simd=4) for s in ("tile", "tile-over-taps"))  # type: ignore[arg-type]
    assert (single.count, joined.count) == (2 * 9 * 2, 2 * 2)
    assert torch.equal(joined.ids, joined.ids[:, :, :1, :1].expand(-1, -1, 3, 3))


def test_groups_of_a_grouped_convolution_stay_within_it() -> None:
    ids = groups_of("channel", (4, 2, 1, 1), group=2).ids.reshape(4, 2)
    assert ids.tolist() == [[0, 1], [0, 1], [2, 3], [2, 3]]


def test_dense_layers_have_the_same_shapes() -> None:
    assert groups_of("column", (3, 5)).count == 5
    assert groups_of("filter", (3, 5)).count == 3
    assert groups_of("tile", (3, 5), pe=2, simd=2).count == 6


def test_norms_by_hand() -> None:
    groups = Groups(torch.tensor([[0, 0, 1], [0, 1, 2]]), 3)
    weight = torch.tensor([[1.0, 2, 0], [2, 0, -5]])
    assert groups.norms(weight).tolist() == [3, 0, 5]
    assert groups.strengths(weight).tolist() == pytest.approx([3 / 3**0.5, 0, 5])
    assert groups.fair_norms(weight).tolist() == pytest.approx([3, 0, 5 * 3**0.5])
    assert groups.alive(weight).tolist() == [True, False, True]
    assert groups.without(weight, torch.tensor([True, False, False])).tolist() == [[0, 0, 0], [0, 0, -5]]


def test_padded_tiles_compare_fairly() -> None:
    groups = groups_of("tile", (3, 5), pe=2, simd=4)
    weight = torch.full((3, 5), 2.0)
    assert groups.fair_norms(weight).tolist() == pytest.approx([2 * 8**0.5] * 4)


def test_padded_tiles_wrong_by_their_plain_norm() -> None:
    groups = groups_of("tile", (3, 5), pe=2, simd=4)
    assert len(set(groups.norms(torch.full((3, 5), 2.0)).tolist())) == 4


def test_the_gradient_of_a_norm_is_the_direction_and_zero_at_zero() -> None:
    groups = Groups(torch.tensor([0, 0, 1, 1]), 2)
    weight = torch.tensor([3.0, 4, 0, 0], requires_grad=True)
    (gradient,) = torch.autograd.grad(groups.norms(weight).sum(), weight)
    assert gradient.tolist() == pytest.approx([0.6, 0.8, 0, 0])


def test_the_gradient_of_a_norm_wrong_without_the_guard() -> None:
    groups = Groups(torch.tensor([0, 0, 1, 1]), 2)
    weight = torch.tensor([3.0, 4, 0, 0], requires_grad=True)
    (gradient,) = torch.autograd.grad(groups.sums(weight**2).sqrt().sum(), weight)
    assert not gradient.isfinite().all()


def test_the_gradient_of_norms_by_finite_differences() -> None:
    groups = groups_of("tile", (3, 5), pe=2, simd=2)
    weight = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(groups.fair_norms, (weight,))


@pytest.mark.parametrize(
    "ids, count", [([0, 2], 3), ([0, 1], 1), ([0, 0], 2)], ids=["a group left out", "too large", "none of the last"]
)
def test_refuses_groups_without_weights(ids: list[int], count: int) -> None:
    with pytest.raises(UsageError, match="each with a weight"):
        Groups(torch.tensor(ids), count)


def test_refuses_all_wrong_options_at_once() -> None:
    with pytest.raises(UsageError) as error:
        groups_of("tiel", (4, 4), pe=0)  # type: ignore[arg-type]
    assert [p.code for p in error.value.problems] == ["unknown-group", "tile-size"]
