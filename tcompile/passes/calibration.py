"""What values occur inside a network, observed by running it in onnxruntime on real inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np

from tcompile.errors import Problem, UsageError, printable
from tcompile.frontend.export import model_of
from tcompile.ir import real as R
from tcompile.ir.graph import Graph
from tcompile.reference import Session

__all__ = ["Observed", "calibrate", "frames_of", "magnitudes", "runner"]

KEPT = 1 << 17  # elements kept per value


@dataclass(frozen=True, eq=False)
class Observed:
    """A value over all calibration frames.

    Parameters
    ----------
    lo, hi : float
        Smallest and largest element.
    sample : float64 array (n,)
        Elements drawn evenly from all frames, a bounded number.
    mean : float64 array, shape of the value
        Mean over frames.
    """

    lo: float
    hi: float
    sample: np.ndarray
    mean: np.ndarray


def calibrate(
    graph: Graph, samples: Mapping[str, np.ndarray], values: Iterable[str] | None = None
) -> Mapping[str, Observed]:
    """Run the network frame by frame and keep what choosing ranges and corrections needs.

    Parameters
    ----------
    samples : mapping of str to array (N, ...)
        Frames per input, by the name of the input's ONNX tensor.
    values : iterable of str, optional
        Real values to observe; all floating-point values that depend on the inputs if left out.

    Raises
    ------
    UsageError
        An input has no samples, no frame, another number of frames, or frames of the wrong size.
    """
    frames = frames_of(graph, samples)
    wanted = tuple(values) if values is not None else _floats(graph)
    session = runner(graph, wanted)
    count = len(next(iter(frames.values())))
    observers = {v: _Observer(count) for v in wanted}
    for k in range(count):
        results = session({name: x[k] for name, x in frames.items()})
        for value, observer in observers.items():
            observer.see(results[value])
    return {v: o.observed() for v, o in observers.items()}


def magnitudes(graph: Graph, samples: Mapping[str, np.ndarray], values: tuple[str, ...]) -> Mapping[str, np.ndarray]:
    """Largest magnitude of each element of some values over all frames, float64; arguments and errors as `calibrate`."""
    frames = frames_of(graph, samples)
    session = runner(graph, values)
    largest = {v: np.zeros(()) for v in values}
    for k in range(len(next(iter(frames.values())))):
        results = session({name: x[k] for name, x in frames.items()})
        largest = {v: np.maximum(size, np.abs(results[v])) for v, size in largest.items()}
    return largest


class _Observer:
    def __init__(self, frames: int) -> None:
        self.frames = frames
        self.per_frame = max(16, KEPT // frames)
        self.random = np.random.default_rng(0)
        self.lo, self.hi = np.inf, -np.inf
        self.parts: list[np.ndarray] = []
        self.total: np.ndarray | None = None

    def see(self, x: np.ndarray) -> None:
        flat = x.reshape(-1).astype(np.float64)
        self.lo, self.hi = min(self.lo, float(flat.min())), max(self.hi, float(flat.max()))
        if len(flat) > self.per_frame:
            flat = flat[self.random.choice(len(flat), self.per_frame, replace=False)]
        self.parts.append(flat)
        self.total = x.astype(np.float64) if self.total is None else self.total + x

    def observed(self) -> Observed:
        assert self.total is not None
        return Observed(self.lo, self.hi, np.concatenate(self.parts), self.total / self.frames)


def _floats(graph: Graph) -> tuple[str, ...]:
    moving: list[str] = []
    seen: set[str] = set()
    for node in graph:
        assert isinstance(node, R.RealNode)
        if isinstance(node, R.Input) or any(i in seen for i in node.uses):
            seen.add(node.name)
            if node.type.dtype == "float32":
                moving.append(node.name)
    return tuple(moving)


def runner(graph: Graph, values: tuple[str, ...]) -> Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]:
    """What runs one frame, inputs by value name, and returns some real values of the graph."""
    inputs = {n.name: n.type for n in graph.all(R.Input)}
    computed = tuple(v for v in values if v not in inputs)
    if not computed:
        return dict
    part = graph.with_nodes(graph.nodes, computed)
    nodes = [n for n in part if isinstance(n, R.RealNode)]
    kinds = {n.name: n.type for n in nodes}
    session = Session(model_of(nodes, inputs, {v: kinds[v] for v in computed}))
    return lambda feeds: {**feeds, **session(feeds)}


def frames_of(graph: Graph, samples: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """Frames per input value, each of the input's own shape and type: (N, *shape); errors as `calibrate`."""
    problems, frames = [], {}
    for node in graph.all(R.Input):
        tensor = node.origin.tensor or node.name
        array = np.asarray(samples.get(tensor, ()))
        where = f"calibration data for input {printable(tensor)}"
        if tensor not in samples:
            problems.append(
                Problem("calibration-input", f"{where} is missing", (tensor,), "name the array like the input")
            )
        elif array.ndim == 0 or not len(array) or array[0].size != prod(node.type.shape):
            found = f"must hold frames of shape {list(node.type.shape)}, not an array of shape {list(array.shape)}"
            problems.append(Problem("calibration-shape", f"{where} {found}", (tensor,), "the first axis counts frames"))
        elif not np.isfinite(array).all():
            problems.append(Problem("calibration-values", f"{where} must be finite", (tensor,)))
        else:
            frames[node.name] = array.reshape(len(array), *node.type.shape).astype(node.type.dtype)
    if len({len(f) for f in frames.values()}) > 1:
        counts = ", ".join(str(len(f)) for f in frames.values())
        problems.append(Problem("calibration-frames", f"all inputs must have the same number of frames, not {counts}"))
    if problems:
        raise UsageError(problems)
    return frames
