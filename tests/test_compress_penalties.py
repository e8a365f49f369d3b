"""Group lasso and Weight Penalty Clipping: values, thresholds and both gradients, by hand and by differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tcompile.compress.groups import Groups, groups_of
from tcompile.compress.penalties import Clipping, GroupLasso, threshold
from tcompile.errors import UsageError

NORMS = torch.tensor([1.0, 2.0, 3.0, 10.0], dtype=torch.float64)  # mean 4


def gradient(penalty: GroupLasso | Clipping, norms: Tensor = NORMS) -> list[float]:
    """dL/dn of each group."""
    n = norms.clone().requires_grad_()
    (found,) = torch.autograd.grad(penalty([n]), n)
    return found.tolist()


def test_group_lasso_sums_norms_over_layers() -> None:
    assert float(GroupLasso(0.5)([NORMS, torch.ones(3)])) == 0.5 * 19
    assert gradient(GroupLasso(0.5)) == [0.5] * 4


def test_clipping_by_hand() -> None:
    """Mean 4, δ = 2: 1 + 2 + 2 + 2."""
    assert float(Clipping(1.0, 0.5)([NORMS])) == 7
    assert float(Clipping(0.1, 0.5)([NORMS, NORMS])) == pytest.approx(1.4)


def test_clipping_wrong_if_it_is_group_lasso() -> None:
    assert float(Clipping(1.0, 0.5)([NORMS])) != float(GroupLasso(1.0)([NORMS]))


def test_detached_gradient_leaves_clipped_groups_alone() -> None:
    assert gradient(Clipping(1.0, 0.5)) == [1, 1, 0, 0]  # the group at the threshold is drawn


def test_attached_gradient_also_goes_through_the_mean() -> None:
    """Two clipped groups, each adds a / G = 1/8 to every group."""
    assert gradient(Clipping(1.0, 0.5, attached=True)) == [1.25, 1.25, 0.25, 0.25]


def test_attached_gradient_wrong_if_detached() -> None:
    assert gradient(Clipping(1.0, 0.5, attached=True)) != gradient(Clipping(1.0, 0.5))


def test_rank_gradients() -> None:
    """a = 0.5 on 2 lanes of 4 groups: k = 1·2, δ = 2; the second smallest stands for three groups if attached."""
    assert gradient(Clipping(1.0, 0.5, "rank", lanes=2)) == [1, 1, 0, 0]
    assert gradient(Clipping(1.0, 0.5, "rank", attached=True, lanes=2)) == [1, 3, 0, 0]


@pytest.mark.parametrize("kind", ["mean", "rank", "mixed"])
def test_attached_gradient_by_differences(kind: str) -> None:
    norms = torch.rand(20, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    penalty = Clipping(0.3, 0.6, kind, attached=True, lanes=4)  # type: ignore[arg-type]
    assert torch.autograd.gradcheck(lambda n: penalty([n]), (norms,))


def test_detached_gradient_is_that_of_a_fixed_threshold() -> None:
    norms = torch.rand(20, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    delta = float(threshold(norms, "mean", 0.6))
    assert gradient(Clipping(1.0, 0.6), norms) == (norms <= delta).double().tolist()


@pytest.mark.parametrize(
    "kind, a, lanes, expected",
    [
        ("mean", 0.25, 16, 1.0),
        ("rank", 0.5, 2, 2.0),  # k = int(0.5·2)·int(4 / 2) = 2
        ("rank", 0.7, 4, 2.0),  # k = int(2.8)·1
        ("rank", 1.0, 4, 10.0),
        ("rank", 0.2, 4, 0.0),  # k = 0: nothing is drawn
        ("rank", 0.5, 16, 0.0),  # fewer groups than lanes
        ("mixed", 0.25, 2, 0.0),
        ("mixed", 0.5, 2, 2.0),
        ("mixed", 0.75, 4, 3.0),  # mean 3, rank 3
        ("mixed", 1.0, 4, 4.0),  # the mean is smaller
    ],
)
def test_thresholds(kind: str, a: float, lanes: int, expected: float) -> None:
    assert float(threshold(NORMS, kind, a, lanes)) == expected  # type: ignore[arg-type]


def test_threshold_wrong_if_the_rank_counts_from_zero() -> None:
    assert float(threshold(NORMS, "rank", 0.5, 2)) != float(NORMS.sort().values[2])


@pytest.mark.parametrize("penalty", [GroupLasso(), Clipping(), Clipping(kind="rank"), Clipping(attached=True)])
def test_zero_layers_have_no_penalty_and_a_finite_gradient(penalty: GroupLasso | Clipping) -> None:
    groups = groups_of("tile", (16, 16, 3, 3), pe=2, simd=2)
    weight = torch.zeros(16, 16, 3, 3, requires_grad=True)
    value = penalty([groups.fair_norms(weight)])
    value.backward()
    assert float(value.detach()) == 0
    assert weight.grad is not None and not weight.grad.any()


def test_no_layers_have_no_penalty() -> None:
    assert float(GroupLasso()([])) == float(Clipping()([])) == 0


def test_penalty_on_weights_by_differences() -> None:
    groups = Groups(torch.tensor([[0, 0, 1], [1, 2, 2]]), 3)
    weight = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    penalty = Clipping(0.1, 0.9, attached=True)
    assert torch.autograd.gradcheck(lambda w: penalty([groups.fair_norms(w)]), (weight,))


def test_clipping_keeps_the_largest_weight_and_group_lasso_shrinks_it() -> None:
    """The reason for clipping: with group lasso max|w|, and with it the ternary threshold, falls as the groups do."""
    groups = groups_of("filter", (4, 8))
    largest = {}
    for name, penalty in (("lasso", GroupLasso(1.0)), ("wpc", Clipping(1.0, 0.5))):
        weight = torch.outer(torch.tensor([0.1, 0.2, 1.0, 2.0]), torch.ones(8)).requires_grad_()
        optimizer = torch.optim.SGD([weight], lr=0.01)
        for _ in range(60):
            optimizer.zero_grad()
            penalty([groups.fair_norms(weight)]).backward()
            optimizer.step()
        largest[name] = (float(weight.detach().abs().max()), float(weight.detach()[1].abs().max()))
    assert largest["wpc"][0] == 2.0 and largest["lasso"][0] < 1.9
    assert largest["wpc"][1] < 0.02


def test_refuses_all_wrong_options_at_once() -> None:
    with pytest.raises(UsageError) as error:
        Clipping(-1.0, 0.0, "median", lanes=0)  # type: ignore[arg-type]
    assert [p.code for p in error.value.problems] == [
        "penalty-strength", "penalty-share", "penalty-threshold", "penalty-lanes",
    ]  # fmt: skip
    with pytest.raises(UsageError, match="at least 0"):
        GroupLasso(float("nan"))
