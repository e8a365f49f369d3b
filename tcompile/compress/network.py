"""A real graph as a torch module: one function per operator of the IR, on many frames at once.

A value of shape S is held as a tensor (frames, *S): the graph's own leading axis of 1 stays, so that every operator
means what it says whatever it does with that axis. A constant is one frame, which broadcasts. Codes are held as
floats: integers below 2^24 are exact.

Rounding lets gradients through (straight-through), so that quantizers of the file can be trained through.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tcompile.errors import InternalError, ModelError, Problem, printable
from tcompile.ir import real as R
from tcompile.ir.graph import Graph

__all__ = ["EVALUATE", "Network", "linear", "rounded"]

Arguments = Sequence[Tensor | None]
Evaluate = Callable[[Any, Arguments], Tensor]
N = TypeVar("N", bound=R.RealNode)
CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
MAXIMA: dict[int, Callable[..., Tensor]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
MEANS: dict[int, Callable[..., Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


class _Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def rounded(x: Tensor) -> Tensor:
    """Round half to even; backward the identity."""
    result: Tensor = _Round.apply(x)  # type: ignore[no-untyped-call]
    return result


class Network(nn.Module):
    """A graph of the real level.

    Parameters
    ----------
    graph : Graph
        With one input.
    nodes : mapping of str to Module, optional
        What computes a value from its node's first input in place of the node.
    behind : mapping of str to Module, optional
        What all users of a value see of it; outputs of the graph stay as they are.

    Raises
    ------
    ModelError
        Nodes that have no counterpart here, or not one input; all of them.
    """

    def __init__(
        self, graph: Graph, nodes: Mapping[str, nn.Module] | None = None, behind: Mapping[str, nn.Module] | None = None
    ) -> None:
        super().__init__()
        _refuse(graph)
        self.graph = graph
        self.nodes = nn.ModuleDict({f"at_{value}": module for value, module in (nodes or {}).items()})
        self.behind = nn.ModuleDict({f"at_{value}": module for value, module in (behind or {}).items()})
        self.input = graph.all(R.Input)[0]
        self._constants = []
        for node in graph.all(R.Const):
            self.register_buffer(f"const_{node.name}", _tensor(node.value.array), persistent=False)
            self._constants.append(node.name)
        self._last = _last_uses(graph)

    def forward(self, x: Tensor) -> Tensor:
        """The first output (frames, *shape) for frames (frames, *shape of the input)."""
        return self.values(x, self.graph.outputs[:1])[self.graph.outputs[0]]

    def scores(self, x: Tensor, name: str) -> Tensor:
        """A value with a number per class, as (frames, classes)."""
        return self.values(x, (name,))[name].flatten(1)

    def values(self, x: Tensor, wanted: Sequence[str]) -> dict[str, Tensor]:
        """Some values of the graph for frames of its input."""
        live = {name: getattr(self, f"const_{name}") for name in self._constants}
        live[self.input.name] = _seen(x)
        found = {}
        for k, node in enumerate(self.graph):
            if not isinstance(node, R.Input | R.Const):
                live[node.name] = self._compute(node, [live[i] if i else None for i in node.inputs])
            if node.name in wanted:
                found[node.name] = live[node.name]
            if f"at_{node.name}" in self.behind:
                live[node.name] = self.behind[f"at_{node.name}"](live[node.name])
            for value in self._last[k]:
                del live[value]
        return found

    def _compute(self, node: Any, arguments: Arguments) -> Tensor:
        if f"at_{node.name}" in self.nodes:
            y: Tensor = self.nodes[f"at_{node.name}"](arguments[0])
        else:
            y = EVALUATE[type(node)](node, arguments)
        if tuple(y.shape[1:]) != node.type.shape:
            message = f"{node.op} {printable(node.name)} must have shape {node.type.shape}, not {tuple(y.shape[1:])}"
            raise InternalError(Problem("torch-shape", message, node.origin.names))
        return y


def _refuse(graph: Graph) -> None:
    problems = [
        Problem("cannot-train", f"{n.op} ({printable(n.name)}) has no torch form here: {reason}", n.origin.names)
        for n in graph
        if isinstance(n, R.RealNode) and (reason := _reason(graph, n))
    ]
    inputs = len(graph.all(R.Input))
    if inputs != 1:
        problems.append(Problem("inputs", f"a network to train must have one input, not {inputs}"))
    if problems:
        raise ModelError(problems)


def _reason(graph: Graph, node: R.RealNode) -> str:
    """Why a node cannot be evaluated; empty if it can."""
    if not isinstance(node, R.Input | R.Const) and type(node) not in EVALUATE:
        return "there is no such operator in torch"
    if isinstance(node, R.Conv | R.MaxPool | R.AveragePool) and len(node.kernel_shape) not in CONVOLUTIONS:
        return f"windows must have 1 to 3 axes, not {len(node.kernel_shape)}"
    if isinstance(node, R.AveragePool) and set(node.dilations) - {1}:
        return "an average over a window must not be dilated"
    if isinstance(node, R.Linear) and len(graph[node.inputs[0]].type.shape) < 2:
        return "activations must have at least two axes"
    return ""


def _last_uses(graph: Graph) -> list[list[str]]:
    """For each node the values that nothing behind it uses."""
    last = {n.name: k for k, n in enumerate(graph)}
    for k, node in enumerate(graph):
        last.update(dict.fromkeys(node.uses, k))
    ends: list[list[str]] = [[] for _ in graph.nodes]
    for value, k in last.items():
        ends[k].append(value)
    return ends


def _tensor(array: np.ndarray) -> Tensor:
    """A constant as one frame."""
    return _seen(torch.from_numpy(np.array(array)))[None]


def _seen(x: Tensor) -> Tensor:
    """What is computed with: floats, also for codes; truth values and int64 as they are."""
    return x if x.dtype in (torch.bool, torch.int64) else x.to(torch.float32)


# Elementwise


def _aligned(node: R.RealNode, arguments: Arguments) -> list[Tensor]:
    """Arguments of the result's rank, so that they broadcast frame by frame."""
    rank = len(node.type.shape)
    given = [a for a in arguments if a is not None]
    return [a.reshape(a.shape[0], *(1,) * (rank + 1 - a.dim()), *a.shape[1:]) for a in given]


def _elementwise(function: Callable[..., Tensor]) -> Evaluate:
    return lambda node, arguments: function(*_aligned(node, arguments))


def _folded(function: Callable[[Tensor, Tensor], Tensor]) -> Evaluate:
    """An operator of two inputs over any number of them."""

    def evaluate(node: R.RealNode, arguments: Arguments) -> Tensor:
        first, *others = _aligned(node, arguments)
        for other in others:
            first = function(first, other)
        return first

    return evaluate


def _clip(node: R.RealNode, arguments: Arguments) -> Tensor:
    x, low, high = (*arguments, None, None)[:3]
    assert x is not None
    return torch.clamp(x, None if low is None else low.reshape(()), None if high is None else high.reshape(()))


def _batch_normalization(node: R.BatchNormalization, arguments: Arguments) -> Tensor:
    """x·g + (bias - mean·g), as onnxruntime computes it."""
    x = _given(arguments[0])
    shape = (1, 1, -1, *(1,) * (x.dim() - 3))
    scale, bias, mean, variance = (_given(a).reshape(shape) for a in arguments[1:])
    gain = scale * (1 / torch.sqrt(variance + node.epsilon))
    return x * gain + (bias - mean * gain)


def _channelled(node: R.QuantizeLinear | R.DequantizeLinear, x: Tensor, parameter: Tensor) -> Tensor:
    """A scale or zero point, shaped to broadcast."""
    if parameter.numel() == 1:
        return parameter.reshape((1,) * x.dim())
    axis = node.axis % (x.dim() - 1) + 1
    return parameter.reshape(tuple(-1 if k == axis else 1 for k in range(x.dim())))


def _quantize(node: R.QuantizeLinear, arguments: Arguments) -> Tensor:
    x, scale = _given(arguments[0]), _given(arguments[1])
    codes = rounded(x / _channelled(node, x, scale))
    if len(arguments) > 2 and arguments[2] is not None:
        codes = codes + _channelled(node, x, arguments[2])
    bits, signed = int(node.type.dtype.lstrip("uint")), not node.type.dtype.startswith("u")
    low = -(1 << bits - 1) if signed else 0
    return codes.clamp(low, low + (1 << bits) - 1)


def _dequantize(node: R.DequantizeLinear, arguments: Arguments) -> Tensor:
    x = _given(arguments[0])
    if len(arguments) > 2 and arguments[2] is not None:
        x = x - _channelled(node, x, arguments[2])
    return x * _channelled(node, x, _given(arguments[1]))


def _cast(node: R.Cast, arguments: Arguments) -> Tensor:
    x = _given(arguments[0])
    if node.type.dtype == "bool":
        return x != 0
    if node.type.dtype == "int64":
        return x.trunc().to(torch.int64)
    x = _seen(x) if x.dtype == torch.float32 else x.to(torch.float32)
    return x.trunc() if node.type.is_integer else x


def _frames(y: Tensor, like: Tensor) -> Tensor:
    """A result over all frames with the axes in front that `like` has."""
    return y.reshape(*like.shape[:2], *y.shape[1:])


def _given(x: Tensor | None) -> Tensor:
    assert x is not None
    return x


# Linear


def linear(node: R.RealNode, x: Tensor, weight: Tensor) -> Tensor:
    """Products of activations (frames, *shape) with weights in the operand's own layout, without bias."""
    if isinstance(node, R.Conv):
        rank = len(node.kernel_shape)
        before, after = node.pads[:rank], node.pads[rank:]
        padding: tuple[int, ...] = before
        if before != after:
            x, padding = F.pad(x, _torch_pads(before, after)), (0,) * rank
        y = CONVOLUTIONS[rank](x.flatten(0, 1), weight, None, node.strides, padding, node.dilations, node.group)
        return _frames(y, x)
    if isinstance(node, R.Gemm):
        x = x.mT if node.transA else x
        weight = weight.mT if node.transB else weight
    return x @ weight


def _linear(node: R.Conv | R.Gemm | R.MatMul, arguments: Arguments) -> Tensor:
    x, weight = _given(arguments[0]), _given(arguments[1])
    if isinstance(node, R.Conv):
        y = linear(node, x, weight.squeeze(0))
    else:
        rank = max(x.dim(), weight.dim())
        weight = weight.reshape(weight.shape[0], *(1,) * (rank - weight.dim()), *weight.shape[1:])
        y = linear(node, x, weight)
    bias = arguments[2] if len(arguments) > 2 else None
    if isinstance(node, R.Gemm):
        y = y * node.alpha if node.alpha != 1 else y
        bias = bias * node.beta if bias is not None and node.beta != 1 else bias
        return y if bias is None else y + bias.reshape(bias.shape[0], *(1,) * (y.dim() - bias.dim()), *bias.shape[1:])
    return y if bias is None else y + bias.reshape(1, 1, -1, *(1,) * (y.dim() - 3))


# Windows and reductions


def _torch_pads(before: Sequence[int], after: Sequence[int]) -> list[int]:
    """Last axis first, begin and end in turn."""
    return [p for pair in reversed(list(zip(before, after, strict=True))) for p in pair]


def _ends(node: R.MaxPool | R.AveragePool, size: Sequence[int]) -> tuple[list[int], list[int]]:
    """Padding in front, and behind as much as the windows of the result reach (rounding up reaches further)."""
    rank = len(node.kernel_shape)
    before = list(node.pads[:rank])
    after = [
        max(node.pads[rank + k], (node.type.shape[2 + k] - 1) * s + (w - 1) * d + 1 - size[k] - before[k])
        for k, (s, w, d) in enumerate(zip(node.strides, node.kernel_shape, node.dilations, strict=True))
    ]
    return before, after


def _max_pool(node: R.MaxPool, arguments: Arguments) -> Tensor:
    x = _given(arguments[0])
    before, after = _ends(node, x.shape[3:])
    if any(before) or any(after):
        x = F.pad(x, _torch_pads(before, after), value=-torch.inf)
    pool = MAXIMA[len(node.kernel_shape)]
    y = pool(x.flatten(0, 1), node.kernel_shape, node.strides, 0, node.dilations)
    return _frames(y, x)


def _average_pool(node: R.AveragePool, arguments: Arguments) -> Tensor:
    x = _given(arguments[0])
    rank = len(node.kernel_shape)
    before, after = _ends(node, x.shape[3:])
    pool = MEANS[rank]
    y = pool(F.pad(x, _torch_pads(before, after)).flatten(0, 1), node.kernel_shape, node.strides)
    counted = torch.ones_like(x[:1, :1, :1])
    if node.count_include_pad:
        counted = F.pad(counted, _torch_pads(before, node.pads[rank:]), value=1.0)
        after = [a - p for a, p in zip(after, node.pads[rank:], strict=True)]
        before = [0] * rank
    share = pool(F.pad(counted, _torch_pads(before, after)).flatten(0, 1), node.kernel_shape, node.strides)
    return _frames(y if bool((share == 1).all()) else y / share, x)


def _over_positions(reduce: Callable[..., Tensor]) -> Evaluate:
    def evaluate(node: R.RealNode, arguments: Arguments) -> Tensor:
        x = _given(arguments[0])
        return reduce(x, dim=tuple(range(3, x.dim())), keepdim=True)

    return evaluate


def _over_axes(reduce: Callable[..., Tensor]) -> Evaluate:
    def evaluate(node: R.ReduceMean | R.ReduceSum, arguments: Arguments) -> Tensor:
        x = _given(arguments[0])
        return reduce(x, dim=tuple(a % (x.dim() - 1) + 1 for a in node.axes), keepdim=bool(node.keepdims))

    return evaluate


def _argmax(node: R.ArgMax, arguments: Arguments) -> Tensor:
    x = _given(arguments[0])
    axis = node.axis % (x.dim() - 1) + 1
    if node.select_last_index:
        return x.shape[axis] - 1 - x.flip(axis).argmax(axis, keepdim=bool(node.keepdims))
    return x.argmax(axis, keepdim=bool(node.keepdims))


def _top_index(node: R.TopIndex, arguments: Arguments) -> Tensor:
    x = _given(arguments[0])
    axis = node.axis % (x.dim() - 1) + 1
    return (x if node.largest else -x).argmax(axis, keepdim=True)


# Layout


def _concat(node: R.Concat, arguments: Arguments) -> Tensor:
    parts = [_given(a) for a in arguments]
    frames = max(p.shape[0] for p in parts)
    axis = node.axis % len(node.type.shape) + 1
    return torch.cat([p.expand(frames, *p.shape[1:]) for p in parts], axis)


def _slice(node: R.Slice, arguments: Arguments) -> Tensor:
    x = _given(arguments[0])
    for axis, (start, step, count) in enumerate(zip(node.starts, node.steps, node.type.shape, strict=True), 1):
        if step > 0:
            x = x.narrow(axis, start, (count - 1) * step + 1)
        else:
            x = x.narrow(axis, start + (count - 1) * step, (1 - count) * step + 1).flip(axis)
        if abs(step) > 1:
            x = x[(slice(None),) * axis + (slice(None, None, abs(step)),)]
    return x


def _pad(node: R.Pad, arguments: Arguments) -> Tensor:
    rank = len(node.type.shape)
    return F.pad(_given(arguments[0]), _torch_pads(node.pads[:rank], node.pads[rank:]), value=node.value)


def _axis(function: Callable[..., Tensor]) -> Evaluate:
    """Softmax and the like: an axis of the value."""

    def evaluate(node: R.Softmax | R.LogSoftmax, arguments: Arguments) -> Tensor:
        x = _given(arguments[0])
        return function(x, node.axis % (x.dim() - 1) + 1)

    return evaluate


def _with(function: Callable[[Any, Tensor], Tensor]) -> Evaluate:
    """An elementwise operator with attributes."""
    return lambda node, arguments: function(node, _given(arguments[0]))


EVALUATE: dict[type[R.RealNode], Evaluate] = {
    R.Conv: _linear, R.Gemm: _linear, R.MatMul: _linear,
    R.MaxPool: _max_pool, R.AveragePool: _average_pool,
    R.GlobalAveragePool: _over_positions(torch.mean), R.GlobalMaxPool: _over_positions(torch.amax),
    R.ReduceMean: _over_axes(torch.mean), R.ReduceSum: _over_axes(torch.sum),
    R.ArgMax: _argmax, R.TopIndex: _top_index,
    R.Softmax: _axis(torch.softmax), R.LogSoftmax: _axis(torch.log_softmax),
    R.Concat: _concat, R.Slice: _slice, R.Pad: _pad,
    R.Reshape: lambda node, arguments: _given(arguments[0]).reshape(-1, *node.type.shape),
    R.Transpose: lambda node, arguments: _given(arguments[0]).permute(0, *(p + 1 for p in node.perm)),
    R.BatchNormalization: _batch_normalization, R.QuantizeLinear: _quantize, R.DequantizeLinear: _dequantize,
    R.Cast: _cast, R.Clip: _clip,
    R.LeakyRelu: _with(lambda node, x: F.leaky_relu(x, node.alpha)),
    R.Elu: _with(lambda node, x: F.elu(x, node.alpha)), R.Celu: _with(lambda node, x: F.celu(x, node.alpha)),
    R.Swish: _with(lambda node, x: x * torch.sigmoid(node.alpha * x)),
    R.Selu: _with(lambda node, x: node.gamma * F.elu(x, node.alpha)),
    R.ThresholdedRelu: _with(lambda node, x: torch.where(x > node.alpha, x, 0.0)),
    R.HardSigmoid: _with(lambda node, x: torch.clamp(node.alpha * x + node.beta, 0, 1)),
    R.Gelu: _with(lambda node, x: F.gelu(x, approximate=node.approximate)),
    R.Relu: _elementwise(torch.relu), R.Neg: _elementwise(torch.neg), R.Abs: _elementwise(torch.abs),
    R.Sign: _elementwise(torch.sign), R.Floor: _elementwise(torch.floor), R.Ceil: _elementwise(torch.ceil),
    R.Round: _elementwise(rounded), R.Sqrt: _elementwise(torch.sqrt), R.Reciprocal: _elementwise(torch.reciprocal),
    R.Exp: _elementwise(torch.exp), R.Log: _elementwise(torch.log), R.Erf: _elementwise(torch.erf),
    R.Sin: _elementwise(torch.sin), R.Cos: _elementwise(torch.cos), R.Atan: _elementwise(torch.atan),
    R.Sigmoid: _elementwise(torch.sigmoid), R.Tanh: _elementwise(torch.tanh),
    R.Softplus: _elementwise(F.softplus), R.Softsign: _elementwise(F.softsign),
    R.HardSwish: _elementwise(F.hardswish), R.Mish: _elementwise(F.mish), R.Not: _elementwise(torch.logical_not),
    R.Add: _elementwise(torch.add), R.Sub: _elementwise(torch.sub), R.Mul: _elementwise(torch.mul),
    R.Div: _elementwise(torch.div), R.Pow: _elementwise(torch.pow),
    R.Max: _folded(torch.maximum), R.Min: _folded(torch.minimum),
    R.PRelu: _elementwise(lambda x, slope: torch.where(x >= 0, x, slope * x)),
    R.Greater: _elementwise(torch.gt), R.GreaterOrEqual: _elementwise(torch.ge), R.Less: _elementwise(torch.lt),
    R.LessOrEqual: _elementwise(torch.le), R.Equal: _elementwise(torch.eq),
    R.And: _elementwise(torch.logical_and), R.Or: _elementwise(torch.logical_or), R.Where: _elementwise(torch.where),
}  # fmt: skip
