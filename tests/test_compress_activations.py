"""Learned quantizers: values and gradients against numbers computed by hand."""

from __future__ import annotations

from math import log, sqrt

import numpy as np
import pytest
import torch

from tcompile.compress.activations import BcgdQuantizer, Quantizer
from tcompile.passes.quantize_activations import Step


def gradients(quantizer: Quantizer, x: list[float], upstream: list[float]) -> tuple[list[float], list[float], float]:
    """Values, and the gradients of Σ upstream·y for x and for the exponent."""
    frames = torch.tensor([x], requires_grad=True)
    y = quantizer(frames)
    (y * torch.tensor([upstream])).sum().backward()
    assert frames.grad is not None and quantizer.exponent.grad is not None
    return y[0].tolist(), frames.grad[0].tolist(), float(quantizer.exponent.grad)


X = [-0.3, 0.2, 0.6, 1.0, 7.4, 9.0]
UP = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]


def test_learned_step_rounds_half_to_even_and_saturates():
    y, _, _ = gradients(Quantizer(Step(-1, 0, 15)), [0.25, 0.75, -3.0, 99.0], [0.0] * 4)
    assert y == [0.0, 1.0, 0.0, 7.5]


def test_learned_step_has_the_gradients_of_the_paper():
    y, by_x, by_e = gradients(Quantizer(Step(-1, 0, 15)), X, UP)
    # in steps of 0.5 the ratios are -0.6, 0.4, 1.2, 2, 14.8, 18 and the codes 0, 0, 1, 2, 15, 15
    assert y == [0.0, 0.0, 0.5, 1.0, 7.5, 7.5]
    assert by_x == [0.0, 2.0, 3.0, 4.0, 5.0, 0.0]
    by_step = (2 * (0 - 0.4) + 3 * (1 - 1.2) + 4 * (2 - 2) + 5 * (15 - 14.8) + 6 * 15) / sqrt(6 * 15)
    assert by_e == pytest.approx(by_step * 0.5 * log(2), rel=1e-5)


def test_gradient_without_its_clipped_part_is_seen_to_differ_wrong():
    _, _, by_e = gradients(Quantizer(Step(-1, 0, 15)), X, UP)
    inside_only = (2 * (0 - 0.4) + 3 * (1 - 1.2) + 5 * (15 - 14.8)) / sqrt(6 * 15) * 0.5 * log(2)
    assert abs(by_e - inside_only) > 1


def test_signed_codes_saturate_at_both_ends():
    y, by_x, _ = gradients(Quantizer(Step(0, -2, 1)), [-9.0, -1.2, 0.4, 5.0], [1.0] * 4)
    assert y == [-2.0, -1.0, 0.0, 1.0]
    assert by_x == [0.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize("bits", range(1, 9))
def test_step_is_a_power_of_two_wherever_training_takes_it(bits):
    quantizer = Quantizer(Step(-2, 0, (1 << bits) - 1))
    for moved in (-2.49, -2.51, -1.6, 0.3, 99.0, -99.0):
        quantizer.exponent.data.fill_(moved)
        x = torch.linspace(-1, 300, 64)[None]
        codes = (quantizer(x) / quantizer.step.scale)[0].tolist()
        assert all(c == int(c) and 0 <= c < 1 << bits for c in codes)
        assert np.frexp(quantizer.step.scale)[0] == 0.5


def test_step_that_is_not_learned_has_no_gradient():
    assert not Quantizer(Step(0, 0, 3), learned=False).exponent.requires_grad
    assert Quantizer(Step(0, 0, 3)).exponent.requires_grad


def test_quantizer_gives_what_the_pass_gives():
    step = Step(-3, -8, 7)
    x = np.random.default_rng(0).normal(size=(2, 100)).astype(np.float32)
    assert np.array_equal(Quantizer(step)(torch.from_numpy(x)).detach().numpy(), step.values(x).astype(np.float32))


def test_bcgd_rounds_up():
    y, _, _ = gradients(BcgdQuantizer(Step(0, 0, 3)), [-0.5, 0.1, 0.9, 1.1, 2.0, 2.7, 8.0], [0.0] * 7)
    assert y == [0.0, 1.0, 1.0, 2.0, 2.0, 3.0, 3.0]


def test_bcgd_has_the_coarse_gradients_of_the_paper():
    _, by_x, by_e = gradients(BcgdQuantizer(Step(0, 0, 3)), [-1.0, 0.5, 2.9, 3.0, 7.0], [1.0, 2.0, 3.0, 4.0, 5.0])
    assert by_x == [0.0, 2.0, 3.0, 0.0, 0.0]
    assert by_e == pytest.approx(0.01 * (2 * 2 + 3 * 2 + 4 * 3 + 5 * 3))  # 2^(b-1) inside, 2^b - 1 above


def test_bcgd_gradient_is_clamped():
    _, _, by_e = gradients(BcgdQuantizer(Step(0, 0, 3)), [9.0, 9.0], [100.0, 100.0])
    assert by_e == 1.0


def test_bcgd_refuses_signed_codes():
    with pytest.raises(ValueError, match="codes from 0 on"):
        BcgdQuantizer(Step(0, -2, 1))
