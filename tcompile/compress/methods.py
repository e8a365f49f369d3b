"""From a recipe to its parts: what ternarizes each layer, and what prunes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tcompile.compress.data import Data
from tcompile.compress.decompose import by_share, by_training, decomposed, wide_layers
from tcompile.compress.goals import Cycles, Even, Fitting, Goal, LayerCost, Ratio
from tcompile.compress.groups import Groups, Shape, groups_of_layer
from tcompile.compress.hardware import Hardware
from tcompile.compress.penalties import LANES
from tcompile.compress.prepare import Prepared, Site, Ternarizers, prepare
from tcompile.compress.pruners import Pruner, pruner
from tcompile.compress.recipe import Recipe
from tcompile.compress.ternarizers import ternarizer
from tcompile.errors import Problem, UsageError
from tcompile.ir.graph import Graph

__all__ = ["CALIBRATION", "hardware_for", "low_rank_for", "prepared_for", "pruner_for", "shapes_for", "ternarizers_for"]

CALIBRATION = 256  # training frames
COMPARED = 512  # training frames that slr's loss is taken on
UPDATES = 10  # of admm, in all
# Where no share of groups is asked for: parameter of a clipping threshold, and share of zeros that forms are chosen for.
USUAL = 0.5


def ternarizers_for(recipe: Recipe) -> Ternarizers:
    """What quantizes each layer's weights."""

    def make(index: int, count: int, weight: Tensor) -> nn.Module:
        return ternarizer(recipe.ternary, weight, terms=recipe.terms_of(index, count), per=recipe.per)

    return make


def prepared_for(graph: Graph, frames: np.ndarray, recipe: Recipe, teacher: Graph | None = None) -> Prepared:
    """A network to train, calibrated on the first of some frames (N, ...)."""
    samples = np.asarray(frames[:CALIBRATION], np.float32)
    return prepare(
        graph, samples, ternarizers_for(recipe), act_bits=recipe.act_bits, input_bits=recipe.input_bits,
        quantizer=recipe.quantizer, teacher=teacher,
    )  # fmt: skip


def low_rank_for(
    graph: Graph, recipe: Recipe, data: Data | None = None, device: torch.device | str = "cpu"
) -> tuple[Graph, dict[str, int]]:
    """The graph with convolutions of low rank as the recipe asks, and the rank of each layer that was replaced.

    Parameters
    ----------
    data : Data, optional
        Labelled frames, for a search.

    Raises
    ------
    UsageError
        A search has no labels, or no layer can be replaced.
    """
    if recipe.low_rank == "none":
        return graph, {}
    layers = wide_layers(graph, recipe.pe, recipe.simd)
    if not layers:
        message = (
            "a convolution of several taps behind the first layer must take fewer cycles as three of low rank, and there"
            " is none that does"
        )
        hint = "leave low_rank out; where there are such convolutions, fewer lanes (pe, simd) allow lower ranks"
        raise UsageError(Problem("no-low-rank", message, hint=hint))
    if recipe.low_rank != "search":
        factors = by_share(layers, recipe.low_rank)
    elif data is None:
        message = "a search for ranks needs labelled frames, and there are none here"
        raise UsageError(Problem("no-labels", message, hint="give low_rank a share, or use the command"))
    else:
        factors = by_training(
            graph, layers, data.x_train, data.y_train, epochs=recipe.rank_epochs, strength=recipe.rank_strength,
            batch=recipe.batch, pe=recipe.pe, simd=recipe.simd, seed=recipe.seed, device=device,
        )  # fmt: skip
    return decomposed(graph, factors), {name: max(f.core.shape[:2]) for name, f in factors.items()}


def pruner_for(
    prepared: Prepared, recipe: Recipe, data: Data | None = None, shapes: Mapping[str, Shape] | None = None
) -> Pruner | None:
    """What prunes; None if nothing does.

    Parameters
    ----------
    data : Data, optional
        For a loss on frames that stay the same (``slr``).
    shapes : mapping of str to Shape, optional
        What `shapes_for` gives, where it is known already.

    Raises
    ------
    UsageError
        No layer is left to prune.
    """
    if not recipe.prunes:
        return None
    sites = prepared.sites[1:] if recipe.skip_first else prepared.sites
    if not sites:
        message = "a layer must be left to prune, and the first is to be skipped"
        raise UsageError(Problem("nothing-to-prune", message, hint="skip_first = false"))
    graph, pe, simd = prepared.graph, recipe.pe, recipe.simd
    shapes = shapes or shapes_for(prepared, recipe)
    layers = [(s, groups_of_layer(shapes[s.name], graph, s.layer, pe=pe, simd=simd)) for s in sites]
    share = recipe.sparsity if recipe.group == "form" else _share(prepared, layers, recipe, shapes)
    goal: Goal = Even(share) if recipe.group == "form" else Ratio(share)
    if recipe.cycles is not None:
        goal = Cycles(recipe.cycles, {s.name: LayerCost.of(graph, s.layer, pe, simd) for s in sites})
    elif recipe.target is not None:
        hardware = hardware_for(prepared, recipe)
        assert hardware is not None
        goal = Fitting(hardware.misfit)
    return pruner(
        recipe.method, layers, goal, strength=recipe.strength, threshold=recipe.threshold, a=_reach(recipe, share),
        attached=recipe.attached, every=max(1, (recipe.epochs - recipe.after) // UPDATES),
        loss=None if data is None else lambda: _loss(prepared, data),
    )  # fmt: skip


def hardware_for(prepared: Prepared, recipe: Recipe) -> Hardware | None:
    """What the mapping makes of the network at the rate that is asked for, if one is.

    Raises
    ------
    UsageError
        There is no such device.
    """
    return None if recipe.fps is None else Hardware.at(prepared, recipe.fps, recipe.clock_mhz, recipe.target)


def shapes_for(prepared: Prepared, recipe: Recipe) -> dict[str, Shape]:
    """What is pruned together in each layer, by its name.

    For ``form`` the mapping chooses hardware for the network as calibration leaves it, the smallest weights of each layer
    zero, as many as are to go; training does not change the choice.

    Raises
    ------
    UsageError
        A layer cannot be as fast as asked.
    """
    group = recipe.group
    if group != "form":
        return {s.name: group for s in prepared.sites}
    hardware = hardware_for(prepared, recipe)
    assert hardware is not None
    forms = hardware.forms({s.name: _thinned(s, recipe.sparsity or USUAL) for s in prepared.sites})
    return {name: "tile" if form == "engine" else "weight" for name, form in forms.items()}


@torch.no_grad()
def _thinned(site: Site, share: float) -> np.ndarray:
    """Integer weights without a share of the smallest."""
    sizes = site.weight.abs().reshape(-1)
    codes = site.codes()[0].reshape(-1).clone()
    codes[sizes.argsort(stable=True)[: int(share * len(sizes))]] = 0
    return np.asarray(codes.reshape(site.weight.shape).cpu().numpy().round().astype(np.int64))


def _reach(recipe: Recipe, share: float) -> float:
    """The parameter of the clipping threshold.

    A threshold of half the mean norm lies below every group of a network that was trained without pruning (tried: the
    smallest of LeNet-5's is 0.55 of the mean), so that nothing is drawn. One by rank reaches the groups that are to go.
    """
    if recipe.a is not None:
        return recipe.a
    return min(1.0, share + 1 / LANES) if share else USUAL


def _share(
    prepared: Prepared, layers: Sequence[tuple[Site, Groups]], recipe: Recipe, shapes: Mapping[str, Shape]
) -> float:
    """Share of the groups of some layers that is the asked share of all layers' groups."""
    if len(layers) == len(prepared.sites) or not recipe.sparsity:
        return recipe.sparsity
    site = prepared.sites[0]
    first = groups_of_layer(shapes[site.name], prepared.graph, site.layer, pe=recipe.pe, simd=recipe.simd).count
    some = sum(groups.count for _, groups in layers)
    share = recipe.sparsity * (some + first) / some
    if share >= 1:
        most = some / (some + first)
        message = f"at most {most:.1%} of the groups can be pruned without the first layer's, not {recipe.sparsity:.1%}"
        raise UsageError(Problem("sparsity-unreachable", message, hint="skip_first = false, or ask for less"))
    return share


@torch.no_grad()
def _loss(prepared: Prepared, data: Data) -> float:
    """Cross entropy on frames that stay the same."""
    network, name = prepared.network, prepared.scores
    device, training = prepared.sites[0].weight.device, network.training
    x = torch.from_numpy(data.x_train[:COMPARED].astype(np.float32)).to(device)
    y = torch.from_numpy(data.y_train[:COMPARED]).to(device)
    loss = F.cross_entropy(network.eval().scores(x, name), y)
    network.train(training)
    return float(loss)
