"""Data files: what is wrong with them is said all at once; how validation frames are drawn."""

from __future__ import annotations

import numpy as np
import pytest

from tcompile.compress.data import split
from tcompile.errors import UsageError
from tcompile.ir.graph import TensorType

KIND = TensorType("float32", (1, 2, 3))
CLASSES = 3


def arrays(**changes: object) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    whole = {
        "x_train": random.normal(size=(30, 2, 3)).astype(np.float32), "y_train": np.arange(30) % CLASSES,
        "x_test": random.normal(size=(6, 2, 3)).astype(np.float32), "y_test": np.arange(6) % CLASSES,
    }  # fmt: skip
    return {k: v for k, v in {**whole, **changes}.items() if v is not None}


def problems(**changes: object) -> list[tuple[str, str]]:
    with pytest.raises(UsageError) as caught:
        split(arrays(**changes), KIND, CLASSES)
    return [(p.code, p.message) for p in caught.value.problems]


def test_parts_are_disjoint_and_whole():
    data = split(arrays(), KIND, CLASSES, validation=0.2)
    assert (len(data.x_train), len(data.x_validation), len(data.x_test)) == (24, 6, 6)
    both = np.concatenate([data.x_train, data.x_validation]).reshape(30, -1)
    assert sorted(map(tuple, both)) == sorted(map(tuple, arrays()["x_train"].reshape(30, -1)))


def test_every_class_gives_its_share():
    data = split(arrays(), KIND, CLASSES, validation=0.2)
    assert np.bincount(data.y_validation).tolist() == [2, 2, 2]


def test_every_class_keeps_a_frame_on_both_sides():
    y = np.array([0] * 26 + [1, 1, 2, 2])
    data = split(arrays(y_train=y), KIND, CLASSES, validation=0.01)
    assert np.bincount(data.y_validation).tolist() == [1, 1, 1]
    assert np.bincount(data.y_train).tolist() == [25, 1, 1]


def test_split_depends_on_the_seed_alone():
    first, again, other = (split(arrays(), KIND, CLASSES, seed=s).x_validation for s in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_frames_with_the_leading_one_are_taken_too():
    x = arrays()["x_train"][:, None]
    assert split(arrays(x_train=x), KIND, CLASSES).x_train.shape[1:] == (1, 2, 3)


def test_missing_arrays_are_all_named():
    found = problems(y_train=None, x_test=None)
    assert [m for _, m in found] == [
        "the data file must hold y_train, and has 'x_train', 'y_test'",
        "the data file must hold x_test, and has 'x_train', 'y_test'",
    ]


def test_labels_out_of_range_are_named():
    assert problems(y_test=np.array([0, 1, 2, 7, -1, 0])) == [
        ("label-range", "y_test must hold classes 0 to 2, as the model gives 3 scores, and holds -1, 7")
    ]


def test_frames_of_another_shape_are_refused():
    found = problems(x_train=np.zeros((30, 3, 2), np.float32))
    assert found == [("input-shape", "x_train must hold frames of shape [2, 3], and has shape [30, 3, 2]")]


def test_nan_is_refused_with_its_count():
    x = arrays()["x_train"].copy()
    x[3, 0, 0], x[4, 1, 1], x[4, 1, 2] = np.nan, np.inf, np.nan
    assert problems(x_train=x) == [("input-values", "x_train must be finite, and 2 of 30 frames hold NaN or infinity")]


def test_empty_class_is_refused():
    assert problems(y_train=np.arange(30) % 2) == [
        ("empty-class", "every class must have at least 2 training frames; class 2 has 0")
    ]


@pytest.mark.parametrize("y", [np.eye(3)[np.arange(30) % 3], (np.arange(30) % 3).astype(np.float32)])
def test_labels_that_are_no_integers_are_refused(y):
    assert problems(y_train=y)[0][0] == "labels"


def test_lengths_must_agree():
    assert problems(y_test=np.arange(5) % 3) == [
        ("label-count", "x_test and y_test must be of one length, not 6 and 5")
    ]


def test_texts_are_no_frames():
    assert problems(x_test=np.full((6, 2, 3), "a"))[0][0] == "input-type"


def test_all_that_is_wrong_is_said_at_once():
    found = problems(x_train=np.zeros((0, 2, 3), np.float32), y_test=np.array([9] * 6), x_test=None)
    assert [code for code, _ in found] == ["missing-array", "input-shape", "label-count", "label-range"]
