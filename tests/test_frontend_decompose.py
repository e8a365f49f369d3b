"""Operators written as simpler ones give the same numbers in onnxruntime."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper

from tcompile import reference
from tcompile.errors import ModelError
from tcompile.frontend import normalize

FLOAT = TensorProto.FLOAT
GONE = {
    "DepthToSpace", "SpaceToDepth", "Gather", "Resize", "Upsample", "Expand", "Tile", "Sum", "ReduceMax", "ConvTranspose",
}  # fmt: skip


def model(op: str, shape, constants=(), opset: int = 19, inputs: int = 1, **attributes) -> ModelProto:
    """One node; constants follow its inputs, None where one is left out."""
    names = [f"x{k}" for k in range(inputs)] + ["" if c is None else f"c{k}" for k, c in enumerate(constants)]
    tensors = [numpy_helper.from_array(np.asarray(c), f"c{k}") for k, c in enumerate(constants) if c is not None]
    node = helper.make_node(op, names, ["y"], "n", **attributes)
    values = [helper.make_tensor_value_info(f"x{k}", FLOAT, list(shape)) for k in range(inputs)]
    graph = helper.make_graph([node], "g", values, [helper.make_tensor_value_info("y", FLOAT, None)], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def decomposed(given: ModelProto, seed: int = 0) -> list[str]:
    """Operators of the normal form, whose results on integers are those of the model, bit for bit."""
    normal, rng = normalize(given), np.random.default_rng(seed)
    feeds = {
        v.name: rng.integers(-50, 50, [d.dim_value for d in v.type.tensor_type.shape.dim]).astype(np.float32)
        for v in given.graph.input
    }
    (wanted,), (found,) = (reference.run(m, feeds).values() for m in (given, normal))
    assert found.dtype == wanted.dtype and np.array_equal(found, wanted)
    kinds = [n.op_type for n in normal.graph.node]
    assert "n" in {n.name for n in normal.graph.node} or not kinds
    assert not GONE.intersection(kinds)
    return kinds


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_depth_to_space(mode, size):
    decomposed(model("DepthToSpace", (1, 2 * size * size, 3, 2), blocksize=size, mode=mode))


def test_depth_to_space_wrong():
    with pytest.raises(ModelError, match="blocks of 2 x 2"):
        normalize(model("DepthToSpace", (1, 6, 3, 2), blocksize=2))


@pytest.mark.parametrize("axis", [-4, 3])
def test_axes_that_are_not_there(axis):
    with pytest.raises(ModelError, match="an axis from -3 to 2"):
        normalize(model("Gather", (1, 2, 3), [[0]], axis=axis))
    with pytest.raises(ModelError, match="an axis from -3 to 2"):
        normalize(model("ReduceMax", (1, 2, 3), [[axis]]))


def test_averages_over_more_than_there_is():
    with pytest.raises(ModelError, match="do not fit"):
        normalize(model("AveragePool", (1, 2, 6, 6), kernel_shape=[7, 7], ceil_mode=1))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_space_to_depth(size):
    decomposed(model("SpaceToDepth", (1, 2, 3 * size, 2 * size), blocksize=size))


@pytest.mark.parametrize(
    "indices, axis",
    [
        ([2], 1),
        (1, 1),
        (-1, 3),
        ([0, 2, 1], 2),
        ([[0, 1], [2, -1]], 3),
        ([3, 1], 3),
        ([0, 0, 1, 1, 2, 2], 1),
        ([1, 1], -2),
    ],
)
def test_gather(indices, axis):
    assert "Gather" not in decomposed(model("Gather", (1, 3, 3, 4), [np.asarray(indices, np.int64)], axis=axis))


def test_gather_wrong():
    with pytest.raises(ModelError, match="indices must be from -3 to 2"):
        normalize(model("Gather", (1, 3, 2, 2), [np.asarray([3], np.int64)], axis=1))


MODES = ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("nearest", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
@pytest.mark.parametrize("scales", [(1, 1, 2, 2), (1, 1, 3, 1), (1, 1, 1.5, 0.5), (1, 1, 0.6, 2.3)])
def test_resize(mode, nearest, scales):
    given = [None, np.asarray(scales, np.float32)]
    values = {"coordinate_transformation_mode": mode, "nearest_mode": nearest, "mode": "nearest"}
    decomposed(model("Resize", (1, 2, 5, 4), given, **values))


def test_resize_to_sizes():
    sizes = [None, None, np.asarray([1, 2, 7, 6], np.int64)]
    decomposed(model("Resize", (1, 2, 5, 4), sizes, mode="nearest"))


def test_resize_that_interpolates():
    with pytest.raises(ModelError, match="nearest neighbours, not interpolate"):
        normalize(model("Resize", (1, 2, 5, 4), [None, np.asarray([1, 1, 2, 2], np.float32)], mode="linear"))


@pytest.mark.parametrize("opset", [7, 9])
def test_upsample(opset):
    if opset == 7:
        decomposed(model("Upsample", (1, 2, 3, 4), opset=7, mode="nearest", scales=[1.0, 1.0, 2.0, 3.0]))
    else:
        decomposed(model("Upsample", (1, 2, 3, 4), [np.asarray([1, 1, 2, 3], np.float32)], opset=9, mode="nearest"))


def test_expand_and_tile():
    decomposed(model("Expand", (1, 3, 1), [np.asarray([2, 1, 3, 4], np.int64)]))
    decomposed(model("Tile", (1, 3, 2), [np.asarray([1, 2, 3], np.int64)]))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_sum(count):
    assert decomposed(model("Sum", (1, 3), inputs=count)) == ["Add"] * (count - 1) or count == 1


@pytest.mark.parametrize("axes, keep", [((2, 3), 1), ((2, 3), 0), ((-1,), 1), ((2,), 0)])
def test_reduce_max(axes, keep):
    assert "MaxPool" in decomposed(model("ReduceMax", (1, 2, 3, 4), [np.asarray(axes, np.int64)], keepdims=keep))


def test_reduce_max_wrong():
    with pytest.raises(ModelError, match="largest over positions"):
        normalize(model("ReduceMax", (1, 2, 3, 4), [np.asarray([1], np.int64)]))


@st.composite
def transposed(draw):
    rank = draw(st.integers(1, 2))
    size = draw(st.lists(st.integers(1, 4), min_size=rank, max_size=rank))
    kernel = draw(st.lists(st.integers(1, 3), min_size=rank, max_size=rank))
    strides = draw(st.lists(st.integers(1, 3), min_size=rank, max_size=rank))
    dilations = draw(st.lists(st.integers(1, 2), min_size=rank, max_size=rank))
    group = draw(st.integers(1, 2))
    channels, rows = group * draw(st.integers(1, 2)), draw(st.integers(1, 2))
    reach = [(k - 1) * d for k, d in zip(kernel, dilations, strict=True)]
    pads = [draw(st.integers(0, min(r, 2))) for r in reach] + [draw(st.integers(0, min(r, 2))) for r in reach]
    extra = [draw(st.integers(0, s - 1)) for s in strides]
    out = [
        (n - 1) * s + r + 1 + e - a - b
        for n, s, r, e, a, b in zip(size, strides, reach, extra, pads[:rank], pads[rank:], strict=True)
    ]
    if min(out) < 1:
        pads = [0] * 2 * rank
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    weight = rng.integers(-3, 4, (channels, rows, *kernel)).astype(np.float32)
    bias = [rng.integers(-9, 9, group * rows).astype(np.float32)] if draw(st.booleans()) else []
    values = {"strides": strides, "dilations": dilations, "pads": pads, "output_padding": extra, "group": group}
    return model("ConvTranspose", (1, channels, *size), [weight, *bias], **values)


@given(transposed())
def test_conv_transpose(given):
    assert "Conv" in decomposed(given)


@pytest.mark.parametrize("values", [{"auto_pad": "SAME_UPPER"}, {"auto_pad": "SAME_LOWER"}, {"output_shape": [8, 7]}])
def test_conv_transpose_to_a_size(values):
    weight = np.random.default_rng(0).integers(-3, 4, (2, 3, 3, 3)).astype(np.float32)
    decomposed(model("ConvTranspose", (1, 2, 4, 3), [weight], strides=[2, 2], **values))


@st.composite
def averages(draw):
    rank = draw(st.integers(1, 2))
    kernel = draw(st.lists(st.integers(1, 4), min_size=rank, max_size=rank))
    strides = draw(st.lists(st.integers(1, 3), min_size=rank, max_size=rank))
    pads = [draw(st.integers(0, k - 1)) for k in kernel * 2]
    size = [max(k, draw(st.integers(1, 6))) for k in kernel]
    values = {"kernel_shape": kernel, "strides": strides, "pads": pads, "ceil_mode": draw(st.integers(0, 1))}
    return model("AveragePool", (1, 2, *size), count_include_pad=draw(st.integers(0, 1)), **values)


@given(averages())
def test_average_pool(given):
    """Sums of integers are exact, so that one division rounds on both sides alike."""
    kinds = decomposed(given)
    assert kinds.count("AveragePool") >= 1


@pytest.mark.parametrize("values, said", [
    ({"kernel_shape": [2, 2]}, "is not that of its weights"), ({"pads": [4, 4, 4, 4]}, "leave nothing of its output"),
    ({"strides": [0, 1]}, "positive values"),
])  # fmt: skip
def test_conv_transpose_wrong(values, said):
    weight = np.ones((2, 3, 3, 3), np.float32)
    with pytest.raises(ModelError, match=said):
        normalize(model("ConvTranspose", (1, 2, 4, 3), [weight], **values))


def test_tile_wrong():
    with pytest.raises(ModelError, match="number of values in"):
        normalize(model("Tile", (1, 3, 2), [np.asarray([1, 2], np.int64)]))


@pytest.mark.parametrize("op_type", ["MaxPool", "AveragePool"])
def test_pools_that_would_crop_are_refused(op_type):
    """onnxruntime fails on floats, and begins at another place on codes."""
    with pytest.raises(ModelError, match="must write its pads"):
        normalize(model(op_type, (1, 2, 9), auto_pad="SAME_UPPER", kernel_shape=[1], strides=[3]))
    assert decomposed(model(op_type, (1, 2, 9), auto_pad="SAME_UPPER", kernel_shape=[3], strides=[3])) == [op_type]
