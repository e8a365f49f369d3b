"""Quantizers behind pieces that are put together: each piece gets its own, so that all pieces are codes of one tensor.

What stands behind a ``Concat`` along positions may divide its pieces differently (`tcompile.frontend.decompose`: averages
over windows that the border cuts); no integer stands for all of them alike before the quantizer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tcompile.ir import real as R
from tcompile.ir.graph import Graph, Origin, TensorType, identifier

__all__ = ["parted"]

CHANNELS = 1  # axis along which pieces may differ anyway


def parted(graph: Graph) -> Graph:
    """The graph with elementwise chains that end in codes moved from behind a ``Concat`` along positions into its pieces."""
    for node in graph:
        if isinstance(node, R.Concat) and node.axis % len(node.type.shape) > CHANNELS and _pieces_differ(graph, node):
            chain = _chain(graph, node)
            if chain:
                return parted(_moved(graph, node, chain))
    return graph


def _pieces_differ(graph: Graph, node: R.Concat) -> bool:
    """Whether a piece is an average, or put together of some."""
    return any(isinstance(graph[i], R.AveragePool | R.Concat) for i in node.uses) and not node.type.is_integer


def _chain(graph: Graph, node: R.Concat) -> tuple[R.RealNode, ...]:
    """Operations behind a value up to the first that gives codes; empty if they are not each other's only users."""
    chain: list[R.RealNode] = []
    at: R.RealNode = node
    while True:
        users = graph.consumers[at.name]
        if len(users) != 1 or at.name in graph.outputs:
            return ()
        (user,) = users
        if isinstance(user, R.Concat) and not chain:  # pieces of pieces: the outer one is seen first
            return ()
        if not isinstance(user, R.Elementwise) or not all(_spreads(graph, i, at.name) for i in user.uses):
            return ()
        chain.append(user)
        if user.type.is_integer:
            return tuple(chain)
        at = user


def _spreads(graph: Graph, value: str, moving: str) -> bool:
    """Whether an operand is the moving one, or a constant that is the same for all positions."""
    node = graph[value]
    if value == moving:
        return True
    return isinstance(node, R.Const) and node.value.array.size == 1


def _moved(graph: Graph, node: R.Concat, chain: tuple[R.RealNode, ...]) -> Graph:
    taken = {n.name for n in graph}
    last, inside = chain[-1], {n.name for n in chain}
    nodes: list[R.RealNode] = []
    for old in graph:
        assert isinstance(old, R.RealNode)
        if old.name == last.name:
            nodes += _put_together(graph, node, chain, taken)
        elif old.name != node.name and old.name not in inside:
            nodes.append(old)
    return graph.with_nodes(nodes)


def _put_together(graph: Graph, node: R.Concat, chain: tuple[R.RealNode, ...], taken: set[str]) -> Iterator[R.RealNode]:
    pieces = []
    for piece in node.inputs:
        at, kind = piece, graph[piece].type
        assert isinstance(kind, TensorType)
        before = node.name
        for step in chain:
            name = identifier(step.name, taken)
            inputs = tuple(at if i == before else i for i in step.inputs)
            made = TensorType(step.type.dtype, kind.shape)
            yield replace(step, name=name, inputs=inputs, type=made, origin=Origin(step.origin.nodes))
            at, before = name, step.name
        pieces.append(at)
    yield replace(node, name=chain[-1].name, inputs=tuple(pieces), type=chain[-1].type, origin=chain[-1].origin)
