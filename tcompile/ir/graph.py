"""What both levels of the IR share: tensors, types, origins, nodes, graphs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from typing import ClassVar, Literal, TypeVar

import numpy as np

__all__ = ["Graph", "IntType", "Level", "Node", "Origin", "Tensor", "TensorType", "Type", "identifier"]

Level = Literal["real", "integer"]
NARROW = {"int2": np.int8, "uint2": np.uint8, "int4": np.int8, "uint4": np.uint8}


@dataclass(frozen=True)
class Origin:
    """Where a value comes from in the ONNX file.

    Parameters
    ----------
    nodes : tuple of (name, op_type)
        ONNX nodes, untrusted names; more than one where a pass merged nodes.
    tensor : str
        ONNX tensor that carries the value; empty if the file has none.
    """

    nodes: tuple[tuple[str, str], ...] = ()
    tensor: str = ""

    def __add__(self, other: Origin) -> Origin:
        """Join two origins, keeping the last tensor."""
        new = tuple(n for n in other.nodes if n not in self.nodes)
        return Origin(self.nodes + new, other.tensor or self.tensor)

    @property
    def names(self) -> tuple[str, ...]:
        """ONNX node names."""
        return tuple(name for name, _ in self.nodes)


@dataclass(frozen=True, eq=False)
class Tensor:
    """An immutable array with its ONNX element type.

    ``int2``, ``uint2``, ``int4`` and ``uint4`` are held one per byte.
    """

    array: np.ndarray
    dtype: str

    def __post_init__(self) -> None:
        array = np.array(self.array, order="C")
        array.setflags(write=False)
        object.__setattr__(self, "array", array)

    @classmethod
    def of(cls, array: np.ndarray, dtype: str | None = None) -> Tensor:
        """Wrap an array; `dtype` only where it differs from the array's own."""
        array = np.asarray(array)
        return cls(array, dtype or str(array.dtype))

    @property
    def shape(self) -> tuple[int, ...]:
        """Dimensions."""
        return tuple(int(d) for d in self.array.shape)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Tensor)
            and self.dtype == other.dtype
            and self.shape == other.shape
            and self.array.tobytes() == other.array.tobytes()
        )

    def __hash__(self) -> int:
        return hash((self.dtype, self.shape, self.array.tobytes()))


@dataclass(frozen=True)
class TensorType:
    """Element type and shape of a value at the real-number level."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def is_integer(self) -> bool:
        """Whether the elements are ONNX integers, that is, codes."""
        return self.dtype.lstrip("u").startswith("int")


@dataclass(frozen=True)
class IntType:
    """Shape of a value at the integer level and the interval that its elements never leave."""

    shape: tuple[int, ...]
    lo: int
    hi: int

    @property
    def signed(self) -> bool:
        """Whether a sign bit is needed."""
        return self.lo < 0

    @property
    def width(self) -> int:
        """Bits that hold every value of the interval (two's complement where signed)."""
        if self.signed:
            return max((-self.lo - 1).bit_length(), self.hi.bit_length() if self.hi > 0 else 0) + 1
        return max(1, self.hi.bit_length())


Type = TensorType | IntType


@dataclass(frozen=True, kw_only=True)
class Node:
    """One operation and the single value that it defines.

    Parameters
    ----------
    name : str
        The value, unique in the graph, a plain identifier.
    inputs : tuple of str
        Values used; an empty name is an optional input left out.
    type : TensorType or IntType
        Type of the value.
    origin : Origin
        Where it comes from in the ONNX file.
    """

    level: ClassVar[Level]
    name: str
    inputs: tuple[str, ...] = ()
    type: Type
    origin: Origin = field(default=Origin(), compare=False)

    @property
    def op(self) -> str:
        """Name of the operation."""
        return type(self).__name__

    @property
    def uses(self) -> tuple[str, ...]:
        """Inputs that are present."""
        return tuple(i for i in self.inputs if i)


N = TypeVar("N", bound=Node)


@dataclass(frozen=True)
class Graph:
    """Nodes in topological order, and which of their values are the outputs."""

    level: Level
    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]
    name: str = "network"

    @cached_property
    def by_name(self) -> Mapping[str, Node]:
        """Nodes by the value they define."""
        return {node.name: node for node in self.nodes}

    @cached_property
    def consumers(self) -> Mapping[str, tuple[Node, ...]]:
        """For each value the nodes that use it, in order."""
        table: dict[str, list[Node]] = {node.name: [] for node in self.nodes}
        for node in self.nodes:
            for value in dict.fromkeys(node.uses):
                table[value].append(node)
        return {value: tuple(nodes) for value, nodes in table.items()}

    def __getitem__(self, value: str) -> Node:
        return self.by_name[value]

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def all(self, kind: type[N]) -> tuple[N, ...]:
        """Nodes of one kind in order."""
        return tuple(node for node in self.nodes if isinstance(node, kind))

    def with_nodes(self, nodes: Iterable[Node], outputs: tuple[str, ...] | None = None) -> Graph:
        """The graph with other nodes; those that no output needs are dropped."""
        nodes = tuple(nodes)
        outputs = self.outputs if outputs is None else outputs
        table = {node.name: node for node in nodes}
        needed: set[str] = set()
        stack = list(outputs)
        while stack:
            value = stack.pop()
            if value not in needed:
                needed.add(value)
                stack.extend(table[value].uses)
        return replace(self, nodes=tuple(n for n in nodes if n.name in needed or n.op == "Input"), outputs=outputs)


def identifier(text: str, taken: set[str]) -> str:
    """A plain identifier made from an untrusted name, unique among `taken` (which it joins)."""
    plain = "".join(c if c.isascii() and c.isalnum() else "_" for c in text[:40]).strip("_") or "v"
    if plain[0].isdigit():
        plain = "v" + plain
    name, count = plain, 1
    while name in taken:
        count += 1
        name = f"{plain}_{count}"
    taken.add(name)
    return name


def elements(shape: tuple[int, ...]) -> int:
    """Number of elements."""
    return prod(shape)
