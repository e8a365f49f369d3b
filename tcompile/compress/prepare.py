"""From a float graph to a network to train: where weights are ternarized, sums normalized, activations quantized.

Every linear layer with constant float weights becomes a *site*: its operation without bias, and a batch normalization
behind it. A bias, a constant added per channel and a BatchNormalization that stand behind the layer in the file go
into that normalization: BN(y + b) with mean m is BN(y) with mean m - b. A layer that has none gets one that changes
nothing: with μ, σ² of its output y + b on calibration data, mean = μ - b, variance = σ², gain sqrt(σ² + ε), bias μ.
In training it then gives ternary sums the mean and spread of the float layer.

A quantizer stands where `tcompile.passes.quantize_activations` puts one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tcompile.compress.activations import BcgdQuantizer, Quantizer
from tcompile.compress.network import Network, linear
from tcompile.errors import ModelError, Problem, printable
from tcompile.ir import real as R
from tcompile.ir.graph import Graph
from tcompile.passes.calibration import calibrate
from tcompile.passes.quantize_activations import choose_step, from_input, quantization_points
from tcompile.passes.relu_before_max_pool import ReluBeforeMaxPool
from tcompile.passes.weights import Layer, float_layers

__all__ = ["Norm", "Prepared", "Site", "Ternarizers", "frames_of", "prepare", "scores_of"]

EPSILON = 1e-5
MOMENTUM = 0.1
BATCH = 64  # calibration frames at a time
HEADS = (R.Softmax, R.LogSoftmax, R.ArgMax, R.TopIndex)
FLAT = (
    R.Sign, R.Floor, R.Ceil, R.ArgMax, R.TopIndex, R.Greater, R.GreaterOrEqual, R.Less, R.LessOrEqual, R.Equal,
    R.And, R.Or, R.Not,
)  # fmt: skip

Ternarizers = Callable[[int, int, Tensor], nn.Module]
"""What quantizes the weights of a layer: (number of the layer, layers in all, its weights)."""


class Norm(nn.Module):
    """Batch normalization of a layer's sums over all axes but the channels'.

    Gain and bias are trained in units of the start's mean gain, so that a rate of learning means the same whatever the
    scale of the network's values.

    Parameters
    ----------
    axis : int
        Of the channels in a value of the graph.
    gain, bias, mean, variance : float64 array (MH,)
        The start.
    """

    gain: nn.Parameter
    bias: nn.Parameter
    mean: Tensor
    variance: Tensor

    def __init__(
        self, axis: int, gain: np.ndarray, bias: np.ndarray, mean: np.ndarray, variance: np.ndarray, epsilon: float
    ) -> None:
        super().__init__()
        self.axis, self.epsilon, self.momentum = axis, epsilon, MOMENTUM
        self.unit = float(np.sqrt(np.mean(np.square(gain)))) or 1.0
        self.gain, self.bias = nn.Parameter(_float(gain / self.unit)), nn.Parameter(_float(bias / self.unit))
        self.register_buffer("mean", _float(mean))
        self.register_buffer("variance", _float(variance))

    def forward(self, y: Tensor) -> Tensor:
        channels = self.axis + 1
        x = y.reshape(prod(y.shape[:channels]), y.shape[channels], -1)
        training = self.training and x.shape[0] * x.shape[2] > 1
        gain, bias = self.gain * self.unit, self.bias * self.unit
        normed = F.batch_norm(x, self.mean, self.variance, gain, bias, training, self.momentum, self.epsilon)
        return normed.reshape(y.shape)

    def folded(self) -> tuple[np.ndarray, np.ndarray]:
        """Factor and offset per channel, float64: gain / sqrt(variance + ε), and bias - mean · factor."""
        gain, bias, mean, variance = (
            t.detach().cpu().double().numpy() for t in (self.gain, self.bias, self.mean, self.variance)
        )
        factor = gain * self.unit / np.sqrt(variance + self.epsilon)
        return factor, bias * self.unit - mean * factor


class Site(nn.Module):
    """A linear layer with quantized weights, and its normalization.

    Attributes
    ----------
    name : str
        ONNX node name.
    node : Conv, Gemm or MatMul
        The operation without bias; it bears the name of the value behind the normalization.
    weight : Parameter (MH, Cin / group, kernel...) or (MH, MW)
        Float shadow weights, output channel first.
    rows : int
        Axis of the output channel in the operand itself.
    group : int
        Groups of channels.
    ternarizer : Module
        What quantizes the weights.
    mask : Tensor like weight
        1 where a weight is kept, 0 where it is zero for good.
    """

    mask: Tensor

    def __init__(self, layer: Layer, ternarizer: nn.Module, norm: Norm) -> None:
        super().__init__()
        self.layer = layer
        self.name, self.node, self.rows, self.group = layer.name, layer.node, layer.rows, layer.group
        self.weight = nn.Parameter(_float(layer.weight))
        self.ternarizer = ternarizer
        self.norm = norm
        self.register_buffer("mask", torch.ones_like(self.weight))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.ternarizer(self.weight * self.mask) * self.mask
        y: Tensor = self.norm(linear(self.node, x, weight.movedim(0, self.rows)))
        return y

    @torch.no_grad()
    def codes(self) -> tuple[Tensor, Tensor]:
        """Integer weights, and their scale: (MH,) or ()."""
        codes, scale = self.ternarizer.codes(self.weight * self.mask)  # type: ignore[operator]
        return codes * self.mask, scale


@dataclass(frozen=True, eq=False)
class Prepared:
    """A network that can be trained and written.

    Parameters
    ----------
    graph : Graph
        The network, every site one node.
    network : Network
        What is trained.
    sites : tuple of Site
        In the order of the graph.
    quantizers : mapping of str to Quantizer
        By the value that they quantize.
    teacher : Network
        The float network.
    scores : str
        Value with a number per class, in front of a softmax or an argmax.
    notes : tuple of str
        What the user should know.
    """

    graph: Graph
    network: Network
    sites: tuple[Site, ...]
    quantizers: Mapping[str, Quantizer]
    teacher: Network
    scores: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class _Spot:
    """A layer, and what stands behind it up to its normalization."""

    layer: Layer
    axis: int
    bias: np.ndarray
    norm: tuple[np.ndarray, ...] = ()  # gain, bias, mean, variance
    epsilon: float = EPSILON


def prepare(
    graph: Graph,
    samples: np.ndarray,
    ternarizers: Ternarizers,
    *,
    act_bits: int = 4,
    input_bits: int = 8,
    quantizer: Literal["lsq", "bcgd"] = "lsq",
    teacher: Graph | None = None,
) -> Prepared:
    """Make a network to train of a float graph.

    Parameters
    ----------
    graph : Graph
        Real level; one input, one output.
    samples : array (N, ...)
        Frames for calibration.
    ternarizers : callable
        What quantizes each layer's weights.
    act_bits, input_bits : int
        Bits of activations, and of the network's input.
    quantizer : {"lsq", "bcgd"}
        Kind of the quantizers of activations; signed activations always get ``lsq``.
    teacher : Graph, optional
        The float network to compare with, with the same scores; None for the graph itself.

    Raises
    ------
    ModelError
        The network cannot be trained; every reason.
    """
    graph = ReluBeforeMaxPool().run(graph).graph
    spots, notes = _spots(graph)
    normal = _with_spots(graph, spots)
    scores = scores_of(normal)
    _refuse_untrainable(normal, spots, scores)
    floats = Network(graph).eval()
    frames = frames_of(graph, samples)
    moments = _moments(floats, frames, [s for s in spots if not s.norm])
    sites = []
    for k, spot in enumerate(spots):
        weight = _float(spot.layer.weight)
        sites.append(Site(spot.layer, ternarizers(k, len(spots), weight), _norm(spot, moments)))
    quantizers = _quantizers(graph, normal, frames, act_bits, input_bits, quantizer)
    network = Network(normal, {s.node.name: s for s in sites}, quantizers)
    compared = floats if teacher is None else Network(teacher).eval()
    return Prepared(normal, network, tuple(sites), quantizers, compared, scores, notes)


def scores_of(graph: Graph) -> str:
    """The value with a number per class: the output, or what a softmax or an argmax at the end is taken of."""
    node = graph[graph.outputs[0]]
    while isinstance(node, HEADS):
        node = graph[node.inputs[0]]
    return node.name


def frames_of(graph: Graph, x: np.ndarray) -> Tensor:
    """Frames (frames, *shape) of the network's input."""
    node = graph.all(R.Input)[0]
    return torch.from_numpy(np.ascontiguousarray(x)).reshape(-1, *node.type.shape)


def _float(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(array, np.float32).copy())


# Sites


def _spots(graph: Graph) -> tuple[list[_Spot], tuple[str, ...]]:
    layers, notes = float_layers(graph)
    spots = [_spot(graph, layer) for layer in layers if _has_constant_bias(graph, layer)]
    notes += tuple(
        f"{printable(layer.name)} left alone: its bias is not a constant"
        for layer in layers
        if not _has_constant_bias(graph, layer)
    )
    if not spots:
        reasons = "; ".join(notes) or "it has no linear layer"
        raise ModelError(
            Problem("nothing-to-train", f"a layer must have constant float weights, and none has: {reasons}")
        )
    return spots, notes


def _has_constant_bias(graph: Graph, layer: Layer) -> bool:
    inputs = layer.node.inputs
    return len(inputs) < 3 or not inputs[2] or isinstance(graph[inputs[2]], R.Const)


def _spot(graph: Graph, layer: Layer) -> _Spot:
    """A layer with all that its normalization takes in."""
    node = layer.node
    count = len(layer.weight)
    axis = 1 if isinstance(node, R.Conv) else len(node.type.shape) - 1
    bias = np.zeros(count)
    if len(node.inputs) > 2 and node.inputs[2]:
        factor = node.beta if isinstance(node, R.Gemm) else 1.0
        bias = bias + factor * _array(graph, node.inputs[2]).reshape(-1)
    weight = layer.weight * (node.alpha if isinstance(node, R.Gemm) else 1.0)
    origin, last, epsilon = node.origin, node.name, EPSILON
    norm: tuple[np.ndarray, ...] = ()
    for user in _chain(graph, node):
        if isinstance(user, R.BatchNormalization) and not norm and axis == 1:
            gain, offset, mean, variance = (_array(graph, i).astype(np.float64) for i in user.inputs[1:])
            norm, epsilon = (gain, offset, mean, variance), user.epsilon
        elif isinstance(user, R.Add) and (added := _per_channel(graph, user, last, axis, count)) is not None:
            bias, norm = (bias + added, norm) if not norm else (bias, (norm[0], norm[1] + added, *norm[2:]))
        else:
            break
        origin, last = origin + user.origin, user.name
    bare = replace(node, name=last, inputs=node.inputs[:2], origin=origin)
    if isinstance(bare, R.Gemm):
        bare = replace(bare, alpha=1.0, beta=1.0)
    return _Spot(Layer(bare, weight, layer.rows, layer.group), axis, bias, norm, epsilon)


def _chain(graph: Graph, node: R.RealNode) -> Iterator[R.RealNode]:
    """What follows a node as long as there is one user only."""
    while node.name not in graph.outputs and len(graph.consumers[node.name]) == 1:
        user = graph.consumers[node.name][0]
        assert isinstance(user, R.RealNode)
        yield user
        node = user


def _array(graph: Graph, value: str) -> np.ndarray:
    node = graph[value]
    assert isinstance(node, R.Const)
    return node.value.array


def _per_channel(graph: Graph, add: R.RealNode, value: str, axis: int, count: int) -> np.ndarray | None:
    """What an addition adds to each channel of a value; None if it is something else."""
    other = graph[add.inputs[1] if add.inputs[0] == value else add.inputs[0]]
    if not isinstance(other, R.Const) or other.name == value:
        return None
    rank = len(add.type.shape)
    shape = (1,) * (rank - len(other.type.shape)) + other.type.shape
    if len(shape) != rank or any(d != 1 for k, d in enumerate(shape) if k != axis):
        return None
    return np.broadcast_to(other.value.array.astype(np.float64).reshape(-1), (count,))


def _with_spots(graph: Graph, spots: list[_Spot]) -> Graph:
    """The graph with every layer and what its normalization takes in as one node."""
    new = {s.layer.node.name: s.layer.node for s in spots}
    return graph.with_nodes([new.get(n.name, n) for n in graph])


def _refuse_untrainable(graph: Graph, spots: list[_Spot], scores: str) -> None:
    """Nothing without a gradient may stand between weights and scores; the graph must have one output."""
    behind = {s.layer.node.name for s in spots}
    for node in graph:
        if any(i in behind for i in node.uses):
            behind.add(node.name)
    needed = {n.name for n in graph.with_nodes(graph.nodes, (scores,))}
    problems = [
        Problem(
            "cannot-train",
            f"{n.op} ({printable(n.name)}) has no gradient, and stands between weights and scores",
            n.origin.names,
            "cut the network before it, or train it elsewhere",
        )
        for n in graph
        if isinstance(n, FLAT) and n.name in behind & needed
    ]
    if len(graph.outputs) != 1:
        problems.append(Problem("outputs", f"a network to train must have one output, not {len(graph.outputs)}"))
    problems += [
        Problem("cannot-train", f"the scores do not depend on layer {printable(s.layer.name)}", (s.layer.name,))
        for s in spots
        if s.layer.node.name not in needed
    ]
    if problems:
        raise ModelError(problems)


# The start from calibration


@torch.no_grad()
def _moments(floats: Network, frames: Tensor, spots: list[_Spot]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Mean and variance of each channel of some values, float64."""
    sums = {s.layer.node.name: np.zeros((2, len(s.layer.weight))) for s in spots}
    counts = dict.fromkeys(sums, 0)
    for batch in torch.split(frames, BATCH):
        values = floats.values(batch, tuple(sums))
        for spot in spots:
            name = spot.layer.node.name
            x = values[name].movedim(spot.axis + 1, -1).reshape(-1, len(spot.layer.weight)).double()
            sums[name] += np.stack([x.sum(0).numpy(), (x * x).sum(0).numpy()])
            counts[name] += len(x)
    return {
        name: (mean, np.maximum(square - mean**2, 0.0))
        for name, (mean, square) in ((n, s / counts[n]) for n, s in sums.items())
    }


def _norm(spot: _Spot, moments: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Norm:
    if spot.norm:
        gain, bias, mean, variance = spot.norm
        return Norm(spot.axis, gain, bias, mean - spot.bias, variance, spot.epsilon)
    mean, variance = moments[spot.layer.node.name]
    return Norm(spot.axis, np.sqrt(variance + EPSILON), mean, mean - spot.bias, variance, EPSILON)


def _quantizers(
    graph: Graph, normal: Graph, frames: Tensor, act_bits: int, input_bits: int, kind: str
) -> dict[str, Quantizer]:
    points = quantization_points(normal)
    if not points:
        return {}
    seen = calibrate(graph, {graph.all(R.Input)[0].origin.tensor: frames.numpy()}, points)
    quantizers: dict[str, Quantizer] = {}
    for value in points:
        fixed = from_input(normal, value)
        observed = seen[value]
        step = choose_step(observed.lo, observed.hi, input_bits if fixed else act_bits, observed.sample)
        chosen = BcgdQuantizer if kind == "bcgd" and not fixed and step.lo == 0 else Quantizer
        quantizers[value] = chosen(step, learned=not fixed)
    return quantizers
