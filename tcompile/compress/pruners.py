"""Pruners: what is done to groups of weights in the course of training so that some of them can become zero.

The loop calls ``penalty()`` (to add to the loss), ``after_step()``, ``after_epoch(epoch)`` (epochs counted from 1) and
at last ``finish()``. That chooses exactly the groups that the goal asks for and sets their mask; training may go on with
the survivors. Groups whose quantized weights are all zero go first, then the weakest (`Candidate.ranks`).

none, magnitude   nothing before the end
lasso, wpc        a penalty (`tcompile.compress.penalties`) on the float shadow weights
admm              alternating direction method of multipliers (Ma et al., TNNLS 2022), with dynamic regulation:
                      L = f(W) + Σ ρ/2·‖W - Z + U‖²
                      at an update: Z ← Π(W + U), U ← U + W - Z, ρ ← 1.3·ρ
slr               surrogate Lagrangian relaxation:
                      L(W, Z, Λ) = f(W) + <Λ, W - Z> + ρ/2·‖W - Z‖²
                      step k, after an epoch W_{k-1} → W_k:
                      if L(W_k, Z_{k-1}, Λ) < L(W_{k-1}, Z_{k-1}, Λ):
                          s ← α_k·s·‖W_{k-1} - Z_{k-1}‖ / ‖W_k - Z_{k-1}‖;  Λ ← Λ + s·(W_k - Z_{k-1})
                      Z_k ← Π(W_k + Λ/ρ)
                      if L(W_k, Z_k, Λ) < L(W_k, Z_{k-1}, Λ):
                          s ← α_k·s·‖W_k - Z_{k-1}‖ / ‖W_k - Z_k‖;  Λ ← Λ + s·(W_k - Z_k)
                      α_k = 1 - 1 / (M·k^(1 - 1/k^r)); norms over all layers; W_{k-1} and Z_{k-1} are copies

Π keeps the groups that the goal leaves, and is zero elsewhere. f(W) for slr is a callable that gives the loss on frames
that stay the same; without one f counts as unchanged by an epoch, and only the multipliers' part decides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import sqrt
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from tcompile.compress.goals import Candidate, Goal
from tcompile.compress.groups import Groups
from tcompile.compress.penalties import LANES, Clipping, GroupLasso, Penalty, Threshold
from tcompile.compress.ternarizers import Unquantized
from tcompile.errors import Problem, UsageError, printable

__all__ = ["Admm", "Method", "Penalized", "Prunable", "Pruner", "Slr", "pruner"]

Method = Literal["none", "magnitude", "lasso", "wpc", "admm", "slr"]

ADMM_RHO = 1e-3
GROWTH = 1.3  # of ρ at every update
SLR_RHO = 0.1
SLR_STEP = 0.01  # s at the start
SLR_M = 300.0
SLR_R = 0.1


class Prunable(Protocol):
    """A layer with float shadow weights: `tcompile.compress.prepare.Site`."""

    @property
    def name(self) -> str: ...

    @property
    def weight(self) -> nn.Parameter: ...

    @property
    def mask(self) -> Tensor: ...

    @property
    def ternarizer(self) -> nn.Module: ...


class Pruner:
    """Prunes by magnitude at the end; the base of the others.

    Parameters
    ----------
    layers : sequence of (Prunable, Groups)
        What may be pruned.
    goal : Goal or None
        How much; None for nothing.
    """

    def __init__(self, layers: Sequence[tuple[Prunable, Groups]], goal: Goal | None, method: str = "magnitude") -> None:
        problems = [
            Problem(
                "bad-groups", f"groups must be of the shape of the weights, {tuple(site.weight.shape)}", (site.name,)
            )
            for site, groups in layers
            if groups.ids.shape != site.weight.shape
        ]
        names = [site.name for site, _ in layers]
        problems += [
            Problem("bad-groups", f"layers must have names of their own, and {printable(n)} stands there twice")
            for n in sorted({n for n in names if names.count(n) > 1})
        ]
        if problems:
            raise UsageError(problems)
        self.goal, self.method, self.finished = goal, method, False
        self._layers = list(layers)

    @property
    def layers(self) -> list[tuple[Prunable, Groups]]:
        """Layers and their groups, on the device of the weights."""
        self._layers = [(s, g if g.ids.device == s.weight.device else g.to(s.weight.device)) for s, g in self._layers]
        return self._layers

    def penalty(self) -> Tensor:
        """What to add to the loss."""
        return self.layers[0][0].weight.new_zeros(()) if self.layers else torch.zeros(())

    @torch.no_grad()
    def after_step(self) -> None:
        """After each step of the optimizer: what is masked stays zero."""
        if self.finished:
            for site, _ in self.layers:
                site.weight.mul_(site.mask)

    def after_epoch(self, epoch: int) -> None:
        """After each epoch, counted from 1."""

    @torch.no_grad()
    def finish(self) -> None:
        """Mask the groups that the goal asks for; a second time changes nothing.

        Raises
        ------
        UsageError
            The goal cannot be reached; nothing is masked then.
        """
        if self.finished:
            return
        if self.goal is not None:
            layers = self.layers
            dropped = self._dropped([self._masked(site) for site, _ in layers], quantized=True)
            for (site, groups), gone in zip(layers, dropped, strict=True):
                site.mask.copy_(groups.without(site.mask, gone))
        self.finished = True
        self.after_step()

    @torch.no_grad()
    def check(self) -> None:
        """Refuse a goal that cannot be reached, before any training.

        Raises
        ------
        UsageError
            Every reason.
        """
        if self.goal is not None:
            self.goal.check(self._candidates([self._masked(site) for site, _ in self.layers], quantized=True))

    @torch.no_grad()
    def zeros(self) -> dict[str, tuple[int, int]]:
        """For each layer the groups whose quantized weights are all zero, and all groups."""
        return {site.name: (int((~self._alive(site, groups)).sum()), groups.count) for site, groups in self.layers}

    def state_dict(self) -> dict[str, Any]:
        """All that decides what follows but the weights and masks; tensors are copies."""
        return {"method": self.method, "finished": self.finished}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave.

        Raises
        ------
        UsageError
            It is of another method.
        """
        if state["method"] != self.method:
            message = f"the pruner's state must be of {self.method}, and is of {printable(str(state['method']))}"
            raise UsageError(Problem("bad-checkpoint", message, hint="start anew"))
        self.finished = state["finished"]

    def _masked(self, site: Prunable) -> Tensor:
        return site.weight * site.mask

    def _alive(self, site: Prunable, groups: Groups) -> Tensor:
        return groups.alive(self._codes(site, self._masked(site)))

    def _dropped(self, weights: Sequence[Tensor], *, quantized: bool = False) -> list[Tensor]:
        """The groups that the goal takes of these weights, as bool tensors (groups,)."""
        if self.goal is None:
            return [
                torch.zeros(groups.count, dtype=torch.bool, device=w.device) for (_, groups), w in self._with(weights)
            ]
        found = self.goal.dropped(self._candidates(weights, quantized=quantized))
        return [torch.from_numpy(d).to(w.device) for d, w in zip(found, weights, strict=True)]

    def _candidates(self, weights: Sequence[Tensor], *, quantized: bool) -> list[Candidate]:
        candidates = []
        for (site, groups), w in self._with(weights):
            codes = self._codes(site, w) if quantized else torch.sign(w)
            candidates.append(
                Candidate(
                    site.name,
                    groups.strengths(w.detach().double()).cpu().numpy(),
                    groups.alive(codes).cpu().numpy(),
                    groups.ids.cpu().numpy(),
                    codes.detach().cpu().numpy().round().astype("int64"),
                )
            )
        return candidates

    def _codes(self, site: Prunable, weight: Tensor) -> Tensor:
        """Integers of the weights; signs of floats that stay floats."""
        if isinstance(site.ternarizer, Unquantized):
            return torch.sign(weight)
        codes: Tensor = site.ternarizer.codes(weight)[0] * site.mask  # type: ignore[operator]
        return codes

    def _with(self, weights: Sequence[Tensor]) -> list[tuple[tuple[Prunable, Groups], Tensor]]:
        return list(zip(self.layers, weights, strict=True))

    def _projected(self, weights: Sequence[Tensor]) -> list[Tensor]:
        """Π: the weights without the groups that the goal takes of them."""
        dropped = self._dropped(weights)
        return [groups.without(w, d) for ((_, groups), w), d in zip(self._with(weights), dropped, strict=True)]


class Penalized(Pruner):
    """Group lasso and Weight Penalty Clipping: a penalty until the end."""

    def __init__(
        self, layers: Sequence[tuple[Prunable, Groups]], goal: Goal | None, penalty: Penalty, method: str
    ) -> None:
        super().__init__(layers, goal, method)
        self._penalty = penalty

    def penalty(self) -> Tensor:
        if self.finished:
            return super().penalty()
        return self._penalty(groups.fair_norms(self._masked(site)) for site, groups in self.layers)


class Admm(Pruner):
    """Alternating direction method of multipliers.

    Parameters
    ----------
    rho : float
        ρ at the start.
    growth : float
        Factor of ρ at every update.
    every : int
        Epochs between updates.
    """

    def __init__(
        self,
        layers: Sequence[tuple[Prunable, Groups]],
        goal: Goal,
        *,
        rho: float = ADMM_RHO,
        growth: float = GROWTH,
        every: int = 1,
    ) -> None:
        super().__init__(layers, goal, "admm")
        _check_positive(rho=rho, growth=growth, every=every)
        self.rho, self.growth, self.every = rho, growth, every
        with torch.no_grad():
            self.z = self._projected([self._masked(site) for site, _ in self.layers])
            self.u = [torch.zeros_like(z) for z in self.z]

    def penalty(self) -> Tensor:
        if self.finished:
            return super().penalty()
        total = super().penalty()
        for k, (site, _) in enumerate(self.layers):
            z, u = self.z[k].to(site.weight.device), self.u[k].to(site.weight.device)
            total = total + self.rho / 2 * ((self._masked(site) - z + u) ** 2).sum()
        return total

    @torch.no_grad()
    def after_epoch(self, epoch: int) -> None:
        """Update, every so many epochs."""
        if self.finished or epoch % self.every:
            return
        weights = [self._masked(site) for site, _ in self.layers]
        u = [a.to(w.device) for a, w in zip(self.u, weights, strict=True)]
        self.z = self._projected([w + a for w, a in zip(weights, u, strict=True)])
        self.u = [a + w - z for a, w, z in zip(u, weights, self.z, strict=True)]
        self.rho *= self.growth

    @torch.no_grad()
    def distance(self) -> float:
        """‖W - Z‖ / ‖W‖ over all layers: 0 once the weights are in the set."""
        weights = [self._masked(site) for site, _ in self.layers]
        apart = _norm([w - z.to(w.device) for w, z in zip(weights, self.z, strict=True)])
        return apart / (_norm(weights) or 1.0)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "rho": self.rho, "z": _copies(self.z), "u": _copies(self.u)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.rho, self.z, self.u = state["rho"], _copies(state["z"]), _copies(state["u"])


class Slr(Pruner):
    """Surrogate Lagrangian relaxation.

    Parameters
    ----------
    rho : float
        ρ.
    step : float
        s at the start.
    loss : callable, optional
        f(W): the loss on frames that stay the same.
    M, r : float
        Of α_k.
    """

    def __init__(
        self,
        layers: Sequence[tuple[Prunable, Groups]],
        goal: Goal,
        *,
        rho: float = SLR_RHO,
        step: float = SLR_STEP,
        loss: Callable[[], float] | None = None,
        M: float = SLR_M,
        r: float = SLR_R,
    ) -> None:
        super().__init__(layers, goal, "slr")
        _check_positive(rho=rho, step=step, M=M - 1, r=r)
        self.rho, self.s, self.M, self.r = rho, step, M, r
        self.loss = loss if loss is not None else lambda: 0.0
        self.k = 0
        with torch.no_grad():
            self.before = [self._masked(site).clone() for site, _ in self.layers]
            self.z = self._projected(self.before)
            self.multipliers = [torch.zeros_like(z) for z in self.z]
        self.f = self.loss()

    def penalty(self) -> Tensor:
        total = super().penalty()
        if self.finished:
            return total
        for k, (site, _) in enumerate(self.layers):
            apart = self._masked(site) - self.z[k].to(site.weight.device)
            multiplier = self.multipliers[k].to(site.weight.device)
            total = total + (multiplier * apart).sum() + self.rho / 2 * (apart**2).sum()
        return total

    @torch.no_grad()
    def after_epoch(self, epoch: int) -> None:
        """One step of the multipliers."""
        if self.finished:
            return
        self.k += 1
        weights = [self._masked(site).clone() for site, _ in self.layers]
        self._move([w.device for w in weights])
        f = self.loss()
        if f + self._surrogate(weights, self.z) < self.f + self._surrogate(self.before, self.z):
            self._ascend(_apart(self.before, self.z), _apart(weights, self.z))
        z = self._projected([w + m / self.rho for w, m in zip(weights, self.multipliers, strict=True)])
        if self._surrogate(weights, z) < self._surrogate(weights, self.z):
            self._ascend(_apart(weights, self.z), _apart(weights, z))
        self.before, self.z, self.f = weights, z, f

    @property
    def alpha(self) -> float:
        """α_k."""
        return float(1 - 1 / (self.M * self.k ** (1 - 1 / self.k**self.r)))

    def _surrogate(self, weights: Sequence[Tensor], z: Sequence[Tensor]) -> float:
        """<Λ, W - Z> + ρ/2·‖W - Z‖²."""
        apart = _apart(weights, z)
        inner = sum(float((m * a).double().sum()) for m, a in zip(self.multipliers, apart, strict=True))
        return inner + self.rho / 2 * _norm(apart) ** 2

    def _ascend(self, old: Sequence[Tensor], new: Sequence[Tensor]) -> None:
        """Move the multipliers along `new`; the step shrinks as the distance grows."""
        length = _norm(new)
        if length == 0:  # they agree, and the multipliers stay
            return
        self.s *= self.alpha * _norm(old) / length
        self.multipliers = [m + self.s * a for m, a in zip(self.multipliers, new, strict=True)]

    def _move(self, devices: Sequence[torch.device]) -> None:
        for name in ("before", "z", "multipliers"):
            setattr(self, name, [t.to(d) for t, d in zip(getattr(self, name), devices, strict=True)])

    def state_dict(self) -> dict[str, Any]:
        tensors = {n: _copies(getattr(self, n)) for n in ("before", "z", "multipliers")}
        return {**super().state_dict(), **tensors, "s": self.s, "k": self.k, "f": self.f}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.before, self.z, self.multipliers = (_copies(state[n]) for n in ("before", "z", "multipliers"))
        self.s, self.k, self.f = state["s"], state["k"], state["f"]


def _copies(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [t.detach().clone() for t in tensors]


def _apart(a: Sequence[Tensor], b: Sequence[Tensor]) -> list[Tensor]:
    return [x - y for x, y in zip(a, b, strict=True)]


def _norm(tensors: Sequence[Tensor]) -> float:
    """Euclidean norm over all layers."""
    return sqrt(sum(float((t.double() ** 2).sum()) for t in tensors))


def _check_positive(**values: float) -> None:
    problems = [
        Problem("pruner-option", f"{name} must be a number above 0, not {value!r}")
        for name, value in values.items()
        if not 0 < value < float("inf")
    ]
    if problems:
        raise UsageError(problems)


def pruner(
    method: Method,
    layers: Sequence[tuple[Prunable, Groups]],
    goal: Goal | None,
    *,
    strength: float = 1e-3,
    threshold: Threshold = "mean",
    a: float = 0.5,
    attached: bool = False,
    lanes: int = LANES,
    every: int = 1,
    loss: Callable[[], float] | None = None,
) -> Pruner:
    """The pruner of a name.

    Parameters
    ----------
    method : Method
    layers : sequence of (Prunable, Groups)
        What may be pruned.
    goal : Goal or None
        How much; nothing at all is pruned by the method ``none``.
    strength, threshold, a, attached, lanes
        Of the penalties.
    every : int
        Epochs between updates of ADMM.
    loss : callable, optional
        Of SLR: the loss on frames that stay the same.

    Raises
    ------
    UsageError
        No such method, or options that make no sense.
    """
    if method == "none" or goal is None:
        return Pruner(layers, None, "none")
    makers: dict[str, Callable[[], Pruner]] = {
        "magnitude": lambda: Pruner(layers, goal),
        "lasso": lambda: Penalized(layers, goal, GroupLasso(strength), "lasso"),
        "wpc": lambda: Penalized(layers, goal, Clipping(strength, a, threshold, attached, lanes), "wpc"),
        "admm": lambda: Admm(layers, goal, every=every),
        "slr": lambda: Slr(layers, goal, loss=loss),
    }
    if method not in makers:
        message = f"pruning methods are none, {', '.join(makers)}, not {method!r}"
        raise UsageError(Problem("unknown-method", message))
    return makers[method]()
