"""The integer interpreter equals plain loops over Python's integers."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tcompile.ir import integer as I
from tcompile.ir.graph import Graph, IntType, Tensor
from tcompile.ir.interpret import interpret
from tcompile.ir.legality import check
from tcompile.ir.requantizers import Comparators, Table

WIDE = (1 << 63) - 1


def run(node, *arrays):
    """One operation on one frame, inputs named x0, x1, ... with the intervals of their values."""
    inputs = [I.Input(name=f"x{k}", type=IntType(a.shape, int(a.min()), int(a.max()))) for k, a in enumerate(arrays)]
    graph = Graph("integer", (*inputs, node), (node.name,))
    check(graph)
    return interpret(graph, {f"x{k}": a[None] for k, a in enumerate(arrays)})["y"][0]


def made(cls, shape, inputs=("x0",), **fields):
    return cls(name="y", inputs=inputs, type=IntType(tuple(shape), -WIDE, WIDE), **fields)


def pad(x, pads, code):
    rank = len(pads) // 2
    return np.pad(x, [(0, 0), (0, 0), *zip(pads[:rank], pads[rank:], strict=True)], constant_values=code)


def slid(x, kernel, strides, pads, dilations, code, window):
    """`window` of the elements (kernel positions) of every channel at every position, loop by loop."""
    x = pad(x, pads, code)
    sizes = [(n - (k - 1) * d - 1) // s + 1 for n, k, s, d in zip(x.shape[2:], kernel, strides, dilations, strict=True)]
    out = {}
    for place in product(*map(range, sizes)):
        taps = [
            tuple(p * s + t * d for p, s, t, d in zip(place, strides, tap, dilations, strict=True))
            for tap in product(*map(range, kernel))
        ]
        out[place] = window([[int(x[(0, c, *tap)]) for tap in taps] for c in range(x.shape[1])])
    rows = len(next(iter(out.values())))
    return np.array([[out[p][m] for p in product(*map(range, sizes))] for m in range(rows)]).reshape(1, rows, *sizes)


@st.composite
def windows(draw):
    rank = draw(st.integers(1, 2))
    kernel = tuple(draw(st.integers(1, 3)) for _ in range(rank))
    dilations = tuple(draw(st.integers(1, 2)) for _ in range(rank))
    strides = tuple(draw(st.integers(1, 3)) for _ in range(rank))
    pads = tuple(draw(st.integers(0, k - 1)) for k in kernel * 2)
    size = tuple((k - 1) * d + 1 + draw(st.integers(0, 4)) for k, d in zip(kernel, dilations, strict=True))
    return kernel, strides, pads, dilations, size


def arrays(draw, shape, lo=-9, hi=9):
    return np.random.default_rng(draw(st.integers(0, 1 << 30))).integers(lo, hi + 1, shape)


def shape_of(size, geometry, channels):
    kernel, strides, pads, dilations, _ = geometry
    r = len(kernel)
    spatial = [
        (size[k] + pads[k] + pads[r + k] - (kernel[k] - 1) * dilations[k] - 1) // strides[k] + 1 for k in range(r)
    ]
    return (1, channels, *spatial)


@given(windows(), st.data())
@settings(max_examples=60)
def test_conv(geometry, data):
    kernel, strides, pads, dilations, size = geometry
    group = data.draw(st.integers(1, 3))
    share, rows = data.draw(st.sampled_from([(1, 1), (1, 2), (2, 1), (3, 2)]))
    x = arrays(data.draw, (1, group * share, *size), -128, 127)
    w = arrays(data.draw, (group * rows, share, *kernel), -128, 127)
    code = data.draw(st.integers(-3, 3))

    def window(taps):
        flat = w.reshape(len(w), share, -1)
        return [
            sum(int(flat[m, c, t]) * v for c in range(share) for t, v in enumerate(taps[m // rows * share + c]))
            for m in range(len(w))
        ]

    node = made(
        I.Conv, shape_of(size, geometry, len(w)), weight=Tensor.of(w), strides=strides, pads=pads,
        dilations=dilations, group=group, pad_code=code,
    )  # fmt: skip
    np.testing.assert_array_equal(run(node, x), slid(x, kernel, strides, pads, dilations, code, window))


@given(windows(), st.data())
@settings(max_examples=40)
@pytest.mark.parametrize("kind", [I.MaxPool, I.SumPool])
def test_pools(kind, geometry, data):
    kernel, strides, pads, dilations, size = geometry
    x = arrays(data.draw, (1, 2, *size))
    extra = {"pad_code": 5} if kind is I.SumPool else {}
    code, function = (5, sum) if kind is I.SumPool else (-100, max)
    node = made(
        kind, shape_of(size, geometry, 2), kernel=kernel, strides=strides, pads=pads, dilations=dilations, **extra
    )
    expected = slid(x, kernel, strides, pads, dilations, code, lambda taps: [function(t) for t in taps])
    np.testing.assert_array_equal(run(node, x), expected)


@given(st.data())
@settings(max_examples=30)
def test_dense(data):
    shape = data.draw(st.sampled_from([(1, 5), (1, 2, 5), (5,)]))
    x, w = arrays(data.draw, shape, -300, 300), arrays(data.draw, (4, 5), -256, 255)
    flat = x.reshape(-1, 5).tolist()
    expected = [[sum(a * b for a, b in zip(row, weight, strict=True)) for weight in w.tolist()] for row in flat]
    node = made(I.Dense, (*shape[:-1], 4), weight=Tensor.of(w))
    np.testing.assert_array_equal(run(node, x), np.array(expected).reshape(*shape[:-1], 4))


@pytest.mark.parametrize("bits", [23, 24, 25, 52, 53, 54, 61])
@pytest.mark.parametrize("sign", [1, -1])
def test_sums_stay_exact_beyond_what_floats_hold(bits, sign):
    """An odd sum just past 2**bits: with 24 or 53 bits of mantissa its last unit would be lost."""
    largest = (1 << bits) - 1
    x = np.array([[largest, 1, 1, -1]]) * sign
    node = made(I.Dense, (1, 2), weight=Tensor.of([[1, 1, 1, 0], [1, 0, 0, 1]]))
    assert run(node, x).tolist() == [[sign * (largest + 2), sign * (largest - 1)]]
    image = x.reshape(1, 4, 1, 1)
    conv = made(
        I.Conv, (1, 1, 1, 1), weight=Tensor.of(np.array([[1, 1, 1, 0]]).reshape(1, 4, 1, 1)),
        strides=(1, 1), pads=(0, 0, 0, 0), dilations=(1, 1),
    )  # fmt: skip
    assert run(conv, image).item() == sign * (largest + 2)


def test_the_pad_code_counts_in_the_choice_of_arithmetic():
    """Inputs of one bit, but a border of 2**24: its sums have no room in float32."""
    node = made(
        I.Conv, (1, 1, 3), weight=Tensor.of(np.array([[[1, 1, 1]]])),
        strides=(1,), pads=(1, 1), dilations=(1,), pad_code=1 << 24,
    )  # fmt: skip
    assert run(node, np.array([[[1, 0, 1]]])).tolist() == [[[(1 << 24) + 1, 2, (1 << 24) + 1]]]


@given(st.data())
@settings(max_examples=20)
def test_add_scaled(data):
    a, b = arrays(data.draw, (1, 3, 2)), arrays(data.draw, (1, 3, 2))
    f, g = data.draw(st.tuples(st.integers(-50, 50), st.integers(-50, 50)))
    node = made(I.AddScaled, (1, 3, 2), ("x0", "x1"), factors=(f, g))
    np.testing.assert_array_equal(
        run(node, a, b),
        [
            [
                [f * x + g * y for x, y in zip(p, q, strict=True)]
                for p, q in zip(a[0].tolist(), b[0].tolist(), strict=True)
            ]
        ],
    )


@pytest.mark.parametrize("axis", [1, 2])
def test_requantize_takes_parameters_along_its_axis(axis):
    x = np.arange(-6, 6).reshape(1, 2, 6) if axis == 1 else np.arange(-6, 6).reshape(1, 6, 2)
    form = Comparators(([0], [3, 5]), ([7, 8], [0, 1, 9]))
    scalar = [lambda n: 7 + (n >= 0), lambda n: 0 if n < 3 else 1 if n < 5 else 9]
    expected = np.array([scalar[i[axis]](int(x[i])) for i in np.ndindex(x.shape)]).reshape(x.shape)
    np.testing.assert_array_equal(run(made(I.Requantize, x.shape, form=form, axis=axis), x), expected)


def test_requantize_by_one_table_for_all_channels():
    x = np.array([[[3, 4], [5, 3]]])
    assert run(made(I.Requantize, (1, 2, 2), form=Table([3], ([9, 1, 4],))), x).tolist() == [[[9, 1], [4, 9]]]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_concat(axis):
    a, b = np.arange(24).reshape(2, 3, 4), -np.arange(24).reshape(2, 3, 4)
    shape = tuple(n * (2 if k == axis else 1) for k, n in enumerate(a.shape))
    found = run(made(I.Concat, shape, ("x0", "x1"), axis=axis), a, b)
    for i in np.ndindex(shape):
        part = b if i[axis] >= a.shape[axis] else a
        assert found[i] == part[tuple(n % a.shape[k] if k == axis else n for k, n in enumerate(i))]


@given(st.data())
@settings(max_examples=40)
def test_slice(data):
    shape = (3, 5, 4)
    x = np.arange(60).reshape(shape)
    starts, steps, sizes = [], [], []
    for n in shape:
        start, step = data.draw(st.integers(0, n - 1)), data.draw(st.sampled_from([1, 2, -1, -2]))
        room = (n - 1 - start) // step if step > 0 else start // -step
        starts.append(start), steps.append(step), sizes.append(data.draw(st.integers(1, room + 1)))
    found = run(made(I.Slice, sizes, starts=tuple(starts), steps=tuple(steps)), x)
    for i in np.ndindex(*sizes):
        assert found[i] == x[tuple(s + t * k for s, t, k in zip(starts, steps, i, strict=True))]


def test_pad():
    found = run(made(I.Pad, (2, 6), pads=(0, 1, 1, 2), code=-7), np.array([[1, 2, 3]]))
    assert found.tolist() == [[-7, 1, 2, 3, -7, -7], [-7] * 6]


def test_reshape_and_transpose_move_elements_only():
    x = np.arange(24).reshape(2, 3, 4)
    assert run(made(I.Reshape, (4, 6)), x).tolist() == [list(range(k, k + 6)) for k in (0, 6, 12, 18)]
    found = run(made(I.Transpose, (4, 2, 3), perm=(2, 0, 1)), x)
    assert all(found[c, a, b] == x[a, b, c] for a, b, c in np.ndindex(x.shape))


@pytest.mark.parametrize("shape", [(1, 1), (1,)], ids=["kept", "dropped"])
def test_arg_max_takes_the_first_of_equals(shape):
    assert run(made(I.ArgMax, shape, axis=1), np.array([[-4, 7, 2, 7]])).ravel().tolist() == [1]


# Frames, inputs


def network():
    x = I.Input(name="x", type=IntType((1, 2), -3, 4))
    y = I.Dense(name="y", inputs=("x",), type=IntType((1, 1), -3, 4), weight=Tensor.of([[1, 0]]))
    z = I.Reshape(name="z", inputs=("y",), type=IntType((1,), -3, 4))
    return Graph("integer", (x, y, z), ("z",))


def test_frames_are_independent_and_inner_values_are_kept_on_demand():
    frames = np.array([[[1, 2]], [[-3, 4]], [[0, 0]]])
    seen = []
    found = interpret(network(), {"x": frames}, keep=lambda n: n.name == "y", progress=seen.append)
    assert found["z"].tolist() == [[1], [-3], [0]] and found["y"].tolist() == [[[1]], [[-3]], [[0]]]
    assert set(found) == {"y", "z"} and seen == [3]


@pytest.mark.parametrize("value", [-4, 5])
def test_an_input_outside_its_interval_is_refused(value):
    with pytest.raises(ValueError, match=r"must lie in \[-3, 4\]"):
        interpret(network(), {"x": np.array([[[0, value]]])})


def test_an_input_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"shape \(1, 2\) per frame"):
        interpret(network(), {"x": np.zeros((3, 2), np.int64)})


def test_an_input_that_is_no_integer_is_refused():
    with pytest.raises(ValueError, match="must be integers"):
        interpret(network(), {"x": np.array([[[0.5, 1.0]]])})


def test_no_frames_give_no_results():
    assert interpret(network(), {"x": np.zeros((0, 1, 2), np.int64)})["z"].shape == (0, 1)
