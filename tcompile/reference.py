"""onnxruntime, the reference: the only module that imports it.

Two references exist (they may differ by one in a few integers):

``plain``
    Every node as the file says, ``ORT_DISABLE_ALL``.
``fused``
    onnxruntime's defaults: QDQ groups become integer kernels where it finds them.

Sessions run on one thread and see one frame at a time, so that a result never depends on the batch.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime as ort

from tcompile.errors import ModelError, Problem

__all__ = ["Kernel", "Mode", "Session", "kernels", "optimized", "run", "saturates", "version"]

Mode = Literal["plain", "fused"]

_LEVEL = {
    "plain": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "fused": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
INT_KERNELS = frozenset({"QLinearConv", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat"})


def version() -> str:
    """Version of onnxruntime."""
    return str(ort.__version__)


def _options() -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
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
        options = _options()
        options.graph_optimization_level = _LEVEL[mode]
        try:
            self._session = ort.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # noqa: BLE001  onnxruntime raises bare exceptions of many types
            raise ModelError(
                Problem(
                    "reference-refused",
                    f"onnxruntime {version()} does not load the model ({mode}): {_one_line(error)}",
                    hint="the reference must run; load the file in onnxruntime by itself to see its full message",
                )
            ) from error
        self.inputs = tuple(i.name for i in self._session.get_inputs())
        self.outputs = tuple(o.name for o in self._session.get_outputs())

    def __call__(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run one feed per input; returns every output by name."""
        return dict(zip(self.outputs, self._session.run(None, dict(feeds)), strict=True))

    def frames(
        self, feeds: Mapping[str, np.ndarray], *, progress: Callable[[int], None] | None = None
    ) -> dict[str, np.ndarray]:
        """Run frame by frame: inputs of shape (N, ...) one at a time with batch 1, outputs stacked to (N, ...).

        Each input's own leading dimension of 1 is the frame's; outputs are stacked on a new first axis.
        """
        count = len(next(iter(feeds.values())))
        results: list[list[np.ndarray]] = [[] for _ in self.outputs]
        for k in range(count):
            for column, array in zip(results, self._session.run(None, {n: x[k] for n, x in feeds.items()}), strict=True):
                column.append(array)
            if progress is not None:
                progress(k + 1)
        return {name: np.stack(column) for name, column in zip(self.outputs, results, strict=True)}


def run(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray], mode: Mode = "plain") -> dict[str, np.ndarray]:
    """Load `model`, run it once, return every output by name."""
    return Session(model, mode)(feeds)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def optimized(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph that onnxruntime's defaults make of `model`, before the data-layout step.

    The layout step (``ORT_ENABLE_ALL`` beyond ``ORT_ENABLE_EXTENDED``) moves channels, not integers.
    """
    options = _options()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        options.optimized_model_filepath = str(path)
        ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
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
    def integer(self) -> bool:
        """Whether a linear layer is summed in integers."""
        return self.op in INT_KERNELS

    def zero(self, index: int) -> int:
        """Zero point at an input."""
        return int(self.constants[self.node.input[index]].ravel()[0])

    def __call__(self, codes: Sequence[np.ndarray], zeros: Sequence[int], zero: int) -> np.ndarray:
        """Run a kernel of layout (x, scale, zero point)* , scale, zero point on codes with the file's zero points."""
        feeds = {}
        for k, (x, own) in enumerate(zip(codes, zeros, strict=True)):
            shift = self.zero(3 * k + 2) - own
            feeds[f"x{k}"] = (x + shift).astype(self.constants[self.node.input[3 * k + 2]].dtype)
        result = self._session(feeds)["y"].astype(np.int64)
        return result - (self.zero(3 * len(codes) + 1) - zero)

    @cached_property
    def _session(self) -> Session:
        helper = onnx.helper
        node = onnx.NodeProto()
        node.CopyFrom(self.node)
        del node.output[1:]
        node.output[0] = "y"
        count = (len(node.input) - 2) // 3
        kinds = [helper.np_dtype_to_tensor_dtype(self.constants[node.input[3 * k + 2]].dtype) for k in range(count)]
        for k in range(count):
            node.input[3 * k] = f"x{k}"
        y_kind = helper.np_dtype_to_tensor_dtype(self.constants[node.input[3 * count + 1]].dtype)
        used = [onnx.numpy_helper.from_array(self.constants[i], i) for i in dict.fromkeys(node.input) if i in self.constants]
        graph = helper.make_graph(
            [node],
            "kernel",
            [helper.make_tensor_value_info(f"x{k}", kind, None) for k, kind in enumerate(kinds)],
            [helper.make_tensor_value_info("y", y_kind, None)],
            used,
        )
        domains = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
        return Session(helper.make_model(graph, opset_imports=domains, ir_version=10))


def kernels(model: onnx.ModelProto) -> dict[str, Kernel]:
    """Nodes of the optimized graph by name."""
    graph = optimized(model).graph
    constants = {i.name: onnx.numpy_helper.to_array(i) for i in graph.initializer}
    return {
        node.name: Kernel(node, {i: constants[i] for i in node.input if i in constants})
        for node in graph.node
        if node.name
    }


@lru_cache(maxsize=1)
def saturates() -> bool:
    """Whether this machine's u8·s8 kernels saturate pairs of products (x86 without VNNI).

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
