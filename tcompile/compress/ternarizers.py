"""Ternary weights and sums of nested ternary planes, each with the gradient of its paper.

A ternarizer gives, for float shadow weights w, integer codes k and a scale s (one per layer, or one per output
channel): the quantized weights are s·k. Weights that are zero stay zero and count in no statistic (a pruned layer has
the thresholds of its survivors); a layer or channel without any other has codes 0 and scale 1. Codes are computed in
float64, so that they are those of `tcompile.passes.ternarize` on the same weights.

Statistical weight scaling (He, Gong, Fan, WACV 2019)
    Term i of N: Δ_i = i·β·max|w|, support |w| >= Δ_i, S_i = mean of |w| on it; w_q = Σ S_i·sign(w)·[|w| >= Δ_i].
    A weight in j supports has the size L_j = S_1 + ... + S_j. These levels are snapped to small integers
    k_1 < ... < k_N (of 4 bits for N <= 7) times one step, chosen for the least Σ n_j·(L_j - s·k_j)², n_j the weights
    of level j; the step is a power of two where asked, else that of the least squared error. ``levels="fitted"``
    takes for L_j the mean of |w| in level j, as the pass does. Backward: every term hands its gradient to the same
    shadow weight, dL/dw = N·dL/dw_q·1{|w| < 1}; nothing flows through the scales.
Ternary weight networks (Li, Zhang, Liu 2016), and the projection of BCGD (Yin et al. 2018)
    Δ = 0.7·mean|w|, support |w| > Δ, S = mean of |w| on it. Backward: dL/dw = dL/dw_q.
    BCGD moves the shadow weights w ← (1-ρ)·w + ρ·w_q - η·g(w_q): `blend` does the first part before each step.
Truncated Gaussian (He, Fan, CVPR 2019)
    μ, σ mean and standard deviation of w; Δ = min(|δ|, 3σ) with a trainable δ (start 0.05·max|w|); t = ±1 outside
    μ ± Δ; α = μ + σ·h(Δ/σ) with h(u) = φ(u) / (1 - Φ(u)); w_q = α·t. Backward: ∂w_q/∂w = 1; δ learns through α:
    h' = h·(h - u), so ∂α/∂δ = h·(h - u)·sign δ for |δ| < 3σ, else 0. Its gradient is clamped.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from itertools import accumulate
from math import pi, sqrt
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tcompile.errors import Problem, UsageError
from tcompile.passes.ternarize import patterns

__all__ = [
    "Bcgd",
    "Kind",
    "Per",
    "Sws",
    "Ternarizer",
    "TruncatedGaussian",
    "Twn",
    "Unquantized",
    "blend",
    "ternarizer",
]

Kind = Literal["sws", "twn", "gaussian", "bcgd", "none"]
Per = Literal["layer", "channel"]
Levels = Literal["paper", "fitted"]

BETA = 0.05  # first threshold of statistical weight scaling, and start of δ, as a share of the largest weight
SHARE = 0.7  # threshold of ternary weight networks as a share of the mean weight
FARTHEST = 3.0  # standard deviations that a truncated Gaussian's threshold may have
CLAMP = 1e-3  # of the gradient of δ
BLEND = 1e-5  # BCGD's ρ
MOST_TERMS = 64


class Ternarizer(nn.Module, ABC):
    """Quantizes the weights of one layer.

    Parameters
    ----------
    per : {"layer", "channel"}
        What shares a scale.
    """

    def __init__(self, per: Per = "layer") -> None:
        super().__init__()
        if per not in get_args(Per):
            raise UsageError(Problem("ternary-scope", f"a scale belongs to a layer or a channel, not to {per!r}"))
        self.per = per

    @torch.no_grad()
    def codes(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Integers like the weights (in their type), and the scale: (MH,) or ()."""
        codes, scale = self._codes(self._rows(weight.detach()).double())
        scale = scale.to(weight.dtype)
        return codes.to(weight.dtype).reshape(weight.shape), scale if self.per == "channel" else scale[0]

    def forward(self, weight: Tensor) -> Tensor:
        """The quantized weights, differentiable as the paper says."""
        result: Tensor = _Straight.apply(weight, self._quantized(weight), 1.0, None)  # type: ignore[no-untyped-call]
        return result

    @abstractmethod
    def _codes(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Codes and scales of weights (rows, n) that share a scale by row."""

    def _rows(self, weight: Tensor) -> Tensor:
        return weight.reshape(len(weight) if self.per == "channel" else 1, -1)

    def _quantized(self, weight: Tensor) -> Tensor:
        codes, scale = self.codes(weight)
        return self._spread(scale, weight) * codes

    def _spread(self, scale: Tensor, weight: Tensor) -> Tensor:
        return scale.reshape(-1, *(1,) * (weight.ndim - 1)) if scale.ndim else scale


class _Straight(torch.autograd.Function):
    """Quantized weights forward; backward the gradient times a factor, where |w| is below a bound if there is one."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, quantized: Tensor, factor: float, bound: float | None) -> Tensor:
        ctx.factor, ctx.bound = factor, bound
        ctx.save_for_backward(weight)
        return quantized.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (weight,) = ctx.saved_tensors
        inside = 1.0 if ctx.bound is None else weight.abs() < ctx.bound
        return gradient * ctx.factor * inside, None, None, None


class Sws(Ternarizer):
    """Statistical weight scaling with residual expansion.

    Parameters
    ----------
    terms : int
        Nested ternary planes, 1 to 64; up to 7 fit INT4 codes.
    per : {"layer", "channel"}
    beta : float
        First threshold as a share of the largest weight; term i has i·beta, and terms·beta must be below 1.
    levels : {"paper", "fitted"}
        Sizes of the levels before they are snapped: sums of the terms' scales, or means between thresholds.
    power_of_two : bool or None
        Whether the step is a power of two; None for more than one term.
    """

    def __init__(
        self,
        terms: int = 1,
        per: Per = "layer",
        *,
        beta: float = BETA,
        levels: Levels = "paper",
        power_of_two: bool | None = None,
    ) -> None:
        super().__init__(per)
        problems = []
        if not 1 <= terms <= MOST_TERMS:
            message = f"the number of ternary terms must be 1 to {MOST_TERMS}, not {terms!r}"
            problems.append(Problem("ternary-terms", message))
        elif not 0 < beta * terms < 1:
            message = f"thresholds must lie between 0 and the largest weight; {terms} times {beta!r} does not"
            problems.append(Problem("ternary-beta", message, hint="choose a smaller beta"))
        if levels not in get_args(Levels):
            problems.append(Problem("ternary-levels", f"levels are paper or fitted, not {levels!r}"))
        if problems:
            raise UsageError(problems)
        self.terms, self.beta, self.levels = terms, beta, levels
        self.power_of_two = terms > 1 if power_of_two is None else power_of_two
        self.register_buffer("table", torch.from_numpy(patterns(terms)).double(), persistent=False)

    table: Tensor

    def forward(self, weight: Tensor) -> Tensor:
        result: Tensor = _Straight.apply(weight, self._quantized(weight), float(self.terms), 1.0)  # type: ignore[no-untyped-call]
        return result

    def _codes(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        size = rows.abs()
        top = size.amax(dim=1, keepdim=True)
        supports = [(size >= i * self.beta * top) & (top > 0) for i in range(1, self.terms + 1)]
        counts = torch.stack([s.sum(dim=1) for s in supports], dim=1).double()
        sums = torch.stack([(size * s).sum(dim=1) for s in supports], dim=1)
        scales = torch.where(counts > 0, sums / counts.clamp(min=1), 0.0)
        counts = _of_levels(counts)
        if self.levels == "paper":
            sums = counts * torch.stack(list(accumulate(scales.unbind(1))), dim=1)
        else:
            sums = _of_levels(sums)
        chosen, step = self._snapped(counts, sums)
        rises = chosen.diff(dim=1, prepend=torch.zeros_like(chosen[:, :1]))
        codes = sum(rises[:, i : i + 1] * s for i, s in enumerate(supports)) * rows.sign()
        return codes, step

    def _snapped(self, counts: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
        """For each row the integers of its levels, and their step, of the least squared error.

        With Σ n_j·L_j·k_j = c and Σ n_j·k_j² = q the error is constant - 2·s·c + s²·q: least for s = c / q.
        """
        cross, square = sums @ self.table.T, counts @ (self.table**2).T
        best = torch.where(square > 0, cross / square.clamp(min=1), 1.0)
        best = torch.where(best > 0, best, 1.0)
        if self.power_of_two:
            low = torch.exp2(torch.floor(torch.log2(best)))
            steps = torch.stack([low, 2 * low])
            errors = steps**2 * square - 2 * steps * cross
            best = torch.where(errors[1] < errors[0], steps[1], steps[0])
        error = best**2 * square - 2 * best * cross
        index = error.argmin(dim=1)
        step = best.gather(1, index[:, None])[:, 0]
        return self.table[index], step


def _of_levels(nested: Tensor) -> Tensor:
    """What belongs to each level alone, of sums over nested supports."""
    return nested - torch.nn.functional.pad(nested[:, 1:], (0, 1))


class Twn(Ternarizer):
    """Ternary weight networks: the baseline."""

    def _codes(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        size = rows.abs()
        kept = size > SHARE * _mean(size, size > 0)
        return rows.sign() * kept, torch.where(kept.any(dim=1), _mean(size, kept)[:, 0], 1.0)


class Bcgd(Twn):
    """The projection of blended coarse gradient descent; `blend` goes with it."""


class TruncatedGaussian(Ternarizer):
    """Truncated Gaussian approximation with a trainable threshold.

    Parameters
    ----------
    weight : Tensor
        Weights at the start, for the first threshold.
    per : {"layer", "channel"}
    clamp : float or None
        Largest gradient of the threshold that is handed on.

    Attributes
    ----------
    delta : Parameter (MH,) or (1,)
        The paper steps it alone, with a plain gradient step, before each step of the weights.
    """

    def __init__(self, weight: Tensor, per: Per = "layer", *, clamp: float | None = CLAMP) -> None:
        super().__init__(per)
        self.clamp = clamp
        self.delta = nn.Parameter(BETA * self._rows(weight.detach()).abs().amax(dim=1))

    def forward(self, weight: Tensor) -> Tensor:
        codes, scale = self.codes(weight)
        with torch.no_grad():
            _, _, slope = self._gaussian(self._rows(weight.detach()).double())
        through = _Through.apply(self.delta, scale.reshape(-1), slope.to(weight.dtype), self.clamp)  # type: ignore[no-untyped-call]
        alpha = self._spread(through, weight) if self.per == "channel" else through[0]
        result: Tensor = _Straight.apply(weight, self._spread(scale, weight) * codes, 1.0, None)  # type: ignore[no-untyped-call]
        return result + (alpha - alpha.detach()) * codes

    def _codes(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        mean, alpha, _ = self._gaussian(rows)
        reach = self._reach(rows)
        alive = rows != 0
        above, below = rows > mean + reach, rows < mean - reach
        codes = (above.double() - below.double()) * alive
        return codes, torch.where(codes.any(dim=1), alpha, 1.0)

    def _reach(self, rows: Tensor) -> Tensor:
        """Δ of each row: (rows, 1)."""
        return torch.minimum(self.delta.detach().double().abs()[:, None], FARTHEST * _moments(rows)[1])

    def _gaussian(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean (rows, 1), α (rows,) and ∂α/∂δ (rows,)."""
        mean, sigma = _moments(rows)
        delta = self.delta.detach().double()[:, None]
        u = torch.where(sigma > 0, self._reach(rows) / sigma.clamp(min=torch.finfo(torch.float64).tiny), 0.0)
        hazard = torch.exp(-(u**2) / 2) / sqrt(2 * pi) / (torch.erfc(u / sqrt(2)) / 2)
        inside = (delta.abs() < FARTHEST * sigma).double()
        return mean, (mean + sigma * hazard)[:, 0], (hazard * (hazard - u) * delta.sign() * inside)[:, 0]


class _Through(torch.autograd.Function):
    """The scale α forward; backward its gradient times ∂α/∂δ, clamped, for δ."""

    @staticmethod
    def forward(ctx: Any, delta: Tensor, scale: Tensor, slope: Tensor, clamp: float | None) -> Tensor:
        ctx.clamp = clamp
        ctx.save_for_backward(slope)
        return scale.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (slope,) = ctx.saved_tensors
        moved = gradient * slope
        return moved if ctx.clamp is None else moved.clamp(-ctx.clamp, ctx.clamp), None, None, None


class Unquantized(Ternarizer):
    """Float weights as they are: for pruning alone. There are no codes, so nothing can be written in integers."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight

    def _codes(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        message = "weights must be ternary to be written as integers, and are floats"
        raise UsageError(Problem("float-weights", message, hint="choose a ternarizer: sws, twn, gaussian or bcgd"))


def _mean(values: Tensor, where: Tensor) -> Tensor:
    """Mean of each row over the places marked, (rows, 1); 0 where there are none."""
    count = where.sum(dim=1, keepdim=True)
    return (values * where).sum(dim=1, keepdim=True) / count.clamp(min=1)


def _moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (of the population) of the weights that are not zero: (rows, 1) each."""
    alive = rows != 0
    mean = _mean(rows, alive)
    return mean, _mean((rows - mean) ** 2, alive).sqrt()


def ternarizer(kind: Kind, weight: Tensor, *, terms: int = 1, per: Per = "layer") -> Ternarizer:
    """The ternarizer of a name for weights, output channel first.

    Raises
    ------
    UsageError
        No such ternarizer, or more than one term of one that has no terms.
    """
    makers: dict[str, Callable[[], Ternarizer]] = {
        "sws": lambda: Sws(terms, per),
        "twn": lambda: Twn(per),
        "gaussian": lambda: TruncatedGaussian(weight, per),
        "bcgd": lambda: Bcgd(per),
        "none": lambda: Unquantized(per),
    }
    problems = []
    if kind not in makers:
        problems.append(Problem("unknown-ternarizer", f"ternarizers are {', '.join(makers)}, not {kind!r}"))
    elif terms != 1 and kind != "sws":
        message = f"only sws has several terms, and {kind} was asked for with {terms}"
        problems.append(Problem("ternary-terms", message, hint="leave the terms out, or choose sws"))
    if problems:
        raise UsageError(problems)
    return makers[kind]()


class Shadow(Protocol):
    """A layer with shadow weights and what quantizes them."""

    @property
    def weight(self) -> Tensor: ...

    @property
    def mask(self) -> Tensor: ...

    @property
    def ternarizer(self) -> nn.Module: ...


def blend(optimizer: torch.optim.Optimizer, sites: Iterable[Shadow], rho: float = BLEND) -> RemovableHandle:
    """Before each step of an optimizer, draw the shadow weights to their projection: w ← (1-ρ)·w + ρ·w_q.

    With plain gradient steps this is BCGD's w ← (1-ρ)·w + ρ·w_q - η·g(w_q), the gradient being taken at w_q.

    Raises
    ------
    UsageError
        ρ outside 0 .. 1.
    """
    if not 0 <= rho <= 1:
        raise UsageError(Problem("blend", f"the share of the projection must be between 0 and 1, not {rho!r}"))
    layers = tuple(sites)

    @torch.no_grad()
    def before(*_: object) -> None:
        for site in layers:
            projection = site.ternarizer(site.weight * site.mask)
            site.weight.mul_(1 - rho).add_(projection, alpha=rho)

    return optimizer.register_step_pre_hook(before)
