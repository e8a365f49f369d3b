"""Ternarizers: codes and scales by hand and against the passes, gradients as the papers say and by differences."""

from __future__ import annotations

from math import erf, exp, pi, sqrt
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor, nn

from tcompile.compress.ternarizers import (
    Bcgd,
    Sws,
    Ternarizer,
    TruncatedGaussian,
    Twn,
    Unquantized,
    blend,
    ternarizer,
)
from tcompile.errors import UsageError
from tcompile.passes.ternarize import patterns, statistical

WEIGHTS = arrays(np.float32, (3, 12), elements=st.floats(-4, 4, width=32).map(lambda x: 0.0 if abs(x) < 0.5 else x))


def row(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def gradient(make: Ternarizer, weight: Tensor, by: Tensor) -> Tensor:
    """dL/dw for L = Σ by·w_q."""
    w = weight.clone().requires_grad_()
    (found,) = torch.autograd.grad((make(w) * by).sum(), w)
    return found


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Statistical weight scaling


def test_sws_by_hand() -> None:
    codes, scale = Sws(beta=0.0625).codes(row(8, 0.5, 0.4375, -0.5, -0.4375, 0))
    assert codes.tolist() == [[1, 1, 0, -1, 0, 0]] and scale.tolist() == 3  # (8 + 0.5 + 0.5) / 3


def test_sws_wrong_if_the_edge_is_left_out() -> None:
    codes, scale = Sws(beta=0.0625).codes(row(8, 0.5))
    assert (codes.tolist(), scale.tolist()) != ([[1, 0]], 8)


def test_sws_scales_by_layer_or_channel() -> None:
    weight = torch.tensor([[1.0, 1], [3, -3]])
    by_layer, by_channel = Sws(per="layer").codes(weight), Sws(per="channel").codes(weight)
    assert by_layer[1].tolist() == 2 and by_channel[1].tolist() == [1, 3]
    assert by_layer[0].tolist() == by_channel[0].tolist() == [[1, 1], [1, -1]]
    assert Sws(per="channel")(weight).tolist() == [[1, 1], [3, -3]]


@pytest.mark.parametrize("per", ["layer", "channel"])
@pytest.mark.parametrize("terms", [1, 2, 3, 4, 7, 9])
def test_sws_fitted_is_the_pass(terms: int, per: str) -> None:
    weight = normal(6, 4, 3, 3, seed=terms).float()
    codes, scale = Sws(terms, per, levels="fitted", power_of_two=False).codes(weight)  # type: ignore[arg-type]
    flat = weight.double().numpy().reshape(6 if per == "channel" else 1, -1)
    expected, step = statistical(flat, terms)
    assert codes.numpy().reshape(flat.shape).tolist() == expected.tolist()
    assert scale.reshape(-1).numpy() == pytest.approx(step, rel=1e-6)


@given(WEIGHTS, st.integers(1, 5))
def test_sws_fitted_is_the_pass_on_odd_weights(weight: np.ndarray, terms: int) -> None:
    codes, _ = Sws(terms, "channel", levels="fitted", power_of_two=False).codes(torch.from_numpy(weight))
    expected, _ = statistical(weight.astype(np.float64), terms)
    assert (np.abs(codes.numpy()) > 0).tolist() == (expected != 0).tolist()
    assert (np.sign(codes.numpy()) == np.sign(expected)).all()


def test_one_term_is_the_pass_with_the_levels_of_the_paper_too() -> None:
    weight = normal(6, 20)
    codes, scale = Sws(1, "channel").codes(weight)
    expected, step = statistical(weight.numpy())
    assert codes.tolist() == expected.tolist() and scale.numpy() == pytest.approx(step, rel=1e-12)


def test_expansion_sums_the_terms_of_the_paper() -> None:
    """Two terms: S1 = (16 + 16 + 2) / 3, S2 = 16; levels S1 and S1 + S2 are 11.33 and 27.33: 2 to 5 in steps of 5.48."""
    codes, scale = Sws(2, beta=0.0625, power_of_two=False).codes(row(16, -16, 2, 1, 0.5, 0))
    s1, s2 = (16 + 16 + 2 + 1) / 4, (16 + 16 + 2) / 3
    n1, n2 = 1, 3  # 1 reaches the first threshold only; 2 the second
    levels = s1, s1 + s2
    (k1, k2), step = min(
        (
            (k, (n1 * levels[0] * k[0] + n2 * levels[1] * k[1]) / (n1 * k[0] ** 2 + n2 * k[1] ** 2))
            for k in patterns(2).tolist()
        ),
        key=lambda x: n1 * (levels[0] - x[1] * x[0][0]) ** 2 + n2 * (levels[1] - x[1] * x[0][1]) ** 2,
    )
    assert codes.tolist() == [[k2, -k2, k2, k1, 0, 0]]
    assert float(scale) == pytest.approx(step)


def test_expansion_wrong_with_single_means_for_levels() -> None:
    weight = row(16, -16, 2, 1, 0.5, 0)
    found = [Sws(2, beta=0.0625, power_of_two=False, levels=x).codes(weight)[1] for x in ("paper", "fitted")]  # type: ignore[arg-type]
    assert float(found[0]) != float(found[1])


def test_steps_are_powers_of_two_and_codes_fit_four_bits() -> None:
    weight = normal(8, 50)
    for terms in (2, 3, 4, 7):
        codes, scale = Sws(terms, "channel").codes(weight)
        mantissa, _ = np.frexp(scale.numpy())
        assert (mantissa == 0.5).all() and codes.abs().max() <= 7
        assert torch.equal(codes, codes.round())
        assert torch.equal(Sws(terms, "channel")(weight), codes * scale[:, None])


def test_powers_of_two_have_the_least_error_of_all() -> None:
    weight = normal(1, 80)
    codes, scale = Sws(2, levels="fitted").codes(weight)
    level = Sws(2, levels="fitted", power_of_two=False).codes(weight)[0].abs()
    marks = sorted(set(level.reshape(-1).tolist()) - {0.0})
    size = weight.abs()
    means = [size[level == m].mean() for m in marks]
    counts = [int((level == m).sum()) for m in marks]

    def error(k: list[float], s: float) -> float:
        return sum(n * (m - s * x) ** 2 for n, m, x in zip(counts, means, k, strict=True))

    found = error(sorted(set(codes.abs().reshape(-1).tolist()) - {0.0}), float(scale))
    assert all(found <= error(k, 2.0**e) + 1e-9 for k in patterns(2).tolist() for e in range(-9, 4))


@given(WEIGHTS, st.integers(1, 6))
def test_supports_are_nested_and_zero_stays_zero(weight: np.ndarray, terms: int) -> None:
    """A larger magnitude never has a smaller code, and signs stay."""
    codes = Sws(terms, "channel").codes(torch.from_numpy(weight))[0].numpy()
    order = np.argsort(np.abs(weight), axis=1)
    assert (np.diff(np.take_along_axis(np.abs(codes), order, axis=1), axis=1) >= 0).all()
    assert not codes[weight == 0].any() and (codes * np.sign(weight) >= 0).all()


def test_supports_of_terms_are_those_of_each_threshold() -> None:
    weight = normal(1, 60)
    codes = Sws(3).codes(weight)[0].abs()
    top = weight.abs().max()
    levels = sorted(set(codes.reshape(-1).tolist()))
    for i in (1, 2, 3):
        assert torch.equal(codes >= levels[i], weight.abs() >= i * 0.05 * top)


def test_sws_gradient_passes_where_weights_are_below_one() -> None:
    weight, by = row(0.5, -0.99, 1, -1, 3, 0.001), row(1, 2, 3, 4, 5, 6)
    assert gradient(Sws(), weight, by).tolist() == [[1, 2, 0, 0, 0, 6]]


def test_sws_gradient_wrong_if_it_passes_everywhere() -> None:
    weight, by = row(0.5, 3), row(1, 1)
    assert gradient(Sws(), weight, by).tolist() != by.tolist()


def test_expansion_hands_on_the_gradient_once_per_term() -> None:
    """The terms share one shadow weight: their gradients add up."""
    weight, by = normal(4, 9), normal(4, 9, seed=1)
    single = sum(gradient(Sws(1, beta=0.05 * i), weight, by) for i in (1, 2, 3))
    assert torch.equal(gradient(Sws(3), weight, by), single)


# Ternary weight networks


def test_twn_by_hand() -> None:
    """Mean size 1, threshold 0.7."""
    codes, scale = Twn().codes(row(2, -1.5, 0.7, -0.5, 0.3))
    assert codes.tolist() == [[1, -1, 0, 0, 0]] and float(scale) == 1.75


def test_twn_wrong_if_the_edge_belongs_to_the_support() -> None:
    assert Twn().codes(row(2, -1.5, 0.7, -0.5, 0.3))[0].tolist() != [[1, -1, 1, 0, 0]]


def test_twn_gradient_is_straight_through() -> None:
    weight, by = row(5, -0.1, 2), row(1, -2, 3)
    assert torch.equal(gradient(Twn(), weight, by), by)


# BCGD


def test_bcgd_step_by_hand() -> None:
    """w = (4, -2, 0.5, 0.5) and w_q = (3, -3, 0, 0); w ← 0.5·w + 0.5·w_q - 0.1·g, with g taken at w_q."""
    weight = nn.Parameter(row(4, -2, 0.5, 0.5))
    site = SimpleNamespace(weight=weight, mask=torch.ones_like(weight), ternarizer=Bcgd())
    optimizer = torch.optim.SGD([weight], lr=0.1)
    blend(optimizer, [site], rho=0.5)
    assert Bcgd()(weight.detach()).tolist() == [[3, -3, 0, 0]]  # mean size 1.75, threshold 1.225
    (Bcgd()(weight) ** 2 / 2).sum().backward()  # gradient: w_q
    optimizer.step()
    assert weight.detach().tolist()[0] == pytest.approx([3.5 - 0.3, -2.5 + 0.3, 0.25, 0.25])


def test_bcgd_step_wrong_without_the_blend() -> None:
    weight = nn.Parameter(row(4, -2, 0.5, 0.5))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    (Bcgd()(weight) ** 2 / 2).sum().backward()
    optimizer.step()
    assert weight.detach().tolist()[0] != pytest.approx([3.2, -2.2, 0.25, 0.25])


def test_blend_draws_pruned_weights_to_zero_only() -> None:
    weight = nn.Parameter(row(4, -2, 1, 8))
    site = SimpleNamespace(weight=weight, mask=row(1, 1, 1, 0), ternarizer=Bcgd())
    optimizer = torch.optim.SGD([weight], lr=0.0)
    blend(optimizer, [site], rho=0.5)
    weight.grad = torch.zeros_like(weight)
    optimizer.step()
    assert weight.detach().tolist() == [[3.5, -2.5, 0.5, 4]]


def test_blend_can_be_taken_off() -> None:
    weight = nn.Parameter(row(4.0, -2))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    hook = blend(optimizer, [SimpleNamespace(weight=weight, mask=row(1, 1), ternarizer=Bcgd())], rho=0.5)
    hook.remove()
    weight.grad = torch.zeros_like(weight)
    optimizer.step()
    assert weight.detach().tolist() == [[4, -2]]


# Truncated Gaussian


def hazard(u: float) -> float:
    return exp(-u * u / 2) / sqrt(2 * pi) / (1 - (1 + erf(u / sqrt(2))) / 2)


def alpha_of(weight: Tensor, delta: float) -> float:
    """The formula of the paper, in plain Python."""
    values = weight.reshape(-1).tolist()
    mean = sum(values) / len(values)
    sigma = sqrt(sum((v - mean) ** 2 for v in values) / len(values))
    return mean + sigma * hazard(min(abs(delta), 3 * sigma) / sigma)


def gaussian(weight: Tensor, delta: float | None = None, clamp: float | None = None) -> TruncatedGaussian:
    made = TruncatedGaussian(weight, clamp=clamp)
    if delta is not None:
        made.delta = nn.Parameter(torch.tensor([delta], dtype=weight.dtype))
    return made


def test_truncated_gaussian_by_hand() -> None:
    weight = row(3, -2, 0.5, 1, -1)  # mean 0.3
    made = gaussian(weight, 1.0)
    codes, scale = made.codes(weight)
    assert codes.tolist() == [[1, -1, 0, 0, -1]]  # beyond 1.3 and -0.7
    assert float(scale) == pytest.approx(alpha_of(weight, 1.0), rel=1e-12)
    assert torch.equal(made(weight), codes * scale)


def test_truncated_gaussian_wrong_without_the_mean() -> None:
    weight = row(3, -2, 0.5, 1, -1)
    assert gaussian(weight, 1.0).codes(weight)[0].tolist() != [[1, -1, 0, 0, 0]]  # beyond 1 and -1


def test_truncated_gaussian_starts_at_a_share_of_the_largest() -> None:
    assert gaussian(row(3, -4, 0.5)).delta.tolist() == pytest.approx([0.2])


@pytest.mark.parametrize("delta", [0.3, -0.3, 1.0, 2.5])
def test_derivative_of_alpha_by_differences(delta: float) -> None:
    weight, by = normal(6, 30), normal(6, 30, seed=1)
    made = gaussian(weight, delta)
    (made(weight) * by).sum().backward()
    codes = made.codes(weight)[0]
    slope = (alpha_of(weight, delta + 1e-6) - alpha_of(weight, delta - 1e-6)) / 2e-6
    assert float(made.delta.grad) == pytest.approx(slope * float((codes * by).sum()), rel=1e-5)  # type: ignore[arg-type]


def test_derivative_of_alpha_wrong_with_the_sign_of_delta_forgotten() -> None:
    weight = normal(6, 30)
    grads = []
    for delta in (0.3, -0.3):
        made = gaussian(weight, delta)
        (made(weight) * weight).sum().backward()
        grads.append(float(made.delta.grad))  # type: ignore[arg-type]
    assert grads[0] == -grads[1] != 0


def test_threshold_is_clipped_at_three_deviations_and_learns_nothing_there() -> None:
    weight = normal(6, 30)
    made = gaussian(weight, 1e3)
    codes, scale = made.codes(weight)
    assert codes.any() and float(scale) == pytest.approx(alpha_of(weight, 1e3), rel=1e-12)
    (made(weight) * weight).sum().backward()
    assert made.delta.grad.tolist() == [0]  # type: ignore[union-attr]


def test_truncated_gaussian_gradient_of_weights_is_one() -> None:
    weight, by = row(3, -2, 0.5), row(1, 2, 3)
    assert torch.equal(gradient(gaussian(weight, 1.0), weight, by), by)


def test_gradient_of_the_threshold_is_clamped() -> None:
    weight = normal(6, 30)
    made = gaussian(weight, 0.3, clamp=1e-3)
    (made(weight) * weight).sum().backward()
    assert made.delta.grad.abs().tolist() == pytest.approx([1e-3])  # type: ignore[union-attr]


def test_truncated_gaussian_per_channel_is_that_of_each_channel() -> None:
    weight = normal(3, 4, 2, 2)
    made = TruncatedGaussian(weight, "channel", clamp=None)
    (made(weight) * weight).sum().backward()
    for k, channel in enumerate(weight):
        single = gaussian(channel[None])
        (single(channel[None]) * channel).sum().backward()
        assert torch.equal(made(weight)[k], single(channel[None])[0])
        assert float(made.delta.grad[k]) == pytest.approx(float(single.delta.grad))  # type: ignore[arg-type, index]


# All


MAKERS = {
    "sws": lambda w: Sws(),
    "sws channel": lambda w: Sws(per="channel"),
    "two terms": lambda w: Sws(2),
    "four terms": lambda w: Sws(4, "channel", power_of_two=False),
    "twn": lambda w: Twn("channel"),
    "bcgd": lambda w: Bcgd(),
    "gaussian": TruncatedGaussian,
    "gaussian channel": lambda w: TruncatedGaussian(w, "channel"),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_a_layer_of_zeros_has_codes_zero_scale_one_and_finite_gradients(kind: str) -> None:
    weight = torch.zeros(3, 2, 2, 2, requires_grad=True)
    made = MAKERS[kind](weight)
    codes, scale = made.codes(weight)
    assert not codes.any() and (scale == 1).all() and scale.shape in ((), (3,))
    made(weight).sum().backward()
    assert weight.grad is not None and weight.grad.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in made.parameters())


@pytest.mark.parametrize("kind", MAKERS)
def test_quantized_weights_are_codes_times_scale(kind: str) -> None:
    weight = normal(5, 3, 2, 2).float()
    made = MAKERS[kind](weight)
    codes, scale = made.codes(weight)
    assert torch.equal(made(weight), codes * (scale.reshape(-1, 1, 1, 1) if scale.ndim else scale))
    assert torch.equal(codes, codes.round()) and codes.any()


@pytest.mark.parametrize("kind", MAKERS)
def test_pruned_weights_stay_zero_and_move_no_threshold(kind: str) -> None:
    """Statistics are those of the survivors: weights apart from the mask give the same codes as weights alone."""
    weight = normal(4, 10).float() + 0.7
    mask = torch.ones_like(weight)
    mask[:, 6:] = 0
    torch.manual_seed(0)
    masked, alone = MAKERS[kind](weight * mask), MAKERS[kind](weight[:, :6])
    codes, scale = masked.codes(weight * mask)
    expected, expected_scale = alone.codes(weight[:, :6])
    assert torch.equal(codes[:, :6], expected) and not codes[:, 6:].any()
    assert torch.equal(scale, expected_scale)


def test_pruned_weights_wrong_if_they_count() -> None:
    """With zeros among its weights a mean is smaller, and so would be the threshold."""
    weight = row(2, -1.5, 0.9, -0.5, 0.3, 0, 0, 0, 0, 0)
    assert Twn().codes(weight)[0].tolist()[0][:5] == Twn().codes(weight[:, :5])[0].tolist()[0]
    assert (weight.abs() > 0.7 * weight.abs().mean()).tolist()[0][:5] != [
        x != 0 for x in Twn().codes(weight)[0][0, :5].tolist()
    ]


def test_float_weights_pass_and_cannot_be_written() -> None:
    weight = normal(2, 3)
    assert Unquantized()(weight) is weight
    with pytest.raises(UsageError, match="must be ternary to be written"):
        Unquantized().codes(weight)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Sws(0), "must be 1 to 64"),
        (lambda: Sws(65), "must be 1 to 64"),
        (lambda: Sws(4, beta=0.25), "does not"),
        (lambda: Sws(levels="x"), "paper or fitted"),  # type: ignore[arg-type]
        (lambda: Twn(per="x"), "a layer or a channel"),  # type: ignore[arg-type]
        (lambda: ternarizer("x", torch.ones(1, 1)), "ternarizers are sws"),  # type: ignore[arg-type]
        (lambda: ternarizer("twn", torch.ones(1, 1), terms=2), "only sws has several terms"),
        (lambda: blend(torch.optim.SGD([nn.Parameter(torch.ones(1))]), [], rho=2), "between 0 and 1"),
    ],
)
def test_refuses(make: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()  # type: ignore[operator]


def test_names() -> None:
    weight = normal(3, 4)
    found = {k: type(ternarizer(k, weight)) for k in ("sws", "twn", "gaussian", "bcgd", "none")}  # type: ignore[arg-type]
    assert found == {"sws": Sws, "twn": Twn, "gaussian": TruncatedGaussian, "bcgd": Bcgd, "none": Unquantized}
