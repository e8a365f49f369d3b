"""Rewrites QONNX quantizers as standard operators.

Every quantizer becomes a tensor of integer codes followed by ``DequantizeLinear``:

* ``Quant`` to nearest even without zero point, up to 8 bits:  ``QuantizeLinear -> Clip -> DequantizeLinear``;
* ``Quant`` in any other way:  ``Div -> Add zero point -> rounding -> Clip -> Cast -> DequantizeLinear``. A zero point
  cannot go through ``QuantizeLinear``, which adds it after rounding: with an odd one, ties would go the other way;
* ``BipolarQuant``:  ``GreaterOrEqual -> Where`` to codes -1 and +1 ``-> DequantizeLinear``;
* ``Trunc``:  ``Div -> Add zero point -> Round -> Mul 2^-k -> [Clip ->] rounding -> Cast -> DequantizeLinear``;
* ``QuantAvgPool2d``:  ``AveragePool -> Mul -> Round -> Mul 2^-k -> Floor``;
* ``MultiThreshold``:  ``GreaterOrEqual`` against all thresholds ``-> Cast -> ReduceSum -> Cast -> DequantizeLinear``.

Semantics follow the executor of the ``qonnx`` package (``qonnx/custom_op/general``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto

from tcompile.errors import ModelError, Problem, printable
from tcompile.frontend.chain import Chain, Surroundings, refuse
from tcompile.frontend.normalize import Evaluate, normalize
from tcompile.frontend.protos import QONNX_DOMAINS, attributes, raise_all, to_array

__all__ = ["rewrite"]

_MAX_ACTIVATION_BITS = 16
_MAX_WEIGHT_BITS = 8
_MAX_BIAS_BITS = 32
_LARGEST_FLOAT_INT32 = 2**31 - 128  # the largest float32 below 2^31
_LAYOUT = {2: "NC", 3: "NWC", 4: "NCHW"}  # the executor's default by rank
_INTEGERS = {
    int(code): np.dtype(name)
    for code, name in (
        (TensorProto.INT8, "int8"),
        (TensorProto.UINT8, "uint8"),
        (TensorProto.INT16, "int16"),
        (TensorProto.UINT16, "uint16"),
        (TensorProto.INT32, "int32"),
    )
}


def rewrite(model: ModelProto, evaluate: Evaluate | None = None) -> ModelProto:
    """Replace the QONNX quantizers of a model.

    Parameters
    ----------
    model : ModelProto
        QONNX and standard operators, static input shapes, unique node names. Unchanged.
    evaluate : callable, optional
        Evaluates constants, see `tcompile.frontend.normalize`.

    Returns
    -------
    ModelProto
        Standard operators only, in the form of `tcompile.frontend.normalize` except that the quantizers of constants
        are not evaluated. Quantized values and other nodes keep their names.

    Raises
    ------
    ModelError
        Every quantizer that has no exact standard form.
    """
    normal = normalize(model, evaluate)
    graph, problems = Surroundings.of(normal), list[Problem]()
    nodes: list[NodeProto] = []
    for node in normal.graph.node:
        try:
            nodes.extend(_RULES[node.op_type](node, graph) if node.domain in QONNX_DOMAINS else [node])
        except ModelError as error:
            problems.extend(error.problems)
    raise_all(problems)
    result = ModelProto()
    result.CopyFrom(normal)
    for name in ("node", "value_info"):
        result.graph.ClearField(name)
    result.graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input} | {v.name for v in normal.graph.output}
    constants = [t for t in (*normal.graph.initializer, *graph.added) if t.name in used]
    result.graph.ClearField("initializer")
    result.graph.initializer.extend(constants)
    kept = [entry for entry in result.opset_import if entry.domain not in QONNX_DOMAINS]
    result.ClearField("opset_import")
    result.opset_import.extend(kept)
    return result


def _parameter(node: NodeProto, index: int, what: str, graph: Surroundings) -> np.ndarray:
    name = node.input[index] if index < len(node.input) else ""
    if name not in graph.constants:
        raise refuse(node, f"its {what} must be a constant, but {printable(name)} is computed")
    value = to_array(graph.constants[name])
    if not np.isfinite(value).all():
        raise refuse(node, f"its {what} must be finite numbers, not {value.reshape(-1)[:8].tolist()}")
    return value


@dataclass(frozen=True)
class _Scaling:
    """Scale and zero point, each a scalar or one value per channel along ``axis``."""

    scale: np.ndarray
    zero: np.ndarray
    axis: int | None
    rank: int

    def spread(self, values: np.ndarray) -> np.ndarray:
        """Reshape values so that they broadcast against the quantized tensor."""
        if self.axis is None or values.ndim == 0:
            return values
        return values.reshape([-1 if i == self.axis else 1 for i in range(self.rank)])


def _scaling(node: NodeProto, graph: Surroundings, zero: np.ndarray) -> _Scaling:
    scale = _parameter(node, 1, "scale", graph)
    if not (scale > 0).all():
        raise refuse(node, f"its scale must be positive, but the smallest is {scale.min()}")
    if not np.array_equal(zero, np.round(zero)):
        raise refuse(node, f"its zero point must be an integer, not {zero.reshape(-1)[0]}")
    shape = graph.shapes[node.input[0]]
    axis = _channel_axis(node, [scale.shape, zero.shape], shape)
    if axis is None:
        return _Scaling(scale.reshape(()).astype(np.float32), zero.reshape(()), None, len(shape))
    scales = np.broadcast_to(scale.reshape(-1), (shape[axis],)).astype(np.float32)
    zeros = zero.reshape(-1) if zero.size > 1 else zero.reshape(())
    return _Scaling(np.ascontiguousarray(scales), zeros, axis, len(shape))


def _channel_axis(node: NodeProto, parameters: list[tuple[int, ...]], shape: tuple[int, ...]) -> int | None:
    axes = set[int]()
    for parameter in parameters:
        extra = len(parameter) - len(shape)
        if extra > 0 and any(dim != 1 for dim in parameter[:extra]):
            raise refuse(node, f"a parameter of shape {parameter} does not fit a tensor of shape {shape}")
        for i, dim in enumerate(parameter):
            if dim != 1:
                axes.add(i - extra)
                if shape[i - extra] != dim:
                    raise refuse(node, f"a parameter of shape {parameter} does not fit a tensor of shape {shape}")
    if len(axes) > 1:
        raise refuse(node, f"scale and zero point may vary along one axis only, not along {sorted(axes)}")
    return axes.pop() if axes else None


def _quant(node: NodeProto, graph: Surroundings) -> list[NodeProto]:
    values = attributes(node)
    signed, mode = bool(values.get("signed", 1)), str(values.get("rounding_mode", "ROUND")).upper()
    bits = _bit_width(node, graph)
    scaling = _scaling(node, graph, _parameter(node, 2, "zero point", graph))
    if mode not in _ROUNDINGS:
        raise refuse(node, f"its rounding mode must be one of {', '.join(_ROUNDINGS)}, not {printable(mode)}")
    chain = Chain(node, graph, node.input[0])
    if bits == 1 and signed:
        _divide(chain, scaling)
        return _bipolar_codes(chain, scaling)
    low, high = _code_range(bits, signed=signed, narrow=bool(values.get("narrow", 0)))
    code_type = _code_type(bits, signed=signed)
    limits = np.iinfo(_INTEGERS[code_type])
    full = (low, high) == (limits.min, limits.max)
    if mode in ("ROUND", "HALF_EVEN") and not scaling.zero.any() and (bits <= 8 or (full and bits <= 16)):
        _quantize_linear(chain, scaling, code_type)
        if not full:
            kind = _INTEGERS[code_type]
            chain.then("Clip", chain.constant("min", low, kind), chain.constant("max", high, kind))
    else:
        _divide(chain, scaling)
        if scaling.zero.any():
            chain.then("Add", chain.constant("zero", scaling.spread(scaling.zero.astype(np.float32))))
        _ROUNDINGS[mode](chain)
        highest = min(high, _LARGEST_FLOAT_INT32)
        chain.then("Clip", chain.constant("min", low), chain.constant("max", highest))
        chain.then("Cast", to=code_type)
    return _dequantize(chain, scaling, code_type)


def _bit_width(node: NodeProto, graph: Surroundings) -> int:
    widths = np.unique(_parameter(node, 3, "bit width", graph))
    if widths.size != 1 or widths[0] != int(widths[0]) or widths[0] < 1:
        raise refuse(node, f"its bit width must be one positive integer, not {widths.tolist()[:8]}")
    bits, constant = int(widths[0]), node.input[0] in graph.constants
    if constant and graph.is_weight(node.output[0]):
        kind, limit = "weights", _MAX_WEIGHT_BITS
    elif constant:
        kind, limit = "constants", _MAX_BIAS_BITS
    else:
        kind, limit = "activations", _MAX_ACTIVATION_BITS
    if bits > limit:
        raise refuse(node, f"{kind} must have at most {limit} bits, not {bits}")
    return bits


def _code_range(bits: int, *, signed: bool, narrow: bool) -> tuple[int, int]:
    if signed:
        return -(2 ** (bits - 1)) + narrow, 2 ** (bits - 1) - 1
    return 0, 2**bits - 1 - narrow


def _code_type(bits: int, *, signed: bool) -> int:
    if bits <= 8:
        return TensorProto.INT8 if signed else TensorProto.UINT8
    if bits <= 16:
        return TensorProto.INT16 if signed else TensorProto.UINT16
    return TensorProto.INT32


def _axis(scaling: _Scaling) -> dict[str, Any]:
    return {} if scaling.axis is None else {"axis": scaling.axis}


def _zero_codes(scaling: _Scaling, code_type: int) -> np.ndarray:
    return np.broadcast_to(scaling.zero, scaling.scale.shape).astype(_INTEGERS[code_type])


def _quantize_linear(chain: Chain, scaling: _Scaling, code_type: int) -> None:
    scale, zero = (
        chain.constant("scale", scaling.scale),
        chain.constant("zero", _zero_codes(scaling, code_type), _INTEGERS[code_type]),
    )
    chain.then("QuantizeLinear", scale, zero, **_axis(scaling))


def _divide(chain: Chain, scaling: _Scaling) -> None:
    chain.then("Div", chain.constant("divisor", scaling.spread(scaling.scale)))


def _dequantize(chain: Chain, scaling: _Scaling, code_type: int) -> list[NodeProto]:
    limits = np.iinfo(_INTEGERS[code_type])
    if scaling.zero.min() < limits.min or scaling.zero.max() > limits.max:
        raise refuse(chain.node, f"its zero point must fit its {limits.bits}-bit codes")
    parameters = [chain.constant("scale", scaling.scale)]
    if code_type != TensorProto.INT32:
        parameters.append(chain.constant("zero", _zero_codes(scaling, code_type), _INTEGERS[code_type]))
    elif scaling.zero.any():
        raise refuse(chain.node, "its zero point must be 0 above 16 bits")
    chain.then("DequantizeLinear", *parameters, last=True, **_axis(scaling))
    return chain.nodes


def _bipolar_codes(chain: Chain, scaling: _Scaling) -> list[NodeProto]:
    if scaling.zero.any():
        raise refuse(chain.node, "its zero point must be 0 for one signed bit")
    chain.then("GreaterOrEqual", chain.constant("threshold", 0))
    chain.then("Where", chain.constant("plus", 1, np.int8), chain.constant("minus", -1, np.int8))
    return _dequantize(chain, scaling, TensorProto.INT8)


def _bipolar_quant(node: NodeProto, graph: Surroundings) -> list[NodeProto]:
    return _bipolar_codes(Chain(node, graph, node.input[0]), _scaling(node, graph, np.zeros((), np.float32)))


@dataclass(frozen=True)
class _Truncation:
    """What a ``Trunc`` node says, of either version."""

    scaling: _Scaling
    dropped: int
    bits: int
    out_scale: float
    bounded: bool
    mode: str


def _trunc(node: NodeProto, graph: Surroundings) -> list[NodeProto]:
    """Drop low bits of codes; only version 2, which has scale and bits of the output as inputs, has bounds."""
    what, values = _truncation(node, graph), attributes(node)
    zero, signed = int(what.scaling.zero), bool(values.get("signed", 1))
    chain = Chain(node, graph, node.input[0])
    _divide(chain, what.scaling)
    if zero:
        chain.then("Add", chain.constant("zero", zero))
    chain.then("Round")
    chain.then("Mul", chain.constant("unit", 2.0**-what.dropped))
    if what.bounded:
        code_type = _code_type(what.bits, signed=signed)
        low, high = _code_range(what.bits, signed=signed, narrow=bool(values.get("narrow", 0)))
        chain.then("Clip", chain.constant("min", low), chain.constant("max", high))
        _ROUNDINGS[what.mode](chain)
    else:
        code_type = TensorProto.INT16  # holds whatever is left of codes of 16 bits
        _ROUNDINGS[what.mode](chain)
        limits = np.iinfo(_INTEGERS[code_type])
        chain.then("Clip", chain.constant("min", limits.min), chain.constant("max", limits.max))
    chain.then("Cast", to=code_type)
    moved = zero >> what.dropped if what.bounded else zero
    scale = np.asarray(what.out_scale, np.float32)
    return _dequantize(chain, _Scaling(scale, np.asarray(moved, np.float32), None, what.scaling.rank), code_type)


def _truncation(node: NodeProto, graph: Surroundings) -> _Truncation:
    mode = str(attributes(node).get("rounding_mode", "FLOOR")).upper()
    if mode not in _ROUNDINGS or len(node.input) not in (5, 6):
        raise refuse(node, f"it must have 5 or 6 inputs and a rounding mode of {', '.join(_ROUNDINGS)}")
    scaling = _scaling(node, graph, _parameter(node, 2, "zero point", graph))
    if scaling.axis is not None:
        raise refuse(node, "its scale and zero point must be of the whole tensor")
    bounded, scale, zero = len(node.input) == 6, float(scaling.scale), int(scaling.zero)
    names = ("input bits", "output scale", "output bits") if bounded else ("input bits", "output bits")
    given = [_parameter(node, 3 + k, name, graph).reshape(-1) for k, name in enumerate(names)]
    if any(value.size != 1 for value in given):
        raise refuse(node, f"its {' and '.join(names)} must be one number each")
    found = [float(value[0]) for value in given]
    out_scale = found[1] if bounded else scale
    if out_scale <= 0:
        raise refuse(node, f"it must have an output scale above 0, not {out_scale:g}")
    dropped = int(np.round(np.log2(out_scale / scale))) if bounded else int(found[0] - found[1])
    bits = int(found[-1])
    whole = not bounded or zero % (1 << max(dropped, 0)) == 0
    if not (0 <= dropped <= _MAX_ACTIVATION_BITS and 1 <= bits <= _MAX_ACTIVATION_BITS and whole):
        raise refuse(node, f"it must drop 0 to {_MAX_ACTIVATION_BITS} bits, and its zero point must stay an integer")
    return _Truncation(scaling, dropped, bits, out_scale, bounded, mode)


def _average(node: NodeProto, graph: Surroundings) -> list[NodeProto]:
    """Sums of windows of integers, less their low bits."""
    values = attributes(node)
    kernel, stride = int(values.get("kernel", 1)), int(values.get("stride", 1))
    bits, kept = int(values.get("ibits", 1)), int(values.get("obits", 1))
    if not (1 <= bits <= _MAX_BIAS_BITS and 1 <= kept <= _MAX_BIAS_BITS):
        raise refuse(node, f"its ibits and obits must be 1 to {_MAX_BIAS_BITS}, not {bits} and {kept}")
    shift = max((((1 << bits) - 1) * kernel * kernel).bit_length() - kept, 0)
    if values.get("data_layout", "NCHW") != "NCHW" or len(graph.shapes[node.input[0]]) != 4 or min(kernel, stride) < 1:
        raise refuse(node, "it must have an image of 4 axes, channels first")
    chain = Chain(node, graph, node.input[0])
    chain.then("AveragePool", kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[0] * 4, dilations=[1] * 2)
    chain.then("Mul", chain.constant("count", kernel * kernel))
    chain.then("Round")
    chain.then("Mul", chain.constant("unit", 2.0**-shift))
    chain.then("Floor", last=True)
    return chain.nodes


def _multi_threshold(node: NodeProto, graph: Surroundings) -> list[NodeProto]:
    values, shape = attributes(node), graph.shapes[node.input[0]]
    thresholds = _parameter(node, 1, "thresholds", graph).astype(np.float32)
    layout = values.get("data_layout") or _LAYOUT.get(len(shape), "")
    channel = layout.index("C") if "C" in layout else 1
    if thresholds.ndim != 2 or channel >= len(shape) or thresholds.shape[0] not in (1, shape[channel]):
        raise refuse(node, f"thresholds of shape {thresholds.shape} do not fit a tensor {layout} of shape {shape}")
    count = thresholds.shape[1]
    if not 1 <= count < 2**_MAX_ACTIVATION_BITS:
        raise refuse(node, f"it must have 1 to {2**_MAX_ACTIVATION_BITS - 1} thresholds, not {count}")
    code_type = TensorProto.UINT8 if count < 2**8 else TensorProto.UINT16
    spread = [thresholds.shape[0] if i == channel else 1 for i in range(len(shape))]
    chain = Chain(node, graph, node.input[0])
    chain.then("Unsqueeze", chain.constant("axis", np.asarray([-1]), np.int64))
    chain.then("GreaterOrEqual", chain.constant("thresholds", thresholds.reshape(*spread, count)))
    chain.then("Cast", to=TensorProto.INT32)
    chain.then("ReduceSum", chain.constant("axis", np.asarray([-1]), np.int64), keepdims=0)
    chain.then("Cast", to=code_type)
    scale, bias = float(values.get("out_scale", 1.0)), float(values.get("out_bias", 0.0))
    unit = chain.constant("scale", 1)
    chain.then("DequantizeLinear", unit, last=scale == 1 and bias == 0)
    if scale != 1:
        chain.then("Mul", chain.constant("out_scale", scale), last=bias == 0)
    if bias != 0:
        chain.then("Add", chain.constant("out_bias", bias), last=True)
    return chain.nodes


def _to_nearest_even(chain: Chain) -> None:
    chain.then("Round")


def _to_ceiling(chain: Chain) -> None:
    chain.then("Ceil")


def _to_floor(chain: Chain) -> None:
    chain.then("Floor")


def _signed(chain: Chain, *steps: tuple[str, float | None]) -> None:
    """Apply steps to the magnitude: sign(x) · steps(|x|)."""
    value = chain.at
    chain.then("Sign")
    sign, chain.at = chain.at, value
    chain.then("Abs")
    for op_type, operand in steps:
        others = [] if operand is None else [chain.constant("half", operand)]
        chain.then(op_type, *others)
    chain.then("Mul", sign, first=False)


def _up(chain: Chain) -> None:
    _signed(chain, ("Ceil", None))


def _down(chain: Chain) -> None:
    _signed(chain, ("Floor", None))


def _half_up(chain: Chain) -> None:
    _signed(chain, ("Add", 0.5), ("Floor", None))


def _half_down(chain: Chain) -> None:
    _signed(chain, ("Sub", 0.5), ("Ceil", None))


_ROUNDINGS = {
    "ROUND": _to_nearest_even,
    "HALF_EVEN": _to_nearest_even,
    "CEIL": _to_ceiling,
    "FLOOR": _to_floor,
    "UP": _up,
    "DOWN": _down,
    "HALF_UP": _half_up,
    "HALF_DOWN": _half_down,
}
_RULES = {
    "Quant": _quant,
    "IntQuant": _quant,
    "BipolarQuant": _bipolar_quant,
    "MultiThreshold": _multi_threshold,
    "QuantAvgPool2d": _average,
    "Trunc": _trunc,
}
