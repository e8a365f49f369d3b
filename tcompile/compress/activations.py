"""Trainable quantizers of activations whose steps are powers of two.

Learned steps (LSQ, Esser et al., ICLR 2020): v̂ = rint(clip(x / s, lo, hi)), y = s·v̂. Backward, with v = x / s:
∂y/∂x = 1 for lo < v < hi, else 0; ∂y/∂s = v̂ - v inside, lo below, hi above, times 1 / sqrt(n·hi), n the elements of a
frame. The parameter is e = log2 s; forward takes s = 2^rint(e), backward ∂s/∂e = s·ln 2, straight through the rounding.

BCGD (Yin et al. 2018), unsigned: y = 0 for x <= 0, k·α on ((k-1)·α, k·α], (2^b - 1)·α above. Coarse gradients:
∂y/∂x = 1 on (0, (2^b - 1)·α), else 0; ∂y/∂α = 0, 2^(b-1), 2^b - 1 below, in and above that range, times 0.01, the sum
clamped to ±1. α = 2^rint(e) too, with the parameter e moved by the gradient of α.
Here y = α·rint(x/α + 1/2), which is the same but at x = k·α with k odd, where rounding half to even gives k + 1: the
exported file, Add(α/2) -> QuantizeLinear, does exactly this.
"""

from __future__ import annotations

from math import log, sqrt
from typing import Any

import torch
from torch import Tensor, nn

from tcompile.passes.quantize_activations import Step

__all__ = ["BcgdQuantizer", "Quantizer"]

EXPONENTS = (-30.0, 30.0)
COARSE = 0.01  # factor of the coarse gradient of α
MOST = 1.0  # its largest size


class _Lsq(torch.autograd.Function):
    """(x, e, lo, hi) -> s·rint(clip(x/s, lo, hi)).

    Activations are large and each pass over them costs what a convolution does: ``hardtanh_backward`` is the mask of
    the open range, and Σ g·(∂y/∂s) = (Σ g·y - Σ (∂y/∂x)·g·x) / s, two dot products, as y = s·v̂ everywhere.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, exponent: Tensor, lo: int, hi: int) -> Tensor:
        scale = torch.exp2(exponent.round())
        y = (x / scale).clamp_(lo, hi).round_().mul_(scale)
        ctx.save_for_backward(x, y, scale)
        ctx.bounds = lo, hi
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, y, scale = ctx.saved_tensors
        lo, hi = ctx.bounds
        s = float(scale)
        by_x = torch.ops.aten.hardtanh_backward(gradient, x, lo * s, hi * s)
        by_step = (_dot(gradient, y) - _dot(by_x, x)) / s
        share = 1 / sqrt(max(1, x[0].numel() * hi))
        return by_x, by_step * share * scale * log(2), None, None


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return torch.dot(a.reshape(-1), b.reshape(-1))


class _Bcgd(torch.autograd.Function):
    """(x, e, top) -> α·clip(rint(x/α + 1/2), 0, top) with the coarse gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, exponent: Tensor, top: int) -> Tensor:
        alpha = torch.exp2(exponent.round())
        ctx.save_for_backward(x, alpha)
        ctx.top = top
        return ((x + alpha / 2) / alpha).round().clamp(0, top) * alpha

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        x, alpha = ctx.saved_tensors
        above = x >= ctx.top * alpha
        inside = (x > 0) & ~above
        slope = torch.where(above, float(ctx.top), torch.where(inside, float((ctx.top + 1) // 2), 0.0))
        by_alpha = ((gradient * slope).sum() * COARSE).clamp(-MOST, MOST)
        return gradient * inside, by_alpha, None


class Quantizer(nn.Module):
    """Learned step on a power of two.

    Parameters
    ----------
    start : Step
        First step, and the codes for good.
    learned : bool
        Whether the step is trained.
    """

    shift = 0.0  # of a step, added before rounding

    def __init__(self, start: Step, *, learned: bool = True) -> None:
        super().__init__()
        self.lo, self.hi = start.lo, start.hi
        self.exponent = nn.Parameter(torch.tensor(float(start.exponent)), requires_grad=learned)

    @property
    def step(self) -> Step:
        """The grid as it is now."""
        return Step(round(float(self._bounded().detach())), self.lo, self.hi)

    def _bounded(self) -> Tensor:
        return self.exponent.clamp(*EXPONENTS)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = _Lsq.apply(x.float(), self._bounded(), self.lo, self.hi)  # type: ignore[no-untyped-call]
        return y


class BcgdQuantizer(Quantizer):
    """BCGD's: unsigned, rounded up.

    Raises
    ------
    ValueError
        The codes are signed.
    """

    shift = 0.5

    def __init__(self, start: Step, *, learned: bool = True) -> None:
        if start.lo != 0:
            raise ValueError(f"BCGD's quantizer is for codes from 0 on, not from {start.lo}")
        super().__init__(start, learned=learned)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = _Bcgd.apply(x.float(), self._bounded(), self.hi)  # type: ignore[no-untyped-call]
        return y
