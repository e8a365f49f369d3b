"""How much is to be pruned: a share of the groups, cycles per frame, or a device; and what a layer takes on engines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from math import prod
from typing import Literal, Protocol

import numpy as np

from tcompile.errors import Problem, UsageError, printable
from tcompile.ir import integer as I
from tcompile.ir import real as R
from tcompile.ir.graph import Graph, IntType, Tensor, TensorType
from tcompile.mapping.layout import Layout, channels_last
from tcompile.mapping.linear import linear
from tcompile.mapping.plan import Plan, Task, planned
from tcompile.passes.prune_tiles import weakest
from tcompile.passes.tile_view import TileView
from tcompile.passes.weights import Layer

__all__ = ["Candidate", "Cycles", "Even", "Fitting", "Goal", "LayerCost", "Ratio", "engine_cycles"]

BIT = IntType((1,), 0, 1)  # of values that do not matter to an engine's cycles
TWO_DIGITS = 5  # an INT4 weight whose two Booth digits are not zero
STEPS = 32  # shares that are tried for a device
MOST = STEPS - 1


@dataclass(frozen=True, eq=False)
class Candidate:
    """A layer whose groups may be pruned.

    Parameters
    ----------
    name : str
    strengths : float64 array (groups,)
        The weakest go first.
    alive : bool array (groups,)
        Whether a group's quantized weights are not all zero; those that are go before all others.
    ids : int64 array like the weights
        Group of each weight.
    codes : int64 array like the weights
        Quantized weights in integers.
    """

    name: str
    strengths: np.ndarray
    alive: np.ndarray
    ids: np.ndarray
    codes: np.ndarray

    @property
    def ranks(self) -> np.ndarray:
        """Strength relative to the layer's mean, comparable between layers; below zero for groups that are dead."""
        relative = self.strengths / (self.strengths.mean() or 1.0)
        return np.asarray(np.where(self.alive, relative, relative / (1 + relative) - 1))

    def filled_without(self, dropped: np.ndarray) -> np.ndarray:
        """Integers once groups are pruned, if training then leaves no other weight zero."""
        return np.asarray(np.where(dropped[self.ids], 0, self._fill))

    def kept_without(self, dropped: np.ndarray) -> np.ndarray:
        """The same with the integers of now where they are not zero: their signs decide what adders share."""
        return np.asarray(np.where(dropped[self.ids], 0, np.where(self.codes == 0, self._fill, self.codes)))

    @property
    def _fill(self) -> int:
        return 1 if np.abs(self.codes).max(initial=0) <= 1 else TWO_DIGITS


class Goal(Protocol):
    """Chooses the groups to prune."""

    def dropped(self, layers: Sequence[Candidate]) -> list[np.ndarray]:
        """Which groups go, layer by layer, as bool arrays (groups,).

        Raises
        ------
        UsageError
            The goal cannot be reached; every reason.
        """
        ...

    def check(self, layers: Sequence[Candidate]) -> None:
        """Refuse what cannot be reached, before any training; errors as `dropped`."""
        ...


@dataclass(frozen=True)
class Ratio:
    """A share of all groups, or of each layer's.

    Parameters
    ----------
    share : float
        At least 0, below 1; at most 1 with `allow_empty`.
    scope : {"network", "layer"}
        Whether the groups of all layers compete, or each layer loses its share.
    allow_empty : bool
        Whether a layer may lose all its groups.
    """

    share: float
    scope: Literal["network", "layer"] = "network"
    allow_empty: bool = False

    def __post_init__(self) -> None:
        problems = []
        if not (0 <= self.share < 1 or (self.share == 1 and self.allow_empty)):
            message = f"the ratio of groups to prune must be at least 0 and below 1, not {self.share!r}"
            problems.append(Problem("prune-ratio", message))
        if self.scope not in ("network", "layer"):
            message = f"groups compete in the network or in their layer, not in {self.scope!r}"
            problems.append(Problem("prune-scope", message))
        if problems:
            raise UsageError(problems)

    def dropped(self, layers: Sequence[Candidate]) -> list[np.ndarray]:
        """See `Goal.dropped`: exactly the asked number, rounded to even."""
        parts = [list(layers)] if self.scope == "network" else [[layer] for layer in layers]
        result: list[np.ndarray] = []
        problems = []
        for part in parts:
            total = sum(len(c.strengths) for c in part)
            count = round(Fraction(self.share) * total)
            chosen = weakest([c.ranks for c in part], count, allow_empty=self.allow_empty)
            found = sum(int(c.sum()) for c in chosen)
            if found < count:
                problems.append(self._unreached(part, count, found, total))
            result += chosen
        if problems:
            raise UsageError(problems)
        return result

    def check(self, layers: Sequence[Candidate]) -> None:
        """See `Goal.check`."""
        self.dropped(layers)

    def _unreached(self, part: list[Candidate], count: int, most: int, total: int) -> Problem:
        message = f"{count} of {total} groups must be zero, and at most {most} can be: every layer keeps one"
        hint = "ask for less sparsity, or for smaller groups (--pe, --simd)"
        return Problem("sparsity-unreachable", message, tuple(c.name for c in part[:12]), hint)


@dataclass(frozen=True)
class Even:
    """The same share of each layer's groups, whatever a layer's groups are; one of them always stays.

    Parameters
    ----------
    share : float
        At least 0, below 1.
    """

    share: float

    def dropped(self, layers: Sequence[Candidate]) -> list[np.ndarray]:
        """See `Goal.dropped`."""
        counts = [round(Fraction(self.share) * len(c.strengths)) for c in layers]
        return [weakest([c.ranks], n)[0] for c, n in zip(layers, counts, strict=True)]

    def check(self, layers: Sequence[Candidate]) -> None:
        """See `Goal.check`: nothing is out of reach."""


@dataclass(frozen=True, eq=False)
class Fitting:
    """As small a share of each layer's groups as lets the accelerator fit a device.

    Every weight that is left counts as one that is not zero (`Candidate.kept_without`), so that what training does to the
    survivors changes little.

    Parameters
    ----------
    misfit : callable
        Integer weights by layer to what does not fit; nothing if all does.
    """

    misfit: Callable[[Mapping[str, np.ndarray]], Sequence[Problem]]

    def dropped(self, layers: Sequence[Candidate]) -> list[np.ndarray]:
        """See `Goal.dropped`."""
        self.check(layers)
        low, high = 0, MOST  # 32nds that are enough: at least low, at most high
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if self._tried(layers, middle) else (low, middle)
        return Even(low / STEPS).dropped(layers)

    def check(self, layers: Sequence[Candidate]) -> None:
        """See `Goal.check`."""
        hint = "ask for fewer frames per second, or choose a larger --target"
        problems = [
            replace(p, message=f"with {MOST} of {STEPS} groups pruned {p.message}", hint=hint)
            for p in self._tried(layers, MOST)
        ]
        if problems:
            raise UsageError(problems)

    def _tried(self, layers: Sequence[Candidate], part: int) -> Sequence[Problem]:
        gone = Even(part / STEPS).dropped(layers)
        return self.misfit({c.name: c.kept_without(d) for c, d in zip(layers, gone, strict=True)})


@dataclass(frozen=True, eq=False)
class LayerCost:
    """What a layer takes on an engine, by the mapping's cycle model.

    Parameters
    ----------
    layer : callable
        Integer weights to a plan.
    """

    layer: Callable[[np.ndarray], Plan]

    @classmethod
    def of(cls, graph: Graph, layer: Layer, pe: int, simd: int) -> LayerCost:
        """The cost of a layer of a real graph on engines of PE x SIMD lanes, cut to what it can use."""
        view = TileView.of_layer(graph, layer, pe, simd)
        kind = graph[layer.node.inputs[0]].type
        assert isinstance(kind, TensorType)

        def plan(codes: np.ndarray) -> Plan:
            work = linear(*_integer(layer, kind.shape, view, codes))
            return planned(Task(layer.name, work, BIT, BIT), work.fit(pe, simd))

        return cls(plan)

    def cycles(self, codes: np.ndarray) -> int:
        """Cycles per frame with these integer weights, output channel first."""
        return self.layer(codes).cycles

    def tiles(self, codes: np.ndarray) -> tuple[int, int]:
        """Tiles of the layer, and those that hold a weight."""
        plan = self.layer(codes)
        return plan.tiles, plan.kept


def _integer(
    layer: Layer, shape: tuple[int, ...], view: TileView, codes: np.ndarray
) -> tuple[I.Conv | I.Dense, Layout]:
    """The layer on the integer level, and how its input travels."""
    node = layer.node
    if isinstance(node, R.Conv):
        return _conv(codes, shape, node.strides, node.pads, node.dilations, node.group)
    dense = I.Dense(name="layer", inputs=("x",), type=BIT, weight=Tensor.of(codes.astype(np.int64)))
    if len(view.shape) == 2:
        return dense, channels_last(shape, -1)
    image = channels_last((1, *view.shape[1:]), 1)
    return dense, Layout((1, prod(view.shape[1:])), image.grid, image.channels, image.order)


def _conv(
    codes: np.ndarray,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    pads: tuple[int, ...],
    dilations: tuple[int, ...],
    group: int = 1,
) -> tuple[I.Conv, Layout]:
    conv = I.Conv(
        name="layer", inputs=("x",), type=BIT, weight=Tensor.of(codes.astype(np.int64)), strides=strides, pads=pads,
        dilations=dilations, group=group,
    )  # fmt: skip
    return conv, channels_last(shape, 1)


def engine_cycles(
    codes: np.ndarray,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    pads: tuple[int, ...],
    dilations: tuple[int, ...],
    pe: int,
    simd: int,
) -> int:
    """Cycles per frame of a convolution with integer weights on an engine.

    Parameters
    ----------
    codes : int array (O, I, kernel...)
    shape : tuple of int
        Of its input, (1, I, image...).
    strides, pads, dilations : tuple of int
        As ONNX has them.
    pe, simd : int
        Lanes, cut to what the layer can use.
    """
    work = linear(*_conv(codes, shape, strides, pads, dilations))
    return planned(Task("layer", work, BIT, BIT), work.fit(pe, simd)).cycles


@dataclass(frozen=True, eq=False)
class Cycles:
    """As few groups as let no layer take more than some cycles per frame.

    The layers of a pipeline work at the same time: the slowest alone decides, so each one is thinned until it is fast
    enough, weakest groups first, and no further. What is not masked may become other than zero in later training, so that
    every weight that is left counts: the layer stays within the cycles whatever training does.

    Parameters
    ----------
    most : int
        Cycles per frame.
    costs : mapping of str to LayerCost
        By the name of the layer.
    """

    most: int
    costs: Mapping[str, LayerCost] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.most < 1:
            raise UsageError(Problem("cycles", f"a frame must take at least one cycle, not {self.most!r}"))

    def dropped(self, layers: Sequence[Candidate]) -> list[np.ndarray]:
        """See `Goal.dropped`."""
        result, problems = [], []
        for layer in layers:
            order = np.argsort(layer.ranks, kind="stable")[:-1]  # the strongest stays
            if self._cycles(layer, order) > self.most:
                problems.append(self._unreached(layer, self._cycles(layer, order)))
                continue
            low, high = 0, len(order)  # groups that are enough: at least low, at most high
            while low < high:
                middle = (low + high) // 2
                enough = self._cycles(layer, order[:middle]) <= self.most
                low, high = (low, middle) if enough else (middle + 1, high)
            result.append(self._mark(layer, order[:low]))
        if problems:
            raise UsageError(problems)
        return result

    def check(self, layers: Sequence[Candidate]) -> None:
        """See `Goal.check`."""
        self.dropped(layers)

    def _cycles(self, layer: Candidate, gone: np.ndarray) -> int:
        return self.costs[layer.name].cycles(layer.filled_without(self._mark(layer, gone)))

    def _mark(self, layer: Candidate, gone: np.ndarray) -> np.ndarray:
        mark = np.zeros(len(layer.strengths), bool)
        mark[gone] = True
        return mark

    def _unreached(self, layer: Candidate, least: int) -> Problem:
        message = (
            f"layer {printable(layer.name)} must take at most {self.most} cycles per frame, and takes {least} with one "
            f"group left: its input and output beats and one entry per row block remain"
        )
        return Problem("cycles-unreachable", message, (layer.name,), "allow more cycles, or give it more lanes")
