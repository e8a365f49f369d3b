"""Rewrites a standard model to the one form the importer reads, with the same results.

One walk in topological order: each node is brought to `OPSET`, its output types are inferred, and it is kept, removed
(``Identity``, ``Dropout``, a ``Cast`` to the type it has) or, if all its inputs are constants, set aside to be
evaluated. Evaluation is by onnxruntime, as many nodes at once as possible. ``DequantizeLinear`` is never evaluated:
quantized constants stay integers, and nothing behind one is a constant.

Results are the same bit for bit where onnxruntime's kernels are: its ``AveragePool`` before version 19 adds in another
order, and it packs constant weights of a ``MatMul``, which changes the order of those sums too. Sums that are exact
(integers, power-of-two scales) do not depend on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, TypeProto, helper, numpy_helper

from tcompile.errors import ModelError, Problem, printable
from tcompile.frontend.decompose import decomposed, is_decomposed
from tcompile.frontend.folding import Budget, can_be_evaluated, constant_value
from tcompile.frontend.infer import check_static, output_types
from tcompile.frontend.modernize import modernize
from tcompile.frontend.protos import (
    IR_VERSION,
    OPSET,
    Names,
    attributes,
    elements,
    graph_inputs,
    opset_of,
    raise_all,
    shown,
    static_shape,
    tensor_type,
    to_array,
)
from tcompile.frontend.structure import sort_nodes

__all__ = ["Evaluate", "normalize"]

Evaluate = Callable[[ModelProto, Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]

_SELF_CHECKED = {"Gather", "ReduceMax", "AveragePool"}  # their rules say what does not fit
_SMALL = 4096  # elements; larger constants are no shape arithmetic
_PACKED = {TensorProto.INT4, TensorProto.UINT4, TensorProto.INT2, TensorProto.UINT2}  # numpy has no such types
_FLOATS = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16}


def normalize(model: ModelProto, evaluate: Evaluate | None = None) -> ModelProto:
    """Return an equivalent model in one form, with static types on every value.

    Parameters
    ----------
    model : ModelProto
        Standard operators (QONNX quantizers are kept as they are), static input shapes, unique node names, all data
        inside. Unchanged.
    evaluate : callable, optional
        Runs a model without inputs and returns its outputs by name; `tcompile.reference.run` if not given.

    Returns
    -------
    ModelProto
        Operator set 25, IR version 13; values and nodes that survive keep their names.

    Raises
    ------
    ModelError
        Every node whose shapes do not fit or are not static, or that has no form in this operator set.
    """
    return _Walk(model, evaluate or _onnxruntime).run()


def _onnxruntime(model: ModelProto, feeds: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    from tcompile import reference  # onnxruntime is slow to import

    return reference.run(model, feeds)


class _Walk:
    """State of one walk over a graph; also the `Context` of the rules."""

    def __init__(self, model: ModelProto, evaluate: Evaluate) -> None:
        graph = model.graph
        self.opset = opset_of(model) or OPSET
        self._model = model
        self._evaluate = evaluate
        self._outputs = {value.name: None for value in graph.output}
        self._inputs = graph_inputs(graph)
        self._used = {name for node in graph.node for name in node.input} | set(self._outputs)
        everything = {name for node in graph.node for name in (*node.output, *node.input, node.name)}
        self._names = Names(everything | {t.name for t in graph.initializer} | {v.name for v in self._inputs})
        self._constants: dict[str, TensorProto] = {t.name: t for t in graph.initializer}
        self._types: dict[str, TypeProto] = {t.name: tensor_type(t.data_type, t.dims) for t in graph.initializer}
        self._alias: dict[str, str] = {}  # removed value -> the value it equals
        self._renamed: dict[str, str] = {}  # value -> the name of the graph's output it became
        self._pending: list[NodeProto] = []  # constant nodes not evaluated yet
        self._pending_names: set[str] = set()
        self._unknown: set[str] = set()  # values behind a node with a problem
        self._nodes: list[NodeProto] = []
        self._produced: set[str] = set()
        self._problems: list[Problem] = []
        self._budget = Budget()

    # what rules may ask

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a value."""
        return static_shape(self._types[self._resolve(name)]) or ()

    def constant(self, name: str) -> np.ndarray | None:
        """Value of a constant, or None if it is computed from the input."""
        name = self._resolve(name)
        if name in self._pending_names:
            self._flush()
        return to_array(self._constants[name]) if name in self._constants else None

    def evaluated(self, node: NodeProto) -> np.ndarray:
        """Result of a node in the form of `OPSET` whose inputs are constants."""
        self._types.update(types := self._infer(node))
        self._postpone(node, types)
        self._flush()
        return to_array(self._constants[node.output[0]])

    def is_used(self, name: str) -> bool:
        """Tell whether a node or an output of the graph uses a value."""
        return name in self._used

    def add_constant(self, wanted: str, value: np.ndarray) -> str:
        """Add a constant and return its name."""
        name = self.fresh(wanted)
        self._set_constant(name, numpy_helper.from_array(np.asarray(value), name))
        return name

    def fresh(self, wanted: str) -> str:
        """Return a name that neither a tensor nor a node bears."""
        return self._names.fresh(wanted)

    # the walk

    def run(self) -> ModelProto:
        self._check_inputs()
        for node in sort_nodes(list(self._model.graph.node)):
            self._visit(node)
        raise_all(self._problems)
        self._flush()
        return self._build()

    def _check_inputs(self) -> None:
        for value in self._inputs:
            if static_shape(value.type) is None:
                message = f"input {printable(value.name)} must have a static shape"
                self._problems.append(Problem("dynamic-shape", message, (value.name,), "give it with --shape"))
                self._unknown.add(value.name)
            self._types[value.name] = value.type

    def _visit(self, node: NodeProto) -> None:
        node = self._with_resolved_inputs(node)
        if any(name in self._unknown for name in node.input):
            self._unknown.update(node.output)
            return
        try:
            if node.op_type == "Constant" and not node.domain:
                self._set_constant(node.output[0], constant_value(node))
                return
            for new in modernize(node, self):
                self._refuse_misfit(new)
                for part in decomposed(new, self):
                    self._place(part)
        except ModelError as error:
            self._problems.extend(error.problems)
            self._unknown.update(node.output)

    def _refuse_misfit(self, node: NodeProto) -> None:
        """Rules take nodes that fit their inputs; onnx's inference says what does not."""
        if not is_decomposed(node):
            return
        if not node.domain and node.op_type not in _SELF_CHECKED:
            output_types(node, self._types, self._small_constants(node))
        source = self._resolve(node.input[0])
        if source in self._types and 0 in self.shape(source) and self.constant(source) is None:
            message = f"{shown(node)} must have an input with elements, not of shape {list(self.shape(source))}"
            raise ModelError(Problem("empty-tensor", message, (node.name,)))

    def _place(self, node: NodeProto) -> None:
        if self._is_noop(node) and self._remove(node):
            return
        types = self._infer(node)
        self._types.update(types)
        if node.op_type in ("Shape", "Size") and not node.domain:
            self._set_constant(node.output[0], self._measured(node))
        elif self._is_constant(node):
            self._postpone(node, types)
        else:
            self._nodes.append(node)
            self._produced.update(name for name in node.output if name)

    def _is_noop(self, node: NodeProto) -> bool:
        if node.domain or node.op_type not in ("Identity", "Cast"):
            return False
        same = self._types[node.input[0]].tensor_type.elem_type
        return node.op_type == "Identity" or attributes(node)["to"] == same

    def _remove(self, node: NodeProto) -> bool:
        """Let the input stand for the output; an output of the graph needs a node that bears its name."""
        source, name = node.input[0], node.output[0]
        if name not in self._outputs:
            self._alias[name] = source
            return True
        if source in self._produced and source not in self._outputs and source not in self._renamed:
            self._renamed[source] = name
            self._alias[name] = source  # for those that read the output, too
            return True
        return False

    def _infer(self, node: NodeProto) -> dict[str, TypeProto]:
        types = output_types(node, self._types, self._small_constants(node))
        if check_static(node, types) is not None and self._pending_names.intersection(node.input):
            self._flush()
            types = output_types(node, self._types, self._small_constants(node))
        problem = check_static(node, types)
        if problem is not None:
            raise ModelError(problem)
        return {name: types[name] for name in node.output if name}

    def _small_constants(self, node: NodeProto) -> dict[str, TensorProto]:
        known = {name: self._constants[name] for name in node.input if name in self._constants}
        return {name: tensor for name, tensor in known.items() if elements(tensor.dims) <= _SMALL}

    def _measured(self, node: NodeProto) -> TensorProto:
        shape, values = self.shape(node.input[0]), attributes(node)
        if node.op_type == "Size":
            value = np.asarray(elements(shape), dtype=np.int64)
        else:
            value = np.asarray(shape[values.get("start", 0) : values.get("end")], dtype=np.int64)
        return numpy_helper.from_array(value, node.output[0])

    def _is_constant(self, node: NodeProto) -> bool:
        inputs = [name for name in node.input if name]
        known = all(name in self._constants or name in self._pending_names for name in inputs)
        return bool(inputs) and known and can_be_evaluated(node)

    def _postpone(self, node: NodeProto, types: Mapping[str, TypeProto]) -> None:
        self._budget.spend(node, self.shape)
        if node.op_type in ("Div", "Mod") and self._elem_type(node.input[1]) not in _FLOATS:
            divisor = self.constant(node.input[1])
            if divisor is None or not divisor.all():
                raise ModelError(Problem("invalid-onnx", f"{shown(node)} divides an integer by zero", (node.name,)))
        self._pending.append(node)
        self._pending_names.update(types)

    def _flush(self) -> None:
        """Evaluate all postponed nodes in one run."""
        if not self._pending:
            return
        names = sorted(self._pending_names)
        wide = {name: self._names.fresh(f"{name}_wide") for name in names if self._elem_type(name) in _PACKED}
        casts = [helper.make_node("Cast", [n], [w], self._names.fresh(w), to=TensorProto.INT8) for n, w in wide.items()]
        outputs = [wide.get(name, name) for name in names]
        model = self._evaluation(casts, outputs)
        self._pending, self._pending_names = [], set()
        self._unknown.update(names)  # until they are known
        results = self._evaluate(model, {})
        self._unknown.difference_update(names)
        for name, output in zip(names, outputs, strict=True):
            array = np.asarray(results[output])
            if name in wide:
                tensor = helper.make_tensor(name, self._elem_type(name), array.shape, array.reshape(-1))
            else:
                tensor = numpy_helper.from_array(array, name)
            self._set_constant(name, tensor)

    def _evaluation(self, casts: list[NodeProto], outputs: list[str]) -> ModelProto:
        needed = {name for node in self._pending for name in node.input}
        constants = [self._constants[name] for name in sorted(needed & self._constants.keys())]
        packed = {cast.output[0] for cast in casts}
        results = [
            helper.make_tensor_value_info(n, TensorProto.INT8, None)
            if n in packed
            else helper.make_value_info(n, self._types[n])
            for n in outputs
        ]
        graph = helper.make_graph([*self._pending, *casts], "constants", [], results, constants)
        return _model(graph, self._model)

    def _set_constant(self, name: str, tensor: TensorProto) -> None:
        if tensor.name != name:
            copy = TensorProto()
            copy.CopyFrom(tensor)
            copy.name = name
            tensor = copy
        self._constants[name] = tensor
        self._types[name] = tensor_type(tensor.data_type, tensor.dims)

    def _elem_type(self, name: str) -> int:
        return int(self._types[name].tensor_type.elem_type)

    def _resolve(self, name: str) -> str:
        return self._alias.get(name, name)

    def _with_resolved_inputs(self, node: NodeProto) -> NodeProto:
        if not any(name in self._alias for name in node.input):
            return node
        result = NodeProto()
        result.CopyFrom(node)
        result.ClearField("input")
        result.input.extend(self._resolve(name) for name in node.input)
        return result

    # the result

    def _build(self) -> ModelProto:
        nodes = [self._final(node) for node in _alive(self._nodes, self._outputs, self._renamed)]
        types = {self._renamed.get(name, name): value_type for name, value_type in self._types.items()}
        used = {name for node in nodes for name in node.input} | set(self._outputs)
        constants = [tensor for name, tensor in self._constants.items() if name in used]
        inner = [n for node in nodes for n in node.output if n and n not in self._outputs]
        graph = helper.make_graph(
            nodes,
            self._model.graph.name,
            self._inputs,
            [helper.make_value_info(name, types[name]) for name in self._outputs],
            constants,
            value_info=[helper.make_value_info(name, types[name]) for name in inner],
        )
        return _model(graph, self._model)

    def _final(self, node: NodeProto) -> NodeProto:
        result = NodeProto()
        result.CopyFrom(node)
        result.ClearField("doc_string")
        for field in (result.input, result.output):
            names = [self._renamed.get(name, name) for name in field]
            del field[:]
            field.extend(names)
        return result


def _alive(nodes: list[NodeProto], outputs: Iterable[str], renamed: Mapping[str, str]) -> list[NodeProto]:
    needed, kept = {*outputs, *(old for old in renamed)}, []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    return kept[::-1]


def _model(graph: object, source: ModelProto) -> ModelProto:
    versions = {entry.domain: entry.version for entry in source.opset_import}
    domains = sorted({node.domain for node in graph.node} - {""})  # type: ignore[attr-defined]
    opsets = [helper.make_opsetid("", OPSET), *(helper.make_opsetid(d, versions.get(d, 1)) for d in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="tcompile")  # type: ignore[arg-type]
