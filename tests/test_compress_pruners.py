"""Pruners and their goals: hand-made steps, known optima, exact counts, and what cannot be reached."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tcompile.compress.goals import Candidate, Cycles, LayerCost, Ratio
from tcompile.compress.groups import Groups, groups_of, groups_of_layer
from tcompile.compress.pruners import Admm, Pruner, Slr, pruner
from tcompile.compress.ternarizers import Sws, Ternarizer, Unquantized
from tcompile.errors import UsageError
from tcompile.ir import real as R
from tcompile.ir.graph import Graph, Origin, TensorType
from tcompile.ir.graph import Tensor as Array
from tcompile.mapping.plan import Choice, plan_as_asked, tasks
from tcompile.passes.weights import float_layers
from tests.networks import Builder


class Site(nn.Module):
    """A layer with shadow weights."""

    mask: Tensor

    def __init__(self, weight: Tensor, ternarizer: Ternarizer | None = None, name: str = "a") -> None:
        super().__init__()
        self.name = name
        self.weight = nn.Parameter(weight.clone())
        self.ternarizer = ternarizer or Unquantized()
        self.register_buffer("mask", torch.ones_like(weight))


def row(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def single(weight: Tensor) -> Groups:
    return groups_of("weight", tuple(weight.shape))


def candidate(strengths: list[float], alive: list[bool] | None = None, name: str = "a") -> Candidate:
    n = len(strengths)
    return Candidate(name, np.array(strengths), np.array(alive or [True] * n), np.arange(n), np.ones(n, np.int64))


# Goals


def test_ratio_takes_the_weakest_relative_to_their_layer() -> None:
    small, large = candidate([1, 0.9, 1, 1]), candidate([100, 10, 100, 100], name="b")
    assert [d.tolist() for d in Ratio(0.25).dropped([small, large])] == [
        [False, True, False, False],
        [False, True, False, False],
    ]


def test_ratio_by_layer_takes_the_share_of_each() -> None:
    even, uneven = candidate([1, 1]), candidate([100, 1, 1, 100], name="b")
    assert [int(d.sum()) for d in Ratio(0.5, "layer").dropped([even, uneven])] == [1, 2]


def test_groups_that_are_dead_go_first() -> None:
    layer = candidate([5, 1, 2, 4], [False, True, True, True])
    assert Ratio(0.25).dropped([layer])[0].tolist() == [True, False, False, False]


def test_groups_that_are_dead_wrong_by_strength_alone() -> None:
    layer = candidate([5, 1, 2, 4])
    assert Ratio(0.25).dropped([layer])[0].tolist() == [False, True, False, False]


def test_ratio_says_what_it_cannot_reach() -> None:
    layers = [candidate([1, 2]), candidate([3, 4], name="b")]
    with pytest.raises(UsageError, match="3 of 4 groups must be zero, and at most 2 can be") as error:
        Ratio(0.75).dropped(layers)
    assert error.value.problems[0].where == ("a", "b")
    assert [d.tolist() for d in Ratio(0.75, allow_empty=True).dropped(layers)] == [[True, False], [True, True]]


def test_ratio_by_layer_says_all_that_it_cannot_reach() -> None:
    layers = [candidate([1, 2]), candidate([1, 2, 3, 4], name="b"), candidate([3, 4], name="c")]
    with pytest.raises(UsageError) as error:
        Ratio(0.8, "layer").dropped(layers)
    assert [p.where for p in error.value.problems] == [("a",), ("c",)]


@pytest.mark.parametrize("share", [-0.1, 1, float("nan")])
def test_ratio_refuses(share: float) -> None:
    with pytest.raises(UsageError, match="at least 0 and below 1"):
        Ratio(share)


def real_layer(shape: tuple[int, ...], image: tuple[int, ...], *, dense: bool = False) -> tuple[Graph, int]:
    """A convolution with padding 1, or a dense layer behind the flattened image."""
    w = Array.of(np.ones(shape, np.float32))
    x = R.Input(name="x", type=TensorType("float32", (1, *image)), origin=Origin((), "x"))
    const = R.Const(name="w", value=w, type=TensorType("float32", w.shape))
    origin = Origin((("layer", "Conv"),), "y")
    if dense:
        flat = R.Reshape(name="f", inputs=("x",), type=TensorType("float32", (1, prod(image))))
        kind = TensorType("float32", (1, shape[0]))
        y: R.RealNode = R.Gemm(name="y", inputs=("f", "w"), type=kind, transB=1, origin=origin)
        return Graph("real", (x, const, flat, y), ("y",)), prod(image)
    size = (image[1] + 2 - shape[2]) // 2 + 1
    y = R.Conv(
        name="y", inputs=("x", "w"), type=TensorType("float32", (1, shape[0], size, size)), kernel_shape=shape[2:],
        strides=(2, 2), pads=(1, 1, 1, 1), dilations=(1, 1), group=1, origin=origin,
    )  # fmt: skip
    return Graph("real", (x, const, y), ("y",)), prod(image)


def built_cycles(codes: np.ndarray, image: tuple[int, ...], pe: int, simd: int) -> int:
    """Cycles of the layer as `build` plans it."""
    b = Builder()
    x = b.conv(b.input((1, *image)), np.ones((image[0], 1, 1, 1), np.int64), group=image[0])
    y = b.dense(b.reshape(x, (1, prod(image))), codes) if codes.ndim == 2 else b.conv(x, codes, (2, 2), (1,) * 4)
    graph = b.graph(y)
    work = {n: t for n, t in tasks(graph).items() if n == y}
    return plan_as_asked(work, Choice(pe, simd))[y].cycles


SHAPES = [
    ((16, 12, 3, 3), (12, 9, 9), False),
    ((8, 3, 3, 3), (3, 9, 9), False),
    ((10, 4 * 9), (4, 3, 3), True),
    ((10, 32), (32, 1, 1), True),
]


@pytest.mark.parametrize("shape, image, dense", SHAPES)
@pytest.mark.parametrize("top", [1, 5], ids=["ternary", "int4"])
def test_cost_is_what_build_plans(shape: tuple[int, ...], image: tuple[int, ...], dense: bool, top: int) -> None:
    graph, _ = real_layer(shape, image, dense=dense)
    (layer,) = float_layers(graph)[0]
    rng = np.random.default_rng(0)
    for keep in (1.0, 0.3, 0.02):
        codes = rng.integers(-top, top + 1, shape) * (rng.random(shape) < keep)
        for pe, simd in ((8, 8), (4, 16), (3, 2)):
            assert LayerCost.of(graph, layer, pe, simd).cycles(codes) == built_cycles(codes, image, pe, simd)


def thinned(most: int) -> tuple[int, int, int]:
    """Cycles and tiles kept of a layer thinned to a number of cycles, and its cycles with one group more."""
    shape, image = (16, 16, 3, 3), (16, 9, 9)
    graph, _ = real_layer(shape, image)
    (layer,) = float_layers(graph)[0]
    cost = LayerCost.of(graph, layer, 4, 4)
    weight = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    site = Site(weight, Sws(), "layer")
    groups = groups_of_layer("tile", graph, layer, pe=4, simd=4)
    made = Pruner([(site, groups)], Cycles(most, {"layer": cost}))
    made.finish()
    codes = site.ternarizer.codes(site.weight)[0].numpy().astype(np.int64)
    strengths, kept = groups.strengths(weight).numpy(), groups.alive(site.mask).numpy()
    last = int(np.where(kept, -1, strengths).argmax())  # the strongest of those that went
    mask = site.mask + (groups.ids == last) * (1 - site.mask)
    with_last = site.ternarizer.codes(weight * mask)[0].numpy().astype(np.int64)
    return cost.cycles(codes), cost.tiles(codes)[1], cost.cycles(with_last)


def test_cycles_are_reached_by_the_fewest_groups() -> None:
    full = 5 * 5 * 4 * 4 * 9  # positions, row blocks, channel words, taps
    assert thinned(full) == (full, 144, full)
    for most in (3000, 1500, 600):
        cycles, kept, before = thinned(most)
        assert cycles <= most < before and kept == cycles // 25


def test_cycles_hold_whatever_is_trained_later() -> None:
    """Tiles that are zero by their threshold alone are masked too: nothing else keeps them from coming back."""
    shape, image = (8, 8, 3, 3), (8, 9, 9)
    graph, _ = real_layer(shape, image)
    (layer,) = float_layers(graph)[0]
    cost = LayerCost.of(graph, layer, 4, 4)
    groups = groups_of_layer("tile", graph, layer, pe=4, simd=4)
    weak = torch.arange(groups.count) < 12
    site = Site(torch.where(groups.spread(weak), 0.01, 1.0), Sws(), "layer")
    codes = site.ternarizer.codes(site.weight)[0].numpy().astype(np.int64)
    most = cost.cycles(codes)
    Pruner([(site, groups)], Cycles(most, {"layer": cost})).finish()
    assert torch.equal(groups.alive(site.mask), ~weak)
    assert cost.cycles(np.ones(shape, np.int64) * site.mask.numpy().astype(np.int64)) == most == 24 * 25


def test_cycles_say_what_they_cannot_reach() -> None:
    with pytest.raises(UsageError, match="must take at most 99 cycles per frame, and takes 484 with one group left"):
        thinned(99)  # 11 x 11 positions with padding, 4 words each, must come in


def test_cycles_refuse_zero() -> None:
    with pytest.raises(UsageError, match="at least one cycle"):
        Cycles(0)


# All pruners


METHODS = ["magnitude", "lasso", "wpc", "admm", "slr"]


@pytest.mark.parametrize("method", METHODS)
def test_finish_masks_exactly_the_share(method: str) -> None:
    weight = torch.randn(12, 10, 3, 3, generator=torch.Generator().manual_seed(0))
    site, other = Site(weight, Sws()), Site(weight[:, :4], Sws(2), "b")
    layers = [(s, groups_of("tile", tuple(s.weight.shape), pe=4, simd=4)) for s in (site, other)]
    made = pruner(method, layers, Ratio(0.4))  # type: ignore[arg-type]
    made.finish()
    total = sum(g.count for _, g in layers)
    masked = sum(int((~g.alive(s.mask)).sum()) for s, g in layers)
    assert masked == round(0.4 * total)
    assert sum(z for z, _ in made.zeros().values()) >= masked
    assert torch.equal(site.weight.detach() != 0, site.mask != 0)


@pytest.mark.parametrize("method", METHODS)
def test_survivors_stay_and_zeros_stay_zero(method: str) -> None:
    weight = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    site = Site(weight, Sws())
    made = pruner(method, [(site, single(weight))], Ratio(0.5))  # type: ignore[arg-type]
    made.finish()
    kept = site.mask.clone()
    assert torch.equal(site.weight.detach(), weight * kept)
    with torch.no_grad():
        site.weight.add_(1.0)
    made.after_step()
    made.finish()
    assert torch.equal(site.mask, kept)
    assert torch.equal(site.weight.detach(), (weight * kept + 1) * kept)
    assert float(made.penalty()) == 0


def test_dead_groups_of_ternary_weights_are_pruned_before_weaker_ones() -> None:
    """Group 0 is stronger, but all its weights are below the threshold 0.5."""
    weight = torch.tensor([[0.4, 0.4], [0.55, 0], [10, 10]])
    for ternarizer, expected in ((Sws(), [0, 1, 1]), (Unquantized(), [1, 0, 1])):
        site = Site(weight, ternarizer)
        Pruner([(site, groups_of("filter", (3, 2)))], Ratio(0.34)).finish()
        assert site.mask[:, 0].tolist() == expected


def test_zeros_count_groups_without_ternary_weights() -> None:
    weight = torch.tensor([[0.4, 0.4], [0.55, 0], [10, 10]])
    assert Pruner([(Site(weight, Sws()), groups_of("filter", (3, 2)))], None).zeros() == {"a": (1, 3)}


def test_nothing_is_masked_if_the_goal_cannot_be_reached() -> None:
    sites = [Site(row(1, 2), name="a"), Site(row(1, 2), name="b")]
    made = Pruner([(s, single(s.weight)) for s in sites], Ratio(0.75))
    with pytest.raises(UsageError):
        made.finish()
    assert all(s.mask.all() for s in sites) and not made.finished


def test_method_none_prunes_nothing() -> None:
    site = Site(row(1, 0.001))
    made = pruner("none", [(site, single(site.weight))], Ratio(0.5))
    made.finish()
    assert site.mask.all() and made.method == "none" and float(made.penalty()) == 0
    assert float(pruner("none", [], None).penalty()) == 0


def test_lasso_and_wpc_add_their_penalty() -> None:
    site = Site(row(3, 4, 0.3, 0.4, 1, 0), Sws())
    groups = Groups(torch.tensor([[0, 0, 1, 1, 2, 2]]), 3)  # norms 5, 0.5, 1; mean 6.5 / 3
    lasso = pruner("lasso", [(site, groups)], Ratio(0.5), strength=2.0)
    wpc = pruner("wpc", [(site, groups)], Ratio(0.5), strength=2.0, a=0.5)
    assert float(lasso.penalty().detach()) == pytest.approx(2 * 6.5)
    assert float(wpc.penalty().detach()) == pytest.approx(2 * (0.5 + 1 + 6.5 / 6))
    wpc.penalty().backward()
    assert site.weight.grad[0].tolist() == pytest.approx([0, 0, 1.2, 1.6, 2, 0])  # type: ignore[index]


def test_penalties_wrong_on_ternary_weights() -> None:
    """The norms are those of the float shadow weights."""
    site = Site(row(3, 4, 0.3, 0.4), Sws())
    groups = Groups(torch.tensor([[0, 0, 1, 1]]), 2)
    made = pruner("lasso", [(site, groups)], Ratio(0.5), strength=1.0)
    assert float(made.penalty().detach()) != pytest.approx(
        float(groups.norms(site.ternarizer(site.weight).detach()).sum())
    )


def test_refuses() -> None:
    site = Site(row(1, 2, 3))
    for make, message in (
        (lambda: pruner("x", [(site, single(site.weight))], Ratio(0.5)), "pruning methods are"),  # type: ignore[arg-type]
        (lambda: Pruner([(site, groups_of("weight", (2, 3)))], None), "of the shape of the weights"),
        (lambda: Pruner([(site, single(site.weight))] * 2, None), "stands there twice"),
        (lambda: Admm([(site, single(site.weight))], Ratio(0.5), rho=0), "rho must be a number above 0"),
        (lambda: Slr([(site, single(site.weight))], Ratio(0.5), step=-1), "step must be a number above 0"),
    ):
        with pytest.raises(UsageError, match=message):
            make()


# Separable quadratics: f = Σ c/2·(w - t)²; two of four weights may stay


TARGET, CURVE = row(3, 2, 1, 2.5), row(0.1, 1, 0.2, 1)
OPTIMUM = row(0, 2, 0, 2.5)  # what leaving a weight out costs: c·t²/2 = 0.45, 2, 0.1, 3.1


def loss_of(site: Site) -> Callable[[], float]:
    return lambda: float((CURVE / 2 * (site.weight.detach() - TARGET) ** 2).sum())


def minimize(site: Site, made: Admm | Slr) -> None:
    """The exact minimum over W, where the gradient of f and penalty is zero; both are quadratic."""
    slope = torch.autograd.functional.hessian(lambda w: penalty_at(site, made, w), site.weight.detach()).reshape(4, 4)
    zero = torch.zeros_like(site.weight.detach()).requires_grad_()
    (offset,) = torch.autograd.grad(penalty_at(site, made, zero), zero)
    matrix = slope + torch.diag(CURVE[0])
    with torch.no_grad():
        site.weight.copy_(torch.linalg.solve(matrix, (CURVE * TARGET - offset)[0])[None])


def penalty_at(site: Site, made: Admm | Slr, weight: Tensor) -> Tensor:
    class At:
        name, mask, ternarizer = site.name, site.mask, site.ternarizer

    At.weight = weight  # type: ignore[attr-defined]
    kept, made._layers = made._layers, [(At, made._layers[0][1])]  # type: ignore[list-item]
    value = made.penalty()
    made._layers = kept
    return value


def solved(method: str, updates: int, **options: float) -> tuple[Site, Admm | Slr]:
    site = Site(TARGET)
    layers = [(site, single(TARGET))]
    made: Admm | Slr
    if method == "admm":
        made = Admm(layers, Ratio(0.5), **options)  # type: ignore[arg-type]
    else:
        made = Slr(layers, Ratio(0.5), loss=loss_of(site), **options)  # type: ignore[arg-type]
    for epoch in range(1, updates + 1):
        minimize(site, made)
        made.after_epoch(epoch)
    return site, made


def test_slr_finds_the_known_optimum() -> None:
    site, made = solved("slr", 300, rho=0.3, step=0.01)
    assert torch.allclose(site.weight.detach(), OPTIMUM, atol=1e-2)
    made.finish()
    assert site.mask.tolist() == [[0, 1, 0, 1]]
    assert loss_of(site)() == pytest.approx(0.55, abs=1e-3)


def test_slr_optimum_wrong_by_magnitude() -> None:
    site = Site(TARGET)
    Pruner([(site, single(TARGET))], Ratio(0.5)).finish()
    assert site.mask.tolist() == [[1, 0, 0, 1]]
    assert loss_of(site)() == pytest.approx(2.1)


def test_slr_step_by_hand() -> None:
    """W = (4, 1) → (3.5, 0.5), Z = (4, 0); ρ = 0.5, s = 0.1, Λ = 0, keep one.

    First: f falls by 2 and ρ/2·‖W - Z‖² from 0.25 to 0.125. α_1 = 1 - 1/300; s = α·0.1·1 / 0.7071; Λ = s·(-0.5, 0.5).
    Then Z = Π(W + 2·Λ) = (3.5 - s, 0); <Λ, W - Z> + ρ/2·‖·‖² with old and new Z decides once more.
    """
    losses = iter([5.0, 3.0])
    site = Site(row(4, 1))
    made = Slr([(site, single(site.weight))], Ratio(0.5), rho=0.5, step=0.1, loss=lambda: next(losses))
    with torch.no_grad():
        site.weight.copy_(row(3.5, 0.5))
    made.after_epoch(1)
    alpha = 1 - 1 / 300
    s = alpha * 0.1 / 0.5**0.5
    first = np.array([-0.5, 0.5]) * s
    z = np.array([3.5 + 2 * first[0], 0])
    apart_old, apart_new = np.array([-0.5, 0.5]), np.array([3.5, 0.5]) - z
    old = first @ apart_old + 0.25 * apart_old @ apart_old
    new = first @ apart_new + 0.25 * apart_new @ apart_new
    assert new < old
    s = alpha * s * np.sqrt(apart_old @ apart_old) / np.sqrt(apart_new @ apart_new)
    assert made.z[0].numpy()[0] == pytest.approx(z)
    assert made.s == pytest.approx(s)
    assert made.multipliers[0].numpy()[0] == pytest.approx(first + s * apart_new)


def test_slr_keeps_the_multipliers_if_the_surrogate_does_not_fall() -> None:
    losses = iter([1.0, 3.0])
    site = Site(row(4, 0))
    made = Slr([(site, single(site.weight))], Ratio(0.5), rho=0.5, step=0.1, loss=lambda: next(losses))
    with torch.no_grad():
        site.weight.copy_(row(4, 0.5))
    made.after_epoch(1)
    assert made.s == 0.1 and not made.multipliers[0].any()


def test_slr_alpha() -> None:
    _, made = solved("slr", 1, rho=0.35)
    made.k = 1
    assert made.alpha == pytest.approx(1 - 1 / 300)
    made.k = 10
    assert made.alpha == pytest.approx(1 - 1 / (300 * 10 ** (1 - 1 / 10**0.1)))


def test_slr_holds_copies_of_the_weights() -> None:
    site = Site(row(4, 1))
    made = Slr([(site, single(site.weight))], Ratio(0.5))
    with torch.no_grad():
        site.weight.mul_(2)
    assert made.before[0].tolist() == [[4, 1]] and made.z[0].tolist() == [[4, 0]]


def test_slr_wrong_with_aliases() -> None:
    """If W_{k-1} were W_k, the first condition could never hold, and the multipliers would not move."""
    site = Site(row(4, 1))
    made = Slr([(site, single(site.weight))], Ratio(0.5), rho=0.5, step=0.1)
    moved = Slr([(site, single(site.weight))], Ratio(0.5), rho=0.5, step=0.1)
    made.before = [site.weight.detach()]
    with torch.no_grad():
        site.weight.copy_(row(4, 0.5))
    made.after_epoch(1)
    moved.after_epoch(1)
    assert not made.multipliers[0].any() and moved.multipliers[0].any()


def test_admm_reaches_its_set() -> None:
    site, made = solved("admm", 60, rho=0.01)
    assert isinstance(made, Admm) and made.distance() < 1e-3
    assert torch.allclose(site.weight.detach(), row(3, 0, 0, 2.5), atol=2e-2)
    made.finish()
    assert site.mask.tolist() == [[1, 0, 0, 1]]


def test_admm_wrong_without_its_updates() -> None:
    _, made = solved("admm", 60, rho=0.01, every=1000)
    assert isinstance(made, Admm) and made.distance() > 0.1


def test_admm_step_by_hand() -> None:
    """W = (4, 1) → (3, 2), Z = (4, 0), U = 0: Z = Π(3, 2) = (3, 0), U = (0, 2); then Π(3, 4) = (0, 4), U = (3, 0)."""
    site = Site(row(4, 1))
    made = Admm([(site, single(site.weight))], Ratio(0.5), rho=0.5)
    assert float(made.penalty().detach()) == pytest.approx(0.25)
    with torch.no_grad():
        site.weight.copy_(row(3, 2))
    made.after_epoch(1)
    assert (made.z[0].tolist(), made.u[0].tolist(), made.rho) == ([[3, 0]], [[0, 2]], 0.65)
    assert float(made.penalty().detach()) == pytest.approx(0.65 / 2 * 16)
    made.after_epoch(2)
    assert (made.z[0].tolist(), made.u[0].tolist()) == ([[0, 4]], [[3, 0]])


def test_admm_updates_every_so_many_epochs() -> None:
    site = Site(row(4, 1))
    made = Admm([(site, single(site.weight))], Ratio(0.5), every=3)
    rhos = []
    for epoch in range(1, 7):
        made.after_epoch(epoch)
        rhos.append(made.rho)
    assert rhos == pytest.approx([1e-3, 1e-3, 1.3e-3, 1.3e-3, 1.3e-3, 1.69e-3])


@pytest.mark.parametrize("method", ["admm", "slr"])
def test_interrupted_and_resumed_is_the_same(method: str, tmp_path: object) -> None:
    whole, made = solved(method, 12)
    site, half = solved(method, 6)
    weight, state = site.weight.detach().clone(), half.state_dict()
    for _ in range(2):  # what was handed out does not change with the pruner that goes on
        minimize(site, half)
        half.after_epoch(1)
    again, fresh = solved(method, 0)
    with torch.no_grad():
        again.weight.copy_(weight)
    fresh.load_state_dict(state)
    for epoch in range(7, 13):
        minimize(again, fresh)
        fresh.after_epoch(epoch)
    assert torch.equal(again.weight, whole.weight)
    assert torch.equal(fresh.z[0], made.z[0])


def test_a_state_of_another_method_is_refused() -> None:
    _, admm = solved("admm", 1)
    _, slr = solved("slr", 1)
    with pytest.raises(UsageError, match="must be of slr, and is of 'admm'"):
        slr.load_state_dict(admm.state_dict())
