"""What the two adder graphs have in common: a constant matrix times a vector, whole window in, all rows out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from hw.adders import AdderGraph
from hw.block import Beats, Block, Bus, Words
from hw.elastic import elastic
from hw.timing import Channel, Program

__all__ = ["ConstantMatrix", "Node"]


@dataclass(frozen=True, slots=True)
class Node:
    """One adder of hardware: ``(left << left_shift) ± (right << right_shift)``; 0 for `left` where it is None."""

    level: int
    left: int | None
    left_shift: int
    right: int
    right_shift: int
    subtract: bool


@dataclass(frozen=True)
class ConstantMatrix(Block):
    """Base of `hw.parallel.Parallel` and `hw.serial.Serial`.

    Parameters
    ----------
    i : Bus
        The vector; a lane for each column.
    o : Bus
        A lane for each row, wide enough for every result that comes.
    graph : AdderGraph
        The matrix.
    """

    i: Bus
    o: Bus
    graph: AdderGraph

    def __post_init__(self) -> None:
        if self.i.lanes != self.graph.inputs or self.o.lanes != len(self.graph.outputs):
            raise ValueError(
                f"a matrix of {len(self.graph.outputs)} x {self.graph.inputs} takes and gives as many lanes, "
                f"not {self.i.lanes} and {self.o.lanes}"
            )
        if any(k not in self.graph.used for k in range(self.graph.inputs, self.graph.inputs + len(self.graph.adders))):
            raise ValueError("an adder that no output needs must be taken out first, by AdderGraph.trimmed")

    @property
    def inputs(self) -> tuple[Bus, ...]:
        return (self.i,)

    @property
    def outputs(self) -> tuple[Bus, ...]:
        return (self.o,)

    @property
    @abstractmethod
    def interval(self) -> int:
        """Cycles from vector to vector."""

    @property
    @abstractmethod
    def ticks(self) -> int:
        """Cycles from the start of a vector until its result is offered."""

    @property
    def digits(self) -> int:
        """Ticks in which a vector is read, of which it is taken in the last."""
        return 1

    @property
    def latency(self) -> int:
        """From the cycle in which the first digit is read; of words of one digit, which are taken in it, from the transfer."""
        return self.ticks + 1

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """The adders, and after them one for each value that an output needs negated."""
        graph = self.graph
        nodes = [
            Node(level, a.left, a.left_shift, a.right, a.right_shift, a.subtract)
            for a, level in zip(graph.adders, graph.levels[graph.inputs :], strict=True)
        ]
        return (*nodes, *(Node(graph.levels[v] + 1, None, 0, v, 0, True) for v in self._negated))

    @cached_property
    def _negated(self) -> tuple[int, ...]:
        """Values that an output needs negated."""
        return tuple(dict.fromkeys(o.value for o in self.graph.outputs if o.negative and o.value is not None))

    @cached_property
    def rows(self) -> tuple[tuple[int, int] | None, ...]:
        """For each output the number of its value, negations counted, and its shift; None where it is 0."""
        graph = self.graph
        place = {v: k for k, v in enumerate(self._negated, start=graph.inputs + len(graph.adders))}
        return tuple(
            None if o.value is None else (place[o.value] if o.negative else o.value, o.shift) for o in graph.outputs
        )

    def level(self, value: int) -> int:
        """Adders on the longest way from an input to a value."""
        return self.nodes[value - self.graph.inputs].level if value >= self.graph.inputs else 0

    @cached_property
    def depth(self) -> int:
        """Levels of adders up to the last output."""
        return max((self.level(row[0]) for row in self.rows if row is not None), default=0)

    def model(self, inputs: Sequence[Beats], memories: Mapping[str, Words]) -> tuple[Beats, ...]:
        return (self.graph.evaluate(inputs[0]),)

    def processes(self, i: Sequence[Channel], o: Sequence[Channel]) -> Iterable[Program]:
        return elastic(i[0], o[0], self.interval, self.ticks, self.digits)
