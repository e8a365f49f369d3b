"""Low rank: convolutions as three smaller ones (Tucker-2), ranks searched with the cycle model as cost.

    W[o, i, taps] ≈ Σ_{a,b} last[o, a] · core[a, b, taps] · first[b, i]

1 x 1 from I to r channels, the kernel from r to r, 1 x 1 from r to O. `first` and `last` come from the singular vectors
of the two unfoldings of W (HOSVD), the core is W in their coordinates: with r at least as large as O and I nothing is
lost, and |W - W_r|² is at most the sum of the squares of all singular values left out.

The search follows HALOC (Xiao et al., AAAI 2023): both ranks of a layer are equal, and candidates stand only where the
hardware's cost steps, at multiples of the lanes. With p = softmax(α) over a layer's candidates and x the layer's input,

    F(x) = Σ_i p_i · F_i(x)        L = CE + λ · Σ_layers Σ_i p_i · cycles_i / cycles_full + γ · Σ_layers mean (F_full(x) - F(x))²

is minimized by turns: weights on one part of the data, α on the part held out. At the end the candidate with the largest
α stands, to be fine-tuned. The layer as it is is a candidate too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tcompile.compress.goals import engine_cycles
from tcompile.errors import Problem, UsageError

__all__ = ["Conv", "Factors", "RankChoice", "candidates", "search", "tucker2"]

FUNCTIONS: dict[int, Any] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}  # by spatial axes
RATE = 1e-3
CHOICE_RATE = 0.05


@dataclass(frozen=True, eq=False)
class Factors:
    """A convolution's weights as three: the 1 x 1 before, the kernel, the 1 x 1 behind.

    Parameters
    ----------
    first : Tensor (r, I, 1...)
    core : Tensor (r, r, kernel...)
    last : Tensor (O, r, 1...)
    """

    first: Tensor
    core: Tensor
    last: Tensor

    def joined(self) -> Tensor:
        """The weights that these stand for: (O, I, kernel...)."""
        last, first = self.last.flatten(1), self.first.flatten(1)
        core = self.core.reshape(*self.core.shape[:2], -1)
        joined: Tensor = torch.einsum("oa,abt,bi->oit", last, core, first)
        return joined.reshape(len(last), first.shape[1], *self.core.shape[2:])


def tucker2(weight: Tensor, rank: int) -> Factors:
    """Truncated HOSVD of weights (O, I, kernel...) with equal ranks, none larger than its axis.

    Raises
    ------
    UsageError
        A rank below 1, or weights without two axes.
    """
    problems = []
    if rank < 1:
        problems.append(Problem("rank", f"a rank must be at least 1, not {rank!r}"))
    if weight.ndim < 2:
        problems.append(Problem("rank", f"weights must have two axes or more, not {weight.ndim}"))
    if problems:
        raise UsageError(problems)
    w = weight.detach().double()
    u = _leading(w.flatten(1), rank)
    v = _leading(w.transpose(0, 1).flatten(1), rank)
    core = torch.einsum("oa,oit,ib->abt", u, w.reshape(*w.shape[:2], -1), v)
    ones = (1,) * (w.ndim - 2)
    return Factors(
        v.T.reshape(*v.T.shape, *ones).to(weight.dtype),
        core.reshape(*core.shape[:2], *w.shape[2:]).to(weight.dtype),
        u.reshape(*u.shape, *ones).to(weight.dtype),
    )


def _leading(matrix: Tensor, rank: int) -> Tensor:
    """Left singular vectors of the largest singular values, as columns; signs so that sums are not negative."""
    vectors: Tensor = torch.linalg.eigh(matrix @ matrix.T)[1].flip(1)[:, :rank]
    signs = torch.where(vectors.sum(0) < 0, -1.0, 1.0).to(vectors)
    return vectors * signs


def candidates(outputs: int, inputs: int, pe: int, simd: int) -> tuple[int, ...]:
    """Ranks below full at which the hardware's cost steps: multiples of PE and of SIMD.

    Below SIMD an engine takes rows of the window instead, and the cost steps elsewhere too; such ranks are no candidates
    but for multiples of PE.
    """
    full = max(outputs, inputs)
    return tuple(r for r in range(1, full) if r % pe == 0 or r % simd == 0)


@dataclass(frozen=True)
class Conv:
    """How a convolution moves over its image.

    Parameters
    ----------
    image : tuple of int
        Axes of the image, without channels.
    strides, pads, dilations : tuple of int
        As ONNX has them: pads are all begins, then all ends.
    """

    image: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]

    @classmethod
    def of(cls, image: tuple[int, ...], *, stride: int = 1, pad: int = 0) -> Conv:
        """The same along all axes."""
        n = len(image)
        return cls(image, (stride,) * n, (pad,) * (2 * n), (1,) * n)

    def __call__(self, x: Tensor, weight: Tensor) -> Tensor:
        """The convolution of frames (N, I, image...)."""
        n = len(self.image)
        sides = [self.pads[k + end] for k in reversed(range(n)) for end in (0, n)]
        result: Tensor = FUNCTIONS[n](F.pad(x, sides), weight, stride=self.strides, dilation=self.dilations)
        return result

    def low_rank(self, x: Tensor, factors: Factors) -> Tensor:
        """The same with three convolutions; the kernel alone has strides and padding."""
        plain = Conv.of(self.image)
        return plain(self(plain(x, factors.first), factors.core), factors.last)

    @property
    def out(self) -> Callable[[tuple[int, ...]], tuple[int, ...]]:
        """Axes of the result for a kernel."""
        n = len(self.image)

        def sizes(kernel: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(
                (self.image[k] + self.pads[k] + self.pads[k + n] - (kernel[k] - 1) * self.dilations[k] - 1)
                // self.strides[k]
                + 1
                for k in range(n)
            )

        return sizes

    def cycles(self, shape: tuple[int, ...], pe: int, simd: int) -> int:
        """Cycles per frame of a convolution with dense weights (O, I, kernel...) on an engine."""
        return engine_cycles(
            np.ones(shape, np.int64), (1, shape[1], *self.image), self.strides, self.pads, self.dilations, pe, simd
        )

    def cycles_at(self, shape: tuple[int, ...], rank: int, pe: int, simd: int) -> tuple[int, int, int]:
        """Cycles per frame of each of the three convolutions."""
        outputs, inputs, *kernel = shape
        ones = (1,) * len(kernel)
        a, b = min(rank, outputs), min(rank, inputs)
        behind = Conv.of(self.out(tuple(kernel)))
        return (
            Conv.of(self.image).cycles((b, inputs, *ones), pe, simd),
            self.cycles((a, b, *kernel), pe, simd),
            behind.cycles((outputs, a, *ones), pe, simd),
        )


class RankChoice(nn.Module):
    """A convolution that is a mixture of itself and its low-rank forms.

    Parameters
    ----------
    weight : Tensor (O, I, kernel...)
        Of the trained layer.
    conv : Conv
    ranks : sequence of int
        Candidates.
    pe, simd : int
        Lanes of the engine.

    Attributes
    ----------
    alpha : Parameter (candidates + 1,)
        The last is the layer as it is.
    costs : Tensor (candidates + 1,)
        Cycles of each candidate (of its three convolutions in all), relative to those of the layer.
    apart : Tensor ()
        Mean (F_full(x) - F(x))² of the last frames.
    """

    costs: Tensor
    original: Tensor

    def __init__(self, weight: Tensor, conv: Conv, ranks: Sequence[int], pe: int, simd: int) -> None:
        super().__init__()
        self.conv, self.ranks = conv, tuple(ranks)
        self.register_buffer("original", weight.detach().clone())
        self.weight = nn.Parameter(weight.detach().clone())
        parts = [tucker2(weight, r) for r in self.ranks]
        self.factors = nn.ParameterList([nn.Parameter(t) for p in parts for t in (p.first, p.core, p.last)])
        self.alpha = nn.Parameter(torch.zeros(len(self.ranks) + 1, dtype=weight.dtype))
        shape = tuple(weight.shape)
        full = conv.cycles(shape, pe, simd)
        cycles = [sum(conv.cycles_at(shape, r, pe, simd)) / full for r in self.ranks]
        self.register_buffer("costs", torch.tensor([*cycles, 1.0], dtype=weight.dtype))
        self.apart = weight.new_zeros(())

    def forward(self, x: Tensor) -> Tensor:
        share = self.alpha.softmax(0)
        mixed = share[-1] * self.conv(x, self.weight)
        for k, p in enumerate(share[:-1]):
            mixed = mixed + p * self.conv.low_rank(x, Factors(*self.factors[3 * k : 3 * k + 3]))
        with torch.no_grad():
            wanted = self.conv(x, self.original)
        self.apart = ((wanted - mixed) ** 2).mean()
        return mixed

    @property
    def cost(self) -> Tensor:
        """Σ p_i · cycles_i / cycles_full."""
        return (self.alpha.softmax(0) * self.costs).sum()

    @property
    def rank(self) -> int | None:
        """The candidate that leads; None for the layer as it is."""
        return [*self.ranks, None][int(self.alpha.argmax())]

    def chosen(self) -> Tensor | Factors:
        """The weights of the candidate that leads."""
        k = int(self.alpha.argmax())
        if k == len(self.ranks):
            return self.weight.detach()
        return Factors(*(t.detach() for t in self.factors[3 * k : 3 * k + 3]))


def search(
    choices: Sequence[RankChoice],
    loss: Callable[[Any], Tensor],
    batches: Iterable[tuple[Any, Any]],
    *,
    others: Iterable[nn.Parameter] = (),
    strength: float = 0.1,
    closeness: float = 0.1,
    rate: float = RATE,
    choice_rate: float = CHOICE_RATE,
) -> tuple[int | None, ...]:
    """Search ranks in place.

    Parameters
    ----------
    choices : sequence of RankChoice
        Layers of the network that `loss` runs.
    loss : callable
        The task's loss on a batch.
    batches : iterable of (batch, batch)
        Of the training part, for the weights, and of the part held out, for α.
    others : iterable of Parameter
        What else to train with the weights.
    strength, closeness : float
        λ and γ.
    rate, choice_rate : float
        Adam's, of weights and of α.

    Returns
    -------
    tuple of int or None
        Rank of each layer; None for the layer as it is.
    """
    weights = torch.optim.Adam([p for c in choices for p in (c.weight, *c.factors)] + list(others), lr=rate)
    alphas = torch.optim.Adam([c.alpha for c in choices], lr=choice_rate)
    for train, held_out in batches:
        _step(weights, loss(train) + closeness * _sum(c.apart for c in choices), (weights, alphas))
        whole = loss(held_out) + closeness * _sum(c.apart for c in choices) + strength * _sum(c.cost for c in choices)
        _step(alphas, whole, (weights, alphas))
    return tuple(c.rank for c in choices)


def _sum(parts: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(parts)).sum()


def _step(optimizer: torch.optim.Optimizer, loss: Tensor, known: tuple[torch.optim.Optimizer, ...]) -> None:
    for one in known:
        one.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
