"""Data to train with: the arrays of D.npz, checked, and a part of the training frames set aside for validation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tcompile.errors import Problem, UsageError, printable
from tcompile.ir.graph import TensorType

__all__ = ["NAMES", "Data", "split"]

NAMES = ("x_train", "y_train", "x_test", "y_test")
SHOWN = 6  # classes listed in a message


@dataclass(frozen=True, eq=False)
class Data:
    """Frames (N, *shape of the model's input) and classes int64 (N,) in three disjoint parts.

    Frames keep the type they have in the file; all are of a type that the model's input takes.
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_validation: np.ndarray
    y_validation: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


def split(
    arrays: Mapping[str, np.ndarray], kind: TensorType, classes: int, *, validation: float = 0.1, seed: int = 0
) -> Data:
    """Check the arrays of a data file and set frames aside for validation.

    Of every class the same share is drawn, rounded, at least one frame and never all. What is drawn depends on the
    labels and the seed only.

    Parameters
    ----------
    arrays : mapping of str to ndarray
        ``x_train``, ``y_train``, ``x_test``, ``y_test``.
    kind : TensorType
        Of the model's input.
    classes : int
        Scores that the model gives.
    validation : float
        Share of the training frames.
    seed : int
        Of the draw.

    Raises
    ------
    UsageError
        Everything that is wrong with the data.
    """
    problems = [
        Problem("missing-array", f"the data file must hold {name}, and has {_listed(arrays)}", (name,))
        for name in NAMES
        if name not in arrays
    ]
    for part in ("train", "test"):
        x, y = arrays.get(f"x_{part}"), arrays.get(f"y_{part}")
        if x is not None:
            problems += _frame_problems(f"x_{part}", x, kind)
        if y is not None:
            problems += _label_problems(f"y_{part}", y, classes)
        if x is not None and y is not None and x.ndim and len(x) != y.size:
            message = f"x_{part} and y_{part} must be of one length, not {len(x)} and {y.size}"
            problems.append(Problem("label-count", message, (f"y_{part}",)))
    if not problems:
        problems = _class_problems(arrays["y_train"], classes)
    if problems:
        raise UsageError(problems)
    x_train, y_train, x_test, y_test = (arrays[name] for name in NAMES)
    y = y_train.reshape(-1).astype(np.int64)
    held = _held_out(y, classes, validation, seed)
    x = x_train.reshape(len(x_train), *kind.shape)
    return Data(
        x[~held], y[~held], x[held], y[held],
        x_test.reshape(len(x_test), *kind.shape), y_test.reshape(-1).astype(np.int64),
    )  # fmt: skip


def _listed(arrays: Mapping[str, np.ndarray]) -> str:
    return ", ".join(printable(name) for name in sorted(arrays)) or "nothing"


def _frame_problems(name: str, x: np.ndarray, kind: TensorType) -> list[Problem]:
    frame = kind.shape[1:] if kind.shape[:1] == (1,) else kind.shape
    if x.ndim == 0 or not len(x) or x.shape[1:] not in (frame, kind.shape):
        message = f"{name} must hold frames of shape {list(frame)}, and has shape {list(x.shape)}"
        return [Problem("input-shape", message, (name,), "the first axis counts frames")]
    if x.dtype.kind not in "iuf" or not (np.can_cast(x.dtype, kind.dtype, "same_kind") or kind.dtype == "float32"):
        message = f"{name} must hold numbers that the model's input of {kind.dtype} takes, not {x.dtype}"
        return [Problem("input-type", message, (name,))]
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        bad = int((~np.isfinite(x.reshape(len(x), -1)).all(axis=1)).sum())
        message = f"{name} must be finite, and {bad} of {len(x)} frames hold NaN or infinity"
        return [Problem("input-values", message, (name,))]
    return []


def _label_problems(name: str, y: np.ndarray, classes: int) -> list[Problem]:
    if y.dtype.kind not in "iu" or y.size not in y.shape or not y.size:
        message = f"{name} must hold a class per frame as an integer, not {y.dtype} of shape {list(y.shape)}"
        return [Problem("labels", message, (name,), "one-hot labels: give their argmax")]
    wrong = np.unique(y[(y < 0) | (y >= classes)])
    if len(wrong):
        listed = ", ".join(map(str, wrong[:SHOWN].tolist()))
        message = (
            f"{name} must hold classes 0 to {classes - 1}, as the model gives {classes} scores, and holds {listed}"
        )
        return [Problem("label-range", message, (name,))]
    return []


def _class_problems(y: np.ndarray, classes: int) -> list[Problem]:
    """Every class needs a frame to train with and one to validate with."""
    counts = np.bincount(y.reshape(-1).astype(np.int64), minlength=classes)
    few = np.flatnonzero(counts < 2)
    if not len(few):
        return []
    listed = ", ".join(f"class {c} has {counts[c]}" for c in few[:SHOWN])
    more = f" and {len(few) - SHOWN} more" if len(few) > SHOWN else ""
    message = f"every class must have at least 2 training frames; {listed}{more}"
    return [Problem("empty-class", message, ("y_train",))]


def _held_out(y: np.ndarray, classes: int, share: float, seed: int) -> np.ndarray:
    """Which frames validate."""
    random = np.random.default_rng(seed)
    held = np.zeros(len(y), bool)
    for c in range(classes):
        own = np.flatnonzero(y == c)
        count = min(max(round(share * len(own)), 1), len(own) - 1)
        held[random.permutation(own)[:count]] = True
    return held
