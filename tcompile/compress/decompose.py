"""Low rank as a step of compression: convolutions of a float graph are replaced by three smaller ones before training.

A convolution is considered if it has one group, a kernel of more than one tap, and a rank at which its three
convolutions take fewer cycles in all (`tcompile.compress.low_rank`); the network's first layer, which is small, is not.
The last of the three bears the bias and the value's name, so that what stands behind it does not change. Ranks are
asked for as a share, or searched with labelled frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tcompile.compress.low_rank import Conv, Factors, RankChoice, candidates, search, tucker2
from tcompile.compress.network import Network
from tcompile.compress.prepare import frames_of, scores_of
from tcompile.ir import real as R
from tcompile.ir.graph import Graph, Origin, TensorType
from tcompile.passes.weights import Layer, Names, constant, float_layers

__all__ = ["Wide", "by_share", "by_training", "decomposed", "wide_layers"]


@dataclass(frozen=True, eq=False)
class Wide:
    """A convolution that may be replaced.

    Parameters
    ----------
    layer : Layer
    conv : Conv
        How it moves over its image.
    ranks : tuple of int
        At which the three take fewer cycles than it does.
    """

    layer: Layer
    conv: Conv
    ranks: tuple[int, ...]

    @property
    def weight(self) -> Tensor:
        return torch.from_numpy(self.layer.weight.astype(np.float32))


def wide_layers(graph: Graph, pe: int, simd: int) -> list[Wide]:
    """The convolutions of a graph that may be replaced, for engines of PE x SIMD lanes."""
    found = []
    for layer in float_layers(graph)[0][1:]:
        node = layer.node
        if not isinstance(node, R.Conv) or node.group != 1 or prod(node.kernel_shape) == 1:
            continue
        kind = graph[node.inputs[0]].type
        assert isinstance(kind, TensorType)
        conv = Conv(kind.shape[2:], node.strides, node.pads, node.dilations)
        shape = layer.weight.shape
        full = conv.cycles(shape, pe, simd)
        ranks = tuple(
            r for r in candidates(shape[0], shape[1], pe, simd) if sum(conv.cycles_at(shape, r, pe, simd)) < full
        )
        if ranks:
            found.append(Wide(layer, conv, ranks))
    return found


def by_share(layers: list[Wide], share: float) -> dict[str, Factors]:
    """Each layer at the rank that is closest to a share of its channels."""
    found = {}
    for wide in layers:
        full = max(wide.layer.weight.shape[:2])
        found[wide.layer.name] = tucker2(wide.weight, min(wide.ranks, key=lambda r: (abs(r - share * full), r)))
    return found


class _Mixed(nn.Module):
    """A `RankChoice` in place of a convolution of a graph: frames (frames, 1, I, image...), and its bias."""

    bias: Tensor

    def __init__(self, choice: RankChoice, bias: Tensor) -> None:
        super().__init__()
        self.choice = choice
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.choice(x.flatten(0, 1))
        return (y + self.bias.reshape(-1, *(1,) * (y.dim() - 2))).reshape(*x.shape[:2], *y.shape[1:])


def by_training(
    graph: Graph,
    layers: list[Wide],
    x: np.ndarray,
    y: np.ndarray,
    *,
    epochs: int,
    strength: float,
    batch: int,
    pe: int,
    simd: int,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> dict[str, Factors]:
    """Ranks that a search chooses; layers that it leaves as they are, are not in the result.

    Parameters
    ----------
    x, y : array (N, ...), int64 array (N,)
        Frames and their classes: one half trains weights, the other chooses.
    epochs : int
        Passes over both halves.
    strength : float
        λ of `tcompile.compress.low_rank.search`.
    batch : int
        Frames of a step.
    """
    torch.manual_seed(seed)
    choices = [RankChoice(w.weight, w.conv, w.ranks, pe, simd) for w in layers]
    mixed = {w.layer.node.name: _Mixed(c, _bias(graph, w)) for w, c in zip(layers, choices, strict=True)}
    network, name = Network(graph, mixed).to(device).eval(), scores_of(graph)

    def loss(index: Tensor) -> Tensor:
        frames = frames_of(graph, x[index.numpy()]).float().to(device)
        return F.cross_entropy(network.scores(frames, name), torch.from_numpy(y)[index].to(device))

    search(choices, loss, _halves(len(y), epochs, batch, seed), strength=strength)
    found = {w.layer.name: c.chosen() for w, c in zip(layers, choices, strict=True)}
    return {
        k: Factors(*(t.cpu() for t in (v.first, v.core, v.last))) for k, v in found.items() if isinstance(v, Factors)
    }


def _bias(graph: Graph, wide: Wide) -> Tensor:
    inputs = wide.layer.node.inputs
    if len(inputs) < 3 or not inputs[2]:
        return torch.zeros(len(wide.layer.weight))
    node = graph[inputs[2]]
    assert isinstance(node, R.Const)
    return torch.from_numpy(node.value.array.astype(np.float32))


def _halves(count: int, epochs: int, batch: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of one half of the frames, each with one of the other; halves stay the same."""
    random = torch.Generator().manual_seed(seed)
    order = torch.randperm(count, generator=random)
    halves = order[: count // 2], order[count // 2 :]
    for _ in range(epochs):
        yield from zip(
            *(torch.split(half[torch.randperm(len(half), generator=random)], batch) for half in halves), strict=False
        )


def decomposed(graph: Graph, factors: Mapping[str, Factors]) -> Graph:
    """The graph with three convolutions in place of some, by the name of the layer."""
    names = Names(graph)
    chosen = {
        layer.node.name: (layer.node, factors[layer.name]) for layer in float_layers(graph)[0] if layer.name in factors
    }
    new = {name: _three(graph, node, parts, names) for name, (node, parts) in chosen.items()}
    return graph.with_nodes([n for node in graph for n in new.get(node.name, (node,))])


def _three(graph: Graph, node: R.RealNode, factors: Factors, names: Names) -> tuple[R.RealNode, ...]:
    """The convolutions and their weights; the kernel alone has strides and padding."""
    assert isinstance(node, R.Conv)
    x, _, *bias = node.inputs
    kind = graph[x].type
    assert isinstance(kind, TensorType)
    weights = [
        constant(names(node.name, f"{part}_weight"), w.detach().cpu().numpy(), "float32", node.origin)
        for part, w in (("first", factors.first), ("core", factors.core), ("last", factors.last))
    ]
    first = replace(
        _point(node), name=names(node.name, "first"), inputs=(x, weights[0].name),
        type=_of_channels(kind, len(factors.first)), origin=_part(node.origin, "first"),
    )  # fmt: skip
    core = replace(
        node, name=names(node.name, "core"), inputs=(first.name, weights[1].name),
        type=_of_channels(node.type, len(factors.core)), origin=_part(node.origin, "core"),
    )  # fmt: skip
    last = replace(_point(node), inputs=(core.name, weights[2].name, *bias))
    return (*weights, first, core, last)


def _point(node: R.Conv) -> R.Conv:
    """The same with a kernel of one tap."""
    n = len(node.kernel_shape)
    return replace(node, kernel_shape=(1,) * n, strides=(1,) * n, pads=(0,) * (2 * n), dilations=(1,) * n)


def _of_channels(kind: TensorType, count: int) -> TensorType:
    return replace(kind, shape=(kind.shape[0], count, *kind.shape[2:]))


def _part(origin: Origin, part: str) -> Origin:
    """A node that the file does not have, named after the one that it stands for."""
    return Origin(tuple((f"{name}/{part}", kind) for name, kind in origin.nodes[:1]))
