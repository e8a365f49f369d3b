"""Problems that later stages would find, so that they are told beside those of a stage that failed.

Two ways: operators that depend on the input and have no form, wherever they stand; and all later stages for the nodes that
depend on nothing that has a problem.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from onnx import ModelProto, NodeProto, ValueInfoProto

from tcompile.errors import ModelError, Problem
from tcompile.frontend.decompose import RULES
from tcompile.frontend.importer import form_problem, import_model
from tcompile.frontend.protos import DEFAULT_DOMAINS, graph_inputs
from tcompile.frontend.structure import sort_nodes

__all__ = ["further"]

MEASURED = {"Shape", "Size"}  # of static shapes these are constants
GONE = {"Constant", "Identity", "Dropout", "Upsample"}  # rewritten without a rule of `RULES`
LOCAL = {"unsupported-op", "invalid-onnx"}  # problems of nodes, beside which the graph is sound

Prepare = Callable[[ModelProto], ModelProto]


def further(model: ModelProto, found: Sequence[Problem], prepare: Prepare | None) -> tuple[Problem, ...]:
    """Problems beside those that were found.

    Parameters
    ----------
    model : ModelProto
        With unique node names and static input shapes.
    found : sequence of Problem
        Of the stage that failed.
    prepare : callable, optional
        The stages up to the importer; left out where tensors are damaged.
    """
    named = {name for p in found for name in p.where}
    try:
        nodes = sort_nodes(list(model.graph.node))
    except ModelError as error:
        return error.problems
    formless = [p for p in _formless(model, nodes) if not named.intersection(p.where)]
    named.update(name for p in formless for name in p.where)
    part = _without(model, nodes, named) if {p.code for p in found} <= LOCAL else None
    if part is None or prepare is None:
        return tuple(formless)
    try:
        import_model(prepare(part))
    except ModelError as error:
        return (*formless, *error.problems)
    return tuple(formless)


def _formless(model: ModelProto, nodes: Sequence[NodeProto]) -> Iterator[Problem]:
    """Standard operators that depend on an input, and that neither the importer nor a rule takes."""
    moving = {i.name for i in graph_inputs(model.graph)}
    for node in nodes:
        if node.op_type in MEASURED or not moving.intersection(node.input):
            continue
        moving.update(node.output)
        if node.domain in DEFAULT_DOMAINS and node.op_type not in GONE and ("", node.op_type) not in RULES:
            problem = form_problem(node)
            if problem is not None:
                yield problem


def _without(model: ModelProto, nodes: Sequence[NodeProto], named: set[str]) -> ModelProto | None:
    """The nodes that depend on none of those named, as a model of their own; None if that is all or nothing."""
    lost, kept = set(named), list[NodeProto]()
    for node in nodes:
        if node.name in named or lost.intersection((*node.input, *node.output)):
            lost.update(node.output)
        else:
            kept.append(node)
    made = {name for node in kept for name in node.output if name}
    wanted = {name for node in nodes if lost.intersection(node.output) for name in node.input}
    wanted.update(o.name for o in model.graph.output)
    ends = [name for node in kept for name in node.output if name in wanted & made]
    if len(kept) == len(nodes) or not ends:
        return None
    result = ModelProto()
    result.CopyFrom(model)
    for field in ("node", "output"):
        result.graph.ClearField(field)
    result.graph.node.extend(kept)
    result.graph.output.extend(ValueInfoProto(name=name) for name in ends)
    return result
