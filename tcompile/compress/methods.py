"""From a recipe to its parts: what ternarizes each layer, and what prunes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tcompile.compress.data import Data
from tcompile.compress.goals import Cycles, Goal, LayerCost, Ratio
from tcompile.compress.groups import Groups, groups_of_layer
from tcompile.compress.penalties import LANES
from tcompile.compress.prepare import Prepared, Site, Ternarizers, prepare
from tcompile.compress.pruners import Pruner, pruner
from tcompile.compress.recipe import Recipe
from tcompile.compress.ternarizers import ternarizer
from tcompile.errors import Problem, UsageError
from tcompile.ir.graph import Graph

__all__ = ["CALIBRATION", "prepared_for", "pruner_for", "ternarizers_for"]

CALIBRATION = 256  # training frames
COMPARED = 512  # training frames that slr's loss is taken on
UPDATES = 10  # of admm, in all
USUAL = 0.5  # parameter of a clipping threshold where no share of groups is asked for


def ternarizers_for(recipe: Recipe) -> Ternarizers:
    """What quantizes each layer's weights."""

    def make(index: int, count: int, weight: Tensor) -> nn.Module:
        return ternarizer(recipe.ternary, weight, terms=recipe.terms_of(index, count), per=recipe.per)

    return make


def prepared_for(graph: Graph, frames: np.ndarray, recipe: Recipe) -> Prepared:
    """A network to train, calibrated on the first of some frames (N, ...)."""
    samples = np.asarray(frames[:CALIBRATION], np.float32)
    return prepare(
        graph, samples, ternarizers_for(recipe),
        act_bits=recipe.act_bits, input_bits=recipe.input_bits, quantizer=recipe.quantizer,
    )  # fmt: skip


def pruner_for(prepared: Prepared, recipe: Recipe, data: Data | None = None) -> Pruner | None:
    """What prunes; None if nothing does.

    Parameters
    ----------
    data : Data, optional
        For a loss on frames that stay the same (``slr``).

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
    layers = [(s, groups_of_layer(recipe.group, graph, s.layer, pe=pe, simd=simd)) for s in sites]
    share = _share(prepared, layers, recipe)
    goal: Goal = Ratio(share)
    if recipe.cycles is not None:
        goal = Cycles(recipe.cycles, {s.name: LayerCost.of(graph, s.layer, pe, simd) for s in sites})
    return pruner(
        recipe.method, layers, goal, strength=recipe.strength, threshold=recipe.threshold, a=_reach(recipe, share),
        attached=recipe.attached, every=max(1, (recipe.epochs - recipe.after) // UPDATES),
        loss=None if data is None else lambda: _loss(prepared, data),
    )  # fmt: skip


def _reach(recipe: Recipe, share: float) -> float:
    """The parameter of the clipping threshold.

    A threshold of half the mean norm lies below every group of a network that was trained without pruning (tried: the
    smallest of LeNet-5's is 0.55 of the mean), so that nothing is drawn. One by rank reaches the groups that are to go.
    """
    if recipe.a is not None:
        return recipe.a
    return min(1.0, share + 1 / LANES) if share else USUAL


def _share(prepared: Prepared, layers: Sequence[tuple[Site, Groups]], recipe: Recipe) -> float:
    """Share of the groups of some layers that is the asked share of all layers' groups."""
    if len(layers) == len(prepared.sites) or recipe.cycles is not None:
        return recipe.sparsity
    first = groups_of_layer(recipe.group, prepared.graph, prepared.sites[0].layer, pe=recipe.pe, simd=recipe.simd).count
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
    loss = F.cross_entropy(network.eval().values(x, (name,))[name].flatten(1), y)
    network.train(training)
    return float(loss)
