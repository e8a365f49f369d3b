"""Low rank: what the factors give back, where the hardware's cost steps, and a search with a known answer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tcompile.compress.low_rank import Conv, Factors, RankChoice, candidates, search, tucker2
from tcompile.errors import UsageError
from tcompile.mapping.plan import Choice, plan_as_asked, tasks
from tests.networks import Builder


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def of_rank(rank: int, outputs: int, inputs: int, kernel: tuple[int, ...]) -> Tensor:
    """Weights whose both unfoldings have a rank."""
    parts = Factors(normal(rank, inputs), normal(rank, rank, *kernel, seed=1), normal(outputs, rank, seed=2))
    return parts.joined()


@pytest.mark.parametrize("shape", [(6, 6, 3, 3), (5, 8, 3, 3), (8, 3, 2, 1), (4, 7), (3, 4, 5), (2, 2, 2, 2, 2)])
def test_full_rank_gives_the_layer_back(shape: tuple[int, ...]) -> None:
    weight = normal(*shape)
    for rank in (max(shape[:2]), 100):
        joined = tucker2(weight, rank).joined()
        assert joined.shape == weight.shape and torch.allclose(joined, weight, atol=1e-12)


def test_full_rank_wrong_with_one_rank_less() -> None:
    weight = normal(6, 6, 3, 3)
    assert not torch.allclose(tucker2(weight, 5).joined(), weight, atol=1e-2)


def test_a_layer_of_low_rank_is_found_exactly() -> None:
    weight = of_rank(3, 8, 7, (3, 3))
    assert torch.allclose(tucker2(weight, 3).joined(), weight, atol=1e-10)


def test_a_layer_of_low_rank_wrong_with_the_unfoldings_exchanged() -> None:
    weight = of_rank(3, 8, 8, (3, 3))
    assert not torch.allclose(tucker2(weight, 3).joined().transpose(0, 1), weight, atol=1e-2)


def test_a_matrix_has_the_best_approximation() -> None:
    """Without a kernel HOSVD is the truncated singular value decomposition: Eckart and Young."""
    weight = normal(7, 9)
    values = torch.linalg.svdvals(weight)
    error = ((tucker2(weight, 4).joined() - weight) ** 2).sum()
    assert float(error) == pytest.approx(float((values[4:] ** 2).sum()))


def test_the_error_is_at_most_what_both_unfoldings_leave_out() -> None:
    weight = normal(8, 6, 3, 3)
    for rank in range(1, 8):
        left = sum(
            float((torch.linalg.svdvals(m.flatten(1))[rank:] ** 2).sum()) for m in (weight, weight.transpose(0, 1))
        )
        assert float(((tucker2(weight, rank).joined() - weight) ** 2).sum()) <= left + 1e-9


def test_shapes_of_the_factors() -> None:
    parts = tucker2(normal(8, 6, 3, 2), 4)
    assert [tuple(t.shape) for t in (parts.first, parts.core, parts.last)] == [(4, 6, 1, 1), (4, 4, 3, 2), (8, 4, 1, 1)]


@pytest.mark.parametrize("rank, shape", [(0, (2, 2)), (1, (4,))])
def test_refuses(rank: int, shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"rank|axes"):
        tucker2(normal(*shape), rank)


CONVS = [Conv.of((9, 8), stride=2, pad=1), Conv((9, 8), (1, 2), (0, 1, 2, 1), (2, 1)), Conv.of((12,), pad=2)]


@pytest.mark.parametrize("conv", CONVS)
def test_three_convolutions_are_the_one_they_stand_for(conv: Conv) -> None:
    kernel = (3, 2)[: len(conv.image)]
    parts = tucker2(normal(8, 6, *kernel), 4)
    x = normal(2, 6, *conv.image, seed=3)
    found = conv.low_rank(x, parts)
    assert torch.allclose(found, conv(x, parts.joined()), atol=1e-10)
    assert tuple(found.shape[2:]) == conv.out(kernel)


def test_a_convolution_pads_as_onnx_does() -> None:
    x, weight = normal(1, 2, 5, 6), normal(3, 2, 3, 3)
    found = Conv((5, 6), (1, 1), (1, 0, 0, 2), (1, 1))(x, weight)
    assert torch.equal(found, F.conv2d(F.pad(x, (0, 2, 1, 0)), weight))


def test_candidates_stand_at_the_lanes() -> None:
    assert candidates(24, 16, 8, 8) == (8, 16)
    assert candidates(16, 16, 4, 6) == (4, 6, 8, 12)
    assert candidates(8, 8, 8, 8) == ()


def test_cycles_step_at_candidates_only() -> None:
    conv, shape = Conv.of((10, 10), pad=1), (24, 24, 3, 3)
    total = {r: sum(conv.cycles_at(shape, r, 8, 4)) for r in range(4, 24)}
    steps = {r for r in range(4, 23) if total[r] != total[r + 1]}
    assert steps == set(candidates(24, 24, 8, 4)) == {4, 8, 12, 16, 20}


def test_cycles_are_those_of_build() -> None:
    shape, conv = (24, 12, 3, 3), Conv.of((9, 9), stride=2, pad=1)
    b = Builder()
    x = b.input((1, 12, 9, 9))
    names = [x := b.conv(x, np.ones((8, 12, 1, 1), np.int64))]
    names += [x := b.conv(x, np.ones((8, 8, 3, 3), np.int64), (2, 2), (1,) * 4)]
    names += [b.conv(x, np.ones((24, 8, 1, 1), np.int64))]
    plans = plan_as_asked(tasks(b.graph(names[-1])), Choice(8, 4))
    assert conv.cycles_at(shape, 8, 8, 4) == tuple(plans[n].cycles for n in names)


# Search


def searched(weight: Tensor, strength: float) -> int | None:
    """Rank of a layer that is to give what its weights gave before."""
    choice = RankChoice(weight, Conv.of((4, 4), pad=1), candidates(8, 8, 2, 2), 2, 2)
    batches = [(normal(4, 8, 4, 4, seed=k), normal(4, 8, 4, 4, seed=1000 + k)) for k in range(40)]

    def loss(x: Tensor) -> Tensor:
        wanted = choice.conv(x, weight)
        return ((choice(x) - wanted) ** 2).mean() / (wanted**2).mean()

    (rank,) = search([choice], loss, batches, strength=strength, closeness=0.0, choice_rate=0.1)
    return rank


def test_search_takes_the_smallest_rank_that_costs_no_accuracy() -> None:
    weight = of_rank(4, 8, 8, (3, 3))
    assert searched(weight / weight.norm(), strength=0.1) == 4


def test_search_takes_the_cheapest_where_only_cycles_count() -> None:
    weight = normal(8, 8, 3, 3)
    assert searched(weight / weight.norm(), strength=100.0) == 2


def test_search_wrong_without_cycles() -> None:
    """Without their cost nothing speaks for a rank below the layer's own."""
    weight = normal(8, 8, 3, 3)
    assert searched(weight / weight.norm(), strength=0.0) is None


def test_mixture_by_hand() -> None:
    weight = normal(8, 8, 3, 3)
    conv = Conv.of((5, 5), pad=1)
    choice = RankChoice(weight, conv, (4,), 4, 4)
    with torch.no_grad():
        choice.alpha.copy_(torch.tensor([0.0, np.log(3.0)]))  # a quarter, and three
    x = normal(2, 8, 5, 5, seed=5)
    found = choice(x)
    low = conv(x, tucker2(weight, 4).joined())
    assert torch.allclose(found, low / 4 + 3 * conv(x, weight) / 4)
    assert float(choice.apart.detach()) == pytest.approx(float(((conv(x, weight) - low) ** 2).mean() / 16))
    full = conv.cycles((8, 8, 3, 3), 4, 4)
    cost = sum(conv.cycles_at((8, 8, 3, 3), 4, 4, 4)) / full
    assert float(choice.cost.detach()) == pytest.approx(cost / 4 + 3 / 4)
    assert choice.rank is None and torch.equal(choice.chosen(), weight)  # type: ignore[arg-type]


def test_steps_move_weights_and_choices_by_turns() -> None:
    weight = normal(8, 8, 3, 3)
    choice = RankChoice(weight, Conv.of((5, 5), pad=1), (4,), 4, 4)
    seen: list[tuple[bool, bool]] = []

    def loss(x: Tensor) -> Tensor:
        seen.append((torch.equal(choice.weight, weight), not choice.alpha.detach().any()))
        return (choice(x) ** 2).mean()

    search([choice], loss, [(normal(1, 8, 5, 5), normal(1, 8, 5, 5))])
    assert seen == [(True, True), (False, True)]
    assert choice.alpha.detach().any()
