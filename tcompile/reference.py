"""onnxruntime, the reference: the only module that imports it.

Two references exist (they may differ by one in a few integers):

``plain``
    Every node as the file says, ``ORT_DISABLE_ALL``.
``fused``
    onnxruntime's defaults: QDQ groups become integer kernels where it finds them (see `unsigned`).

Sessions run on one thread and see one frame at a time, so that a result never depends on the batch.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime as ort

from tcompile.errors import ModelError, Problem
from tcompile.ir.graph import NARROW

__all__ = ["Kernel", "Mode", "Session", "Wanted", "Watch", "kernels", "optimized", "run", "saturates", "version"]

Mode = Literal["plain", "fused"]

_LEVEL = {
    "plain": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "fused": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
ZERO_INPUT = {  # which input of a node holds the zero point of its output
    "QuantizeLinear": 2,
    "QLinearConv": 7,
    "QLinearMatMul": 7,
    "QLinearAdd": 7,
    "QGemm": 8,
    "QLinearAveragePool": 4,
    "QLinearGlobalAveragePool": 4,
    "QLinearMul": 7,
    "QLinearConcat": 1,
    "QLinearLeakyRelu": 4,
    "QLinearSigmoid": 4,
    "QLinearSoftmax": 4,
}
WEIGHTS = {
    "QLinearConv": (3, 5),
    "QLinearMatMul": (3, 5),
    "QGemm": (3, 5),
    "ConvInteger": (1, 3),
    "MatMulInteger": (1, 3),
}
X_ZERO = 2  # input of all of these that is the zero point of the activations
PRECISE = "session.x64quantprecision"  # unsigned weights where kernels for signed ones saturate (x86 without VNNI)
OWN_KERNELS = frozenset(ZERO_INPUT) - {"QuantizeLinear"}
INT_KERNELS = frozenset({"QLinearConv", "QGemm", "QLinearMatMul"})


def version() -> str:
    """Version of onnxruntime."""
    return str(ort.__version__)


def _options() -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.enable_mem_reuse = False  # it plans by inferred shapes; for windows of ceil_mode its kernels have others
    options.add_session_config_entry(PRECISE, "1")
    return options


class Session:
    """A model loaded into onnxruntime.

    Parameters
    ----------
    model : onnx.ModelProto
        Standard operators (and ``com.microsoft``), no external data.
    mode : {"plain", "fused"}
        Optimization off or at its defaults.

    Raises
    ------
    ModelError
        onnxruntime does not load the model.
    """

    def __init__(self, model: onnx.ModelProto, mode: Mode = "plain") -> None:
        self.mode = mode
        options = _options()
        options.graph_optimization_level = _LEVEL[mode]
        model = unsaturated(model)  # in fused, PRECISE does it only for operators that onnxruntime's optimizations made
        try:
            self._session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise _refused(mode, error) from error
        self.inputs = tuple(i.name for i in self._session.get_inputs())
        self.outputs = tuple(o.name for o in self._session.get_outputs())

    def __call__(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run one feed per input; returns every output by name.

        Raises
        ------
        ModelError
            onnxruntime fails on these inputs.
        """
        return dict(zip(self.outputs, self._run(dict(feeds)), strict=True))

    def _run(self, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        try:
            return list(self._session.run(None, feeds))
        except Exception as error:
            raise ModelError(
                Problem(
                    "reference-failed", f"onnxruntime {version()} fails while it runs the model: {_one_line(error)}"
                )
            ) from error

    def frames(
        self, feeds: Mapping[str, np.ndarray], *, progress: Callable[[int], None] | None = None
    ) -> dict[str, np.ndarray]:
        """Run frame by frame: inputs of shape (N, ...) one at a time with batch 1, outputs stacked to (N, ...).

        Each input's own leading dimension of 1 is the frame's; outputs are stacked on a new first axis.
        """
        count = len(next(iter(feeds.values())))
        results: list[list[np.ndarray]] = [[] for _ in self.outputs]
        for k in range(count):
            for column, array in zip(results, self._run({n: x[k, ...] for n, x in feeds.items()}), strict=True):
                column.append(array)
            if progress is not None:
                progress(k + 1)
        return {name: np.stack(column) for name, column in zip(self.outputs, results, strict=True)}


def run(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray], mode: Mode = "plain") -> dict[str, np.ndarray]:
    """Load `model`, run it once, return every output by name."""
    return Session(model, mode)(feeds)


def _refused(mode: Mode, error: Exception) -> ModelError:
    return ModelError(
        Problem(
            "reference-refused",
            f"onnxruntime {version()} does not load the model ({mode}): {_one_line(error)}",
            hint="the reference must run; load the file in onnxruntime by itself to see its full message",
        )
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def unsigned(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same network with signed 8-bit activations written as unsigned ones: 128 added to codes and zero points.

    On x86 onnxruntime's defaults do this themselves, but not where a code tensor has several consumers; such layers
    then mix both types and stay in floating point. Written unsigned from the start, they fuse. Nothing else changes.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    constants = {i.name: i for i in graph.initializer}
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    changed: set[str] = {o.name for o in graph.output}
    for node in graph.node:
        if node.op_type == "QuantizeLinear" and node.output[0] not in changed:
            group = [node, *users.get(node.output[0], [])]
            if all(_signed_pair(n, constants) for n in group):
                changed.add(node.output[0])
                for member in group:
                    member.input[2] = _shifted(graph, constants, member.input[2])
    _give_zero_points(graph, constants)
    kept = [v for v in graph.value_info if v.name not in changed]
    del graph.value_info[:]
    graph.value_info.extend(kept)
    return result


def _give_zero_points(graph: onnx.GraphProto, constants: dict[str, onnx.TensorProto]) -> None:
    """Zero points of 0 where dequantizers of weights have none: `PRECISE` would add one that fits no scale per channel."""
    for node in graph.node:
        codes, scale = (constants.get(name) for name in (*node.input[:2], "", "")[:2])
        missing = len(node.input) < 3 or not node.input[2]
        if node.op_type != "DequantizeLinear" or codes is None or scale is None or not missing:
            continue
        if codes.data_type in (onnx.TensorProto.INT8, onnx.TensorProto.UINT8) and len(scale.dims):
            zero = onnx.helper.make_tensor(f"{node.output[0]}__zero", codes.data_type, scale.dims, [0] * scale.dims[0])
            graph.initializer.append(zero)
            constants[zero.name] = zero
            del node.input[2:]
            node.input.append(zero.name)


def _signed_pair(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> bool:
    zero = constants.get(node.input[2]) if len(node.input) > 2 else None
    fits = node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.input[0] not in constants
    return fits and zero is not None and zero.data_type == onnx.TensorProto.INT8


def _shifted(graph: onnx.GraphProto, constants: dict[str, onnx.TensorProto], name: str) -> str:
    """Name of the zero point plus 128, unsigned; made once."""
    new = f"{name}__unsigned"
    if new not in constants:
        value = onnx.numpy_helper.to_array(constants[name]).astype(np.int64) + 128
        constants[new] = onnx.numpy_helper.from_array(value.astype(np.uint8), new)
        graph.initializer.append(constants[new])
    return new


def unsaturated(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same network with signed weights of integer kernels written as unsigned: 128 added to codes and zero points.

    Kernels for unsigned activations and signed weights saturate pairs of products on x86 without VNNI, which ONNX does
    not say; those for unsigned weights are exact.
    """
    if not any(n.op_type in WEIGHTS for n in model.graph.node):  # most models: chains that are replayed
        return model
    constants = _constants(model)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    types = {i.name: i.data_type for i in constants.values()} | _element_types(model)
    for node in result.graph.node:
        weights, zero = WEIGHTS.get(node.op_type, (0, 0))
        if not zero or not _is_signed(constants.get(node.input[weights])):
            continue
        given = [node.input[k] if k < len(node.input) else "" for k in (X_ZERO, zero)]
        if types.get(given[0] or node.input[0]) == onnx.TensorProto.INT8 or (given[1] and given[1] not in constants):
            continue
        node.input[weights] = _shifted(result.graph, constants, node.input[weights])
        node.input.extend([""] * (zero + 1 - len(node.input)))
        node.input[zero] = _shifted(result.graph, constants, given[1] or _none(result.graph, constants))
    return result


def _constants(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Initializers, and what integer operators are given by nodes that compute it of nothing but these (``Constant``)."""
    constants = {i.name: i for i in model.graph.initializer}
    known, makers = {"", *constants}, list[onnx.NodeProto]()
    for node in model.graph.node:
        if known.issuperset(node.input):
            known.update(node.output)
            makers.append(node)
    wanted = {i for n in model.graph.node if n.op_type in OWN_KERNELS | WEIGHTS.keys() for i in n.input}
    made = sorted((wanted & known) - {"", *constants})
    return constants | dict(zip(made, _evaluated(model, makers, made), strict=True))


def _evaluated(
    model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], names: Sequence[str]
) -> Iterator[onnx.TensorProto]:
    """Results of nodes whose inputs are constants."""
    if not names:
        return
    needed = set(names)
    for node in reversed(nodes):
        if needed.intersection(node.output):
            needed.update(node.input)
    used = [n for n in nodes if needed.intersection(n.output)]
    given = [i for i in model.graph.initializer if i.name in needed]
    outputs = [onnx.ValueInfoProto(name=name) for name in names]
    graph = onnx.helper.make_graph(used, "constants", [], outputs, given)
    part = onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    options = _options()
    options.graph_optimization_level = _LEVEL["plain"]
    session = ort.InferenceSession(part.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for name, value in zip(names, session.run(list(names), {}), strict=True):
        yield onnx.numpy_helper.from_array(value, name)


def _is_signed(tensor: onnx.TensorProto | None) -> bool:
    return tensor is not None and tensor.data_type == onnx.TensorProto.INT8


def _none(graph: onnx.GraphProto, constants: dict[str, onnx.TensorProto]) -> str:
    """Name of a zero point of 0."""
    name = "__no_zero_point"
    if name not in constants:
        constants[name] = onnx.numpy_helper.from_array(np.array(0, np.int8), name)
        graph.initializer.append(constants[name])
    return name


def _element_types(model: onnx.ModelProto) -> dict[str, int]:
    """Element types of all values that onnx can infer."""
    try:
        known = onnx.shape_inference.infer_shapes(model)
    except (onnx.shape_inference.InferenceError, ValueError):
        known = (
            model  # zero points tell the types, but for sums of codes that have none; onnxruntime refuses a wrong guess
        )
    values = (*known.graph.input, *known.graph.value_info, *known.graph.output)
    return {v.name: v.type.tensor_type.elem_type for v in values}


def optimized(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph that onnxruntime's defaults make of `model`, before the data-layout step.

    The layout step (``ORT_ENABLE_ALL`` beyond ``ORT_ENABLE_EXTENDED``) moves channels, not integers.
    """
    options = _options()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        options.optimized_model_filepath = str(path)
        try:
            ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise _refused("fused", error) from error
        return onnx.load(str(path))


@dataclass(frozen=True, eq=False)
class Kernel:
    """One node of the optimized graph, with its constants.

    A fused node bears the name of the file's main node. Codes may be shifted: onnxruntime turns signed codes into
    unsigned ones on some machines, adding 128 to codes and zero point alike.
    """

    node: onnx.NodeProto
    constants: Mapping[str, np.ndarray]

    @property
    def op(self) -> str:
        """Operator."""
        return str(self.node.op_type)

    @property
    def operands(self) -> tuple[int, ...]:
        """Operands that are not constant, by their place; of kernels of layout (x, scale, zero point)* ..."""
        return tuple(k for k in range((len(self.node.input) - 2) // 3) if self.node.input[3 * k] not in self.constants)

    @property
    def bias(self) -> np.ndarray | None:
        """The integer bias of a linear layer; onnxruntime may have made it of a floating-point one."""
        index = {"QLinearConv": 8, "QGemm": 6}.get(self.op, -1)
        name = self.node.input[index] if 0 <= index < len(self.node.input) else ""
        return self.constants[name].astype(np.int64).reshape(-1) if name in self.constants else None

    @property
    def window(self) -> tuple[int, ...]:
        """Sides of a pool's window; none where it is the whole image."""
        return tuple(next((a.ints for a in self.node.attribute if a.name == "kernel_shape"), ()))

    def has_scales(self, inputs: Sequence[float], output: float) -> bool:
        """Whether the kernel's activation scales are the file's: onnxruntime also merges quantizers in a row."""
        zero = ZERO_INPUT.get(self.op, 0)
        first = 3 if self.op == "QLinearConcat" else 1
        moving = range(len(inputs)) if self.op not in ("QLinearAdd", "QLinearMul") else self.operands
        own = [self._scale(first + 3 * k) for k in moving]
        return [*own, self._scale(zero - 1)] == [float(np.float32(s)) for s in (*inputs, output)]

    @property
    def output_scale(self) -> float:
        """Scale of the output's codes."""
        scale = self._scale(ZERO_INPUT[self.op] - 1)
        assert scale is not None
        return scale

    def _scale(self, index: int) -> float | None:
        array = self.constants.get(self.node.input[index]) if index < len(self.node.input) else None
        return float(array.ravel()[0]) if array is not None and array.size == 1 else None

    @property
    def integer(self) -> bool:
        """Whether a linear layer is summed in integers and leaves as codes (QGemm can also leave as floats)."""
        return self.op in INT_KERNELS and (self.op != "QGemm" or len(self.node.input) > ZERO_INPUT["QGemm"])

    def zero(self, index: int) -> int:
        """Zero point at an input."""
        return int(self.constants[self.node.input[index]].ravel()[0])

    def __call__(self, codes: Sequence[np.ndarray], zeros: Sequence[int], zero: int) -> np.ndarray:
        """Run a kernel of layout (x, scale, zero point)* , scale, zero point on codes with the file's zero points.

        Codes and zero points are those of `operands`. Pads of a pool are left out: the codes are whole windows.
        """
        feeds = {}
        for k, x, own in zip(self.operands, codes, zeros, strict=True):
            shift = self.zero(3 * k + 2) - own
            feeds[f"x{k}"] = (x + shift).astype(self.constants[self.node.input[3 * k + 2]].dtype)
        result = self._session(feeds)["y"].astype(np.int64)
        return result - (self.zero(ZERO_INPUT[self.op]) - zero)

    def part(self, index: int, codes: np.ndarray, own: int, zero: int) -> np.ndarray:
        """What QLinearConcat makes of codes of one branch, with the file's zero points of branch and output."""
        helper, names = onnx.helper, [*self.node.input[:2], *self.node.input[2 + 3 * index : 5 + 3 * index]]
        shift = self.zero(4 + 3 * index) - own
        kind = self.constants[names[4]].dtype
        node = helper.make_node(self.op, [*names[:2], "x", *names[3:]], ["y"], domain="com.microsoft", axis=1)
        used = [onnx.numpy_helper.from_array(self.constants[i], i) for i in dict.fromkeys(names) if i in self.constants]
        ports = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(kind), None) for n in ("x", "y")]
        graph = helper.make_graph([node], "kernel", ports[:1], ports[1:], used)
        domains = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
        session = Session(helper.make_model(graph, opset_imports=domains, ir_version=10))
        result = session({"x": (codes + shift).astype(kind)})["y"].astype(np.int64)
        return np.asarray(result - (self.zero(1) - zero))

    @cached_property
    def _session(self) -> Session:
        helper = onnx.helper
        node = onnx.NodeProto()
        node.CopyFrom(self.node)
        del node.output[1:]
        kept = [a for a in node.attribute if a.name not in ("pads", "auto_pad", "ceil_mode")]
        del node.attribute[:]
        node.attribute.extend(kept)
        node.output[0] = "y"
        kinds = [helper.np_dtype_to_tensor_dtype(self.constants[node.input[3 * k + 2]].dtype) for k in self.operands]
        for k in self.operands:
            node.input[3 * k] = f"x{k}"
        y_kind = helper.np_dtype_to_tensor_dtype(self.constants[node.input[ZERO_INPUT[self.op]]].dtype)
        used = [
            onnx.numpy_helper.from_array(self.constants[i], i) for i in dict.fromkeys(node.input) if i in self.constants
        ]
        graph = helper.make_graph(
            [node],
            "kernel",
            [helper.make_tensor_value_info(f"x{k}", kind, None) for k, kind in zip(self.operands, kinds, strict=True)],
            [helper.make_tensor_value_info("y", y_kind, None)],
            used,
        )
        domains = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
        return Session(helper.make_model(graph, opset_imports=domains, ir_version=10))


@dataclass(frozen=True)
class Wanted:
    """A tensor to watch: the file's tensor, the nodes that make it (last first), its type, its codes' zero point."""

    tensor: str
    nodes: tuple[str, ...]
    codes: bool
    zero: int = 0
    dtype: str = "uint8"

    @property
    def packed(self) -> bool:
        """Whether the tensor must leave as floats: codes, which may be of a type that onnxruntime hands no one."""
        return self.codes and self.dtype not in ("bool", "int32", "int64", "uint32", "uint64")


class Watch:
    """The reference with inner tensors as further outputs.

    In ``plain`` these are the file's tensors. In ``fused`` they are looked up in the optimized graph by the names of
    their nodes, and codes that onnxruntime shifted to unsigned are shifted back; what its fusions removed is missing.
    The optimized graph runs as it is: extra outputs on the file itself would keep onnxruntime from fusing.
    """

    def __init__(self, model: onnx.ModelProto, mode: Mode, wanted: Sequence[Wanted]) -> None:
        self.final = tuple(o.name for o in model.graph.output)
        self._shift: dict[str, tuple[str, int]] = {}
        base = onnx.ModelProto()
        base.CopyFrom(model if mode == "plain" else optimized(unsigned(model)))
        (self._plain if mode == "plain" else self._fused)(base, wanted)
        self._session = Session(base, "plain")

    @property
    def tensors(self) -> tuple[str, ...]:
        """Wanted tensors that were found."""
        return tuple(self._shift)

    def _plain(self, base: onnx.ModelProto, wanted: Sequence[Wanted]) -> None:
        made = {o for n in base.graph.node for o in n.output}
        for item in wanted:
            if item.tensor in made:
                self._add(base, item, item.tensor, 0)

    def _fused(self, base: onnx.ModelProto, wanted: Sequence[Wanted]) -> None:
        graph = base.graph
        constants = {i.name: i for i in graph.initializer}
        nodes = {n.name: n for n in graph.node if n.name}
        made = {o for n in graph.node for o in n.output}
        types = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.output)}
        kept = {i.tensor for i in wanted if types.get(i.tensor) == _element(i.dtype)}  # codes that were not shifted
        taken: set[str] = set()  # of two tensors that onnxruntime made one, the second has no codes of its own
        for item in wanted:
            if not item.packed or item.tensor in kept:
                if item.tensor in made:
                    self._add(base, item, item.tensor, 0)
                continue
            node = next((nodes[n] for n in item.nodes if n in nodes and _makes_codes(nodes[n])), None)
            if node is not None and node.output[0] not in taken:
                taken.add(node.output[0])
                index = ZERO_INPUT.get(node.op_type, -1)
                shift = 0
                if 0 <= index < len(node.input) and node.input[index] in constants:
                    zero = onnx.numpy_helper.to_array(constants[node.input[index]])
                    shift = int(zero.ravel()[0]) - item.zero
                self._add(base, item, node.output[0], shift)

    def _add(self, base: onnx.ModelProto, item: Wanted, source: str, shift: int) -> None:
        """One more output."""
        name, kind = source, int(onnx.TensorProto.FLOAT)
        if item.codes and not item.packed:
            kind = _element(item.dtype)
        if item.packed:
            name = f"{source}__watched"
            if item.dtype in NARROW:
                one = f"{source}__one"
                base.graph.initializer.append(onnx.numpy_helper.from_array(np.array(1, np.float32), one))
                base.graph.node.append(onnx.helper.make_node("DequantizeLinear", [source, one], [name], name=name))
            else:
                base.graph.node.append(onnx.helper.make_node("Cast", [source], [name], name=name, to=kind))
        if name not in {o.name for o in base.graph.output}:
            base.graph.output.append(onnx.helper.make_tensor_value_info(name, kind, None))
        self._shift[item.tensor] = (name, shift)

    def frames(
        self, feeds: Mapping[str, np.ndarray], progress: Callable[[int], None] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Run frame by frame; returns the file's outputs and the watched tensors, both stacked."""
        values = self._session.frames(feeds, progress=progress)
        watched = {t: values[name] - shift if shift else values[name] for t, (name, shift) in self._shift.items()}
        return {name: values[name] for name in self.final}, watched


def _element(dtype: str) -> int:
    """ONNX's number of an element type."""
    return int(onnx.TensorProto.DataType.Value({"float32": "FLOAT", "float64": "DOUBLE"}.get(dtype, dtype.upper())))


def _makes_codes(node: onnx.NodeProto) -> bool:
    return node.op_type.startswith("QLinear") or node.op_type in ("QuantizeLinear", "QGemm", "Clip", "Where", "Cast")


def kernels(model: onnx.ModelProto, mode: Mode) -> dict[str, Kernel]:
    """Nodes that compute codes of codes by name: the file's own, or in ``fused`` those of the optimized graph.

    Raises
    ------
    ModelError
        onnxruntime cannot optimize the model.
    """
    whole = optimized(unsigned(model)) if mode == "fused" else model
    constants = {name: onnx.numpy_helper.to_array(tensor) for name, tensor in _constants(whole).items()}
    return {
        node.name: Kernel(node, {i: constants[i] for i in node.input if i in constants})
        for node in whole.graph.node
        if node.name and (mode == "fused" or node.op_type in OWN_KERNELS)
    }


@lru_cache(maxsize=1)
def saturates() -> bool:
    """Whether this machine's kernels saturate pairs of products in spite of `PRECISE`.

    Such kernels are not exact functions of the integer sum, and the fused reference is then refused.
    """
    channels = 64
    x = np.full((1, channels), 255, np.uint8)
    weight = np.full((channels, 1), 127, np.int8)
    helper = onnx.helper
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "w"], ["y"])],
        "saturation",
        [helper.make_tensor_value_info("x", onnx.TensorProto.UINT8, [1, channels])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.INT32, [1, 1])],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return bool(run(model, {"x": x}, "fused")["y"][0, 0] != 255 * 127 * channels)
