"""Penalties that draw groups of weights to zero: group lasso, and Weight Penalty Clipping (Yang, He, Fan, AAAI 2020).

With n_g the fair norm of group g (`Groups.fair_norms`), per layer:

    group lasso   λ · Σ_g n_g
    WPC           λ · Σ_g min(n_g, δ)       δ recomputed at every step:
                  mean    a · mean_g n_g
                  rank    the k-th smallest norm, k = int(a·P) · int(G / P), of G groups on P lanes; 0 for k = 0
                  mixed   the smaller of both

Group lasso shrinks every group, and with them max|w|, from which ternary thresholds are taken: the ternarizer sees the
same picture, smaller. A clipped penalty leaves the groups above δ alone, so that weak groups fall below the threshold as
a block. A group exactly at δ is drawn.

δ depends on the weights. Detached (the default), a group above δ gets no gradient; attached, as in the authors' code,
every clipped group adds the gradient of δ: with *mean*, each group h gets C·a/G times ∇n_h more, C the number of
clipped groups; with *rank*, the k-th smallest group gets C times ∇n_k more.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from tcompile.errors import Problem, UsageError

__all__ = ["LANES", "Clipping", "GroupLasso", "Penalty", "Threshold", "threshold"]

Threshold = Literal["mean", "rank", "mixed"]
LANES = 16  # P of the authors' accelerator


class Penalty(Protocol):
    """A number to add to the loss, of the norms of each layer's groups."""

    def __call__(self, norms: Iterable[Tensor]) -> Tensor: ...


@dataclass(frozen=True)
class GroupLasso:
    """Every group is drawn.

    Parameters
    ----------
    strength : float
        λ.
    """

    strength: float = 1e-3

    def __post_init__(self) -> None:
        _check(self.strength)

    def __call__(self, norms: Iterable[Tensor]) -> Tensor:
        return self.strength * _total(n.sum() for n in norms)


@dataclass(frozen=True)
class Clipping:
    """Groups above a threshold that adapts itself are not drawn.

    Parameters
    ----------
    strength : float
        λ.
    a : float
        Share of the mean, or of the groups, that makes the threshold.
    kind : {"mean", "rank", "mixed"}
    attached : bool
        Whether the threshold has a gradient.
    lanes : int
        P of the threshold by rank.
    """

    strength: float = 1e-3
    a: float = 0.5
    kind: Threshold = "mean"
    attached: bool = False
    lanes: int = LANES

    def __post_init__(self) -> None:
        _check(self.strength, self.a, self.kind, self.lanes)

    def __call__(self, norms: Iterable[Tensor]) -> Tensor:
        return self.strength * _total(self._layer(n) for n in norms)

    def _layer(self, norms: Tensor) -> Tensor:
        delta = threshold(norms, self.kind, self.a, self.lanes)
        if not self.attached:
            delta = delta.detach()
        return torch.where(norms <= delta, norms, delta).sum()


def threshold(norms: Tensor, kind: Threshold, a: float, lanes: int = LANES) -> Tensor:
    """δ of a layer with groups of these norms, differentiable."""
    by_mean, by_rank = a * norms.mean(), _by_rank(norms, a, lanes)
    if kind == "mean":
        return by_mean
    return by_rank if kind == "rank" else torch.minimum(by_mean, by_rank)


def _by_rank(norms: Tensor, a: float, lanes: int) -> Tensor:
    k = int(a * lanes) * (len(norms) // lanes)
    return norms.sort(stable=True).values[k - 1] if k else norms.new_zeros(())


def _total(parts: Iterable[Tensor]) -> Tensor:
    total = torch.zeros(())
    for part in parts:
        total = total.to(part) + part
    return total


def _check(strength: float, a: float = 1.0, kind: str = "mean", lanes: int = 1) -> None:
    problems = []
    if not 0 <= strength < float("inf"):
        message = f"the strength of a penalty must be a number of at least 0, not {strength!r}"
        problems.append(Problem("penalty-strength", message))
    if not 0 < a <= 1:
        problems.append(Problem("penalty-share", f"a must be above 0 and at most 1, not {a!r}"))
    if kind not in get_args(Threshold):
        message = f"a threshold is one of {', '.join(get_args(Threshold))}, not {kind!r}"
        problems.append(Problem("penalty-threshold", message))
    if lanes < 1:
        problems.append(Problem("penalty-lanes", f"there must be at least one lane, not {lanes!r}"))
    if problems:
        raise UsageError(problems)
