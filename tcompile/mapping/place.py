"""Puts blocks in place, value by value: conversions where a consumer needs other beats, forks where there are several."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import singledispatchmethod
from itertools import takewhile
from math import gcd, prod
from typing import Any

from hw.add_scaled import AddScaled
from hw.adders import AdderGraph
from hw.argmax import ArgMax
from hw.axi_stream import AxisIn, AxisOut
from hw.block import Block
from hw.comparators import Comparators
from hw.concat import Concat
from hw.engine import Engine
from hw.fifo import Fifo
from hw.fork import Fork
from hw.pad import Pad
from hw.parallel import Parallel
from hw.quotient import Quotient
from hw.serial import Serial
from hw.slice import Slice
from hw.table import Table
from hw.width import Narrow, Widen
from hw.window import Window
from tcompile.ir import integer as I
from tcompile.ir.graph import Graph, IntType, Node
from tcompile.mapping.converters import (
    FORK_DEPTH,
    Step,
    brought,
    entering,
    first_layer,
    folded,
    holding,
    lanes_wanted,
    pooled,
)
from tcompile.mapping.cycles import alone
from tcompile.mapping.design import Design, Edge, Instance, Stream
from tcompile.mapping.folding import Fold
from tcompile.mapping.geometry import bus_of
from tcompile.mapping.graphs import graph_from_json, graph_to_json, input_bounds, offsets, window_geometry
from tcompile.mapping.layout import Layout, channels_last
from tcompile.mapping.layouts import canonical_axis, layouts, usual
from tcompile.mapping.linear import Linear, linear
from tcompile.mapping.requantize import is_identity, requantizer
from tcompile.mapping.schedule import engine_geometry, linear_engine, schedule

__all__ = ["LEAST_DEPTH", "Recipe", "between", "entrance", "place"]

QUEUE, ENTRANCE, RELAY = "queue", "entrance", "relay"
LEAST_DEPTH = 2  # places of a queue that takes a beat per cycle


@dataclass(frozen=True)
class Recipe:
    """All that a design depends on beside the network.

    Parameters
    ----------
    folds : mapping of str to Fold
        Lanes of every linear layer, by node.
    lanes : int
        Most elements per beat where no layer decides.
    pace : int
        Cycles per frame that the slowest layer takes; what has twice the time it needs may share hardware.
    depths : mapping of str to int
        Places of the queues behind forks and of those between layers, by instance name.
    graphs : mapping of str to AdderGraph
        Of the layers whose form is a graph, by node.
    relays : bool
        Whether each layer begins with a short queue, for a fast clock: no path then leads through the handshakes of several layers.
    """

    folds: Mapping[str, Fold]
    lanes: int = 8
    pace: int = 1
    depths: Mapping[str, int] = field(default_factory=dict)
    graphs: Mapping[str, AdderGraph] = field(default_factory=dict)
    relays: bool = False

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        folds = {name: asdict(fold) for name, fold in self.folds.items()}
        graphs = {name: graph_to_json(graph) for name, graph in self.graphs.items()}
        return {
            "folds": folds, "lanes": self.lanes, "pace": self.pace, "depths": dict(self.depths), "graphs": graphs,
            "relays": self.relays,
        }  # fmt: skip

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Recipe:
        """From a JSON object."""
        folds = {name: Fold(**fold) for name, fold in data["folds"].items()}
        graphs = {name: graph_from_json(graph) for name, graph in data["graphs"].items()}
        return cls(folds, data["lanes"], data["pace"], data["depths"], graphs, data.get("relays", False))


def between(value: str) -> str:
    """Name of the queue between what makes a value and the one that takes it."""
    return f"{value}_{QUEUE}".lower()


def entrance(layer: str) -> str:
    """Name of the queue of a layer whose input comes in fewer lanes than it takes: it holds beats that are widened already."""
    return f"{layer}_{ENTRANCE}".lower()


def relay(layer: str) -> str:
    """Name of the queue that a layer begins with, whose handshake ends in registers."""
    return f"{layer}_{RELAY}".lower()


def place(graph: Graph, recipe: Recipe) -> Design:
    """Make the design of a graph of the integer level."""
    placer = _Placer(graph, recipe)
    for node in graph:
        placer.put(node)
    return placer.design()


def _shape(node: Node) -> tuple[int, ...]:
    assert isinstance(node.type, IntType)
    return node.type.shape


class _Placer:
    def __init__(self, graph: Graph, recipe: Recipe) -> None:
        self.graph = graph
        self.recipe = recipe
        self.layouts = layouts(graph)
        self.instances: list[Instance] = []
        self.streams: dict[str, Stream] = {}
        self.waiting: dict[str, list[str]] = {}
        self.inputs: list[Edge] = []
        self.names: set[str] = set()
        self.opens = any(map(self.is_open, graph))

    def design(self) -> Design:
        """What was placed, with the ports of the outputs."""
        outputs = []
        for port, value in enumerate(self.graph.outputs):
            stream = self.take(value)
            self.add(AxisOut(stream.bus, stream.beats), [stream], self.graph[value], f"m_axis_{port}")
            outputs.append(Edge(port, stream.name, value, self.layouts[value]))
        return Design("tcompile_top", tuple(self.instances), self.streams, tuple(self.inputs), tuple(outputs))

    # --- streams -----------------------------------------------------------------------------------------------------

    def add(
        self,
        block: Block,
        inputs: Sequence[Stream],
        node: Node,
        role: str,
        beats: Sequence[int] = (),
        layout: Layout | None = None,
        memories: Mapping[str, tuple[int, ...]] | None = None,
    ) -> list[Stream]:
        """Put a block in place; its outputs carry the value of `node`."""
        base = f"{node.name}_{role}".lower()  # file systems may not tell cases apart
        name, count = base, 1
        while name in self.names:
            count += 1
            name = f"{base}_{count}"
        self.names.add(name)
        made = []
        for bus, number in zip(block.outputs, beats, strict=True):
            stream = Stream(f"s{len(self.streams)}", bus, node.name, number, layout)
            self.streams[stream.name] = stream
            made.append(stream)
        names = tuple(s.name for s in inputs)
        ends = names, tuple(s.name for s in made)
        self.instances.append(Instance(name, block, *ends, memories or {}, node.name, self.opens))
        return made

    def give(self, node: Node, stream: Stream) -> None:
        """The value of `node` is there; each of its uses gets a stream of its own."""
        uses = sum(user.inputs.count(node.name) for user in self.graph.consumers[node.name])
        uses += self.graph.outputs.count(node.name)
        streams = [stream]
        if uses > 1:
            layout = self.layouts[node.name]
            streams = self.add(Fork(stream.bus, uses), [stream], node, "fork", [stream.beats] * uses, layout)
            streams = [self.queue(node, s, k) for k, s in enumerate(streams)]
        self.waiting[node.name] = [s.name for s in streams]

    def queue(self, node: Node, stream: Stream, branch: int) -> Stream:
        """A queue for one branch of a fork."""
        role = f"branch{branch}"
        queue = self.add(Fifo(stream.bus, FORK_DEPTH), [stream], node, role, [stream.beats], stream.layout)[0]
        made = self.instances[-1]
        depth = self.recipe.depths.get(made.name, FORK_DEPTH)
        self.instances[-1] = replace(made, block=Fifo(stream.bus, depth))
        return queue

    def take(self, value: str, lanes: int | None = None, layout: Layout | None = None) -> Stream:
        """The stream of a value for one more use, in the lanes and in the order that are needed."""
        stream = self.streams[self.waiting[value].pop(0)]
        have, node = self.layouts[value], self.graph[value]
        depth = self.recipe.depths.get(between(value))
        if depth is not None:
            stream = self.add(Fifo(stream.bus, depth), [stream], node, QUEUE, [stream.beats], have)[0]
        return self.passed(stream, node, brought(stream.bus, have, layout, lanes))

    def passed(self, stream: Stream, node: Node, steps: Iterable[Step]) -> Stream:
        """The stream behind some steps."""
        for step in steps:
            block = self.gathering(step.block, stream) if isinstance(step.block, Widen) else step.block
            stream = self.add(block, [stream], node, step.role, [step.beats], step.layout, step.memories)[0]
        return stream

    def gathering(self, block: Widen, stream: Stream) -> Widen:
        """What gathers beats rests where that keeps up with the `Narrow` behind whose requantizer it stands.

        Either that rests as often, or it waits for an engine's results long enough.
        """
        maker, requantized = self.maker(stream.name), False
        while isinstance(maker.block, (Comparators, Quotient, Table)):
            maker, requantized = self.maker(maker.inputs[0]), True
        before = maker.block
        if not (requantized and isinstance(before, Narrow) and before.rests):
            return block
        most = max(before.pieces)
        often = before.channels == block.channels and len(block.pieces) <= len(before.pieces)
        long = self.run(self.maker(maker.inputs[0])) > most + most // min(block.pieces)
        return replace(block, rests=often or long)

    def wanted(self, value: str) -> int:
        """Lanes that the first layer behind an input takes."""
        layout, user = self.layouts[value], first_layer(self.graph, value)
        if not user:
            return min(self.recipe.lanes, layout.channels)
        node = self.graph[user]
        assert isinstance(node, (I.Conv, I.Dense))
        return lanes_wanted(linear(node, self.layouts[node.inputs[0]]), self.recipe.folds[user], layout)

    def type(self, value: str) -> IntType:
        """Type of a value."""
        kind = self.graph[value].type
        assert isinstance(kind, IntType)
        return kind

    # --- operations --------------------------------------------------------------------------------------------------

    @singledispatchmethod
    def put(self, node: Node) -> None:
        raise TypeError(f"{node.op} has no block")

    @put.register
    def _(self, node: I.Input) -> None:
        if not self.graph.consumers[node.name] and node.name not in self.graph.outputs:
            return
        layout, port = self.layouts[node.name], len(self.inputs)
        bus = bus_of(node.type, self.wanted(node.name))
        beats = layout.beats(bus.lanes)
        stream = self.add(AxisIn(bus, beats), [], node, f"s_axis_{port}", [beats], layout)[0]
        self.inputs.append(Edge(port, stream.name, node.name, layout))
        self.give(node, stream)

    @put.register(I.Conv)
    @put.register(I.Dense)
    def _(self, node: I.Conv | I.Dense) -> None:
        layer, fold = linear(node, self.layouts[node.inputs[0]]), self.recipe.folds[node.name]
        if fold.form != "engine":
            self.constant(node, layer, fold)
            return
        stream, plan = self.window(node, layer, fold), schedule(layer, fold, engine_geometry(layer, fold))
        block = linear_engine(
            layer, fold, stream.bus, bus_of(node.type, fold.pe),
            entries=len(plan.entries), shortest=plan.shortest, words=plan.words, tiles=plan.tiles_all,
        ).rounded()  # fmt: skip
        memories = {"schedule": block.schedule_words(plan.entries), "weights": block.weight_words(plan.tiles)}
        layout = self.layouts[node.name]
        stream = self.add(block, [stream], node, "engine", [layout.beats(fold.pe)], layout, memories)[0]
        rests = not self.is_open(node) and plan.shortest > fold.pe // fold.leaving
        self.give(node, self.passed(stream, node, folded(stream.bus, layout, fold.leaving, rests=rests)))

    def constant(self, node: I.Conv | I.Dense, layer: Linear, fold: Fold) -> None:
        """A linear layer as a graph of adders: whole windows in, all channels out, then in fewer lanes.

        What stands before and behind the graph rests where the layer alone then still keeps the network's pace, or its own: no
        path leads through the handshakes of blocks that do.
        """
        stream, geometry = self.window(node, layer, fold), window_geometry(layer, fold)
        positions, layout = prod(layer.out), self.layouts[node.name]
        window = Window(stream.bus, offsets(geometry), geometry.moves, geometry.frame)
        whole, out, graph = window.outputs[0], bus_of(node.type, layer.MH), self.recipe.graphs[node.name]
        block: Serial | Parallel
        if fold.form == "serial":
            block = Serial(whole, out, graph, fold.digit)
        else:
            block = Parallel(whole, out, graph, input_bounds(layer, self.type(node.inputs[0])), fold.spacing)

        def interval(window: Window, rests: bool) -> int:
            behind = folded(out, layout, fold.pe, rests=rests)
            return alone((window, block, *(step.block for step in behind)), stream.beats)

        pace = max(self.recipe.pace, interval(window, rests=False))
        resting = replace(window, rests=True)
        window = resting if interval(resting, rests=False) <= pace else window
        rests = interval(window, rests=True) <= pace
        stream = self.add(window, [stream], node, "window", [positions])[0]
        stream = self.add(block, [stream], node, fold.form, [positions], layout)[0]
        self.give(node, self.passed(stream, node, folded(stream.bus, layout, fold.pe, rests=rests)))

    def window(self, node: Node, layer: Linear, fold: Fold) -> Stream:
        """The input of a linear layer, padded and packed as its engine or its window reads it."""
        value = node.inputs[0]
        stream = self.take(value)
        steps = entering(layer, fold, stream.bus, self.type(value), self.layouts[value])
        whole = list(takewhile(lambda step: step.layout is not None, steps))  # still the value itself
        stream = self.passed(stream, self.graph[value], whole)
        depth = self.recipe.depths.get(entrance(node.name))
        if depth is not None and whole and isinstance(whole[-1].block, Widen):
            stream = self.add(Fifo(stream.bus, depth), [stream], node, ENTRANCE, [stream.beats])[0]
        if self.recipe.relays:
            depth = self.recipe.depths.get(relay(node.name), LEAST_DEPTH)
            stream = self.add(Fifo(stream.bus, depth), [stream], node, RELAY, [stream.beats])[0]
        return self.passed(stream, node, steps[len(whole) :])

    @put.register(I.MaxPool)
    @put.register(I.SumPool)
    def _(self, node: I.MaxPool | I.SumPool) -> None:
        source = self.type(node.inputs[0])
        stream = self.take(node.inputs[0], None, usual(source.shape))
        self.give(node, self.passed(stream, node, pooled(node, source, stream.bus)))

    @put.register
    def _(self, node: I.Requantize) -> None:
        if is_identity(node, self.type(node.inputs[0])):
            self.relabel(node)
            return
        stream, layout = self.take(node.inputs[0]), self.layouts[node.name]
        source = self.type(node.inputs[0])
        block, memories = requantizer(
            node, source, stream.bus, bus_of(node.type, stream.bus.lanes), layout, self.leisure(stream)
        )
        self.give(node, self.add(block, [stream], node, "requantize", [stream.beats], layout, memories)[0])

    def leisure(self, stream: Stream) -> int:
        """Cycles that each beat of a stream may take without holding anything up."""
        maker, parts = self.maker(stream.name), 1
        if isinstance(maker.block, Narrow):
            parts, maker = maker.block.bus.lanes // maker.block.lanes, self.maker(maker.inputs[0])
        return max(1, self.run(maker) // parts, self.recipe.pace // (2 * stream.beats))

    def run(self, maker: Instance) -> int:
        """Fewest cycles between results of an engine whose schedule is known; 1 of what is none."""
        if isinstance(maker.block, Engine) and not self.is_open(self.graph[maker.layer]):
            return min(maker.block.row_blocks(maker.memories["schedule"]))
        return 1

    def is_open(self, node: Node) -> bool:
        """Whether other weights may be loaded into a layer: its schedule then tells nothing."""
        return isinstance(node, (I.Conv, I.Dense)) and node.bits > 0

    def maker(self, stream: str) -> Instance:
        """The instance that gives a stream."""
        return next(i for i in self.instances if stream in i.outputs)

    @put.register(I.Reshape)
    @put.register(I.Transpose)
    def relabel(self, node: Node) -> None:
        """The same stream under another name."""
        self.give(node, self.take(node.inputs[0]))

    @put.register
    def _(self, node: I.AddScaled) -> None:
        layout = self.layouts[node.name]
        first = self.take(node.inputs[0])
        second = self.take(node.inputs[1], first.bus.lanes, layout)
        block = AddScaled(first.bus, second.bus, bus_of(node.type, first.bus.lanes), node.factors)
        self.give(node, self.add(block, [first, second], node, "add", [first.beats], layout)[0])

    @put.register
    def _(self, node: I.Concat) -> None:
        layout, parts = self.layouts[node.name], [self.type(i).shape for i in node.inputs]
        axis = canonical_axis(layout)
        assert axis is not None
        along = node.axis % len(layout.shape)
        streams = [self.take(i, None, channels_last(p, axis)) for i, p in zip(node.inputs, parts, strict=True)]
        lanes = gcd(*(s.bus.lanes for s in streams))
        if along == axis:
            lanes = gcd(lanes, *(p[axis] for p in parts[:-1]))
        streams = [
            self.passed(s, self.graph[i], folded(s.bus, channels_last(p, axis), lanes))
            for s, i, p in zip(streams, node.inputs, parts, strict=True)
        ]
        outer = (
            prod(n for k, n in enumerate(layout.shape) if k < along and k != axis)
            if along != axis
            else layout.positions
        )
        buses = tuple(s.bus for s in streams)
        block = Concat(buses, holding(bus_of(node.type, lanes), *buses), tuple(s.beats // outer for s in streams))
        self.give(node, self.add(block, streams, node, "concat", [layout.beats(lanes)], layout)[0])

    @put.register
    def _(self, node: I.Slice) -> None:
        source, sizes = self.type(node.inputs[0]).shape, _shape(node)
        axis = self.axis(node)
        given = channels_last(source, axis)
        starts = [s if d > 0 else s + d * (n - 1) for s, d, n in zip(node.starts, node.steps, sizes, strict=True)]
        steps = [abs(d) for d in node.steps]
        stream = self.take(node.inputs[0], None, given)
        end = starts[axis] + sizes[axis]
        lanes = 1 if steps[axis] > 1 else gcd(stream.bus.lanes, starts[axis], sizes[axis] if end < source[axis] else 0)
        stream = self.passed(stream, self.graph[node.inputs[0]], folded(stream.bus, given, lanes))
        axes = [k for k in range(1, len(source)) if k != axis]
        block = Slice(
            stream.bus,
            (*(source[k] for k in axes), -(-source[axis] // lanes)),
            (*(starts[k] for k in axes), starts[axis] // lanes),
            (*(steps[k] for k in axes), steps[axis]),
            (*(sizes[k] for k in axes), -(-sizes[axis] // lanes)),
        )
        layout = self.layouts[node.name]
        self.give(node, self.add(block, [stream], node, "slice", [layout.beats(lanes)], layout)[0])

    @put.register
    def _(self, node: I.Pad) -> None:
        source = self.type(node.inputs[0])
        axis, rank = self.axis(node), len(source.shape)
        given, layout = channels_last(source.shape, axis), self.layouts[node.name]
        first, last = node.pads[axis], node.pads[rank + axis]
        stream = self.take(node.inputs[0], None, given)
        if first or last:
            lanes = gcd(stream.bus.lanes, first, given.channels if last else 0)
            stream = self.passed(stream, self.graph[node.inputs[0]], folded(stream.bus, given, lanes))
        lanes = stream.bus.lanes
        axes = [k for k in range(1, rank) if k != axis]
        outer = (*(layout.shape[k] for k in axes), -(-layout.channels // lanes))
        inner = (*(source.shape[k] for k in axes), -(-given.channels // lanes))
        before = (*(node.pads[k] for k in axes), first // lanes)
        block = Pad(stream.bus, holding(bus_of(node.type, lanes), stream.bus), outer, before, inner, node.code)
        self.give(node, self.add(block, [stream], node, "pad", [prod(outer)], layout)[0])

    def axis(self, node: Node) -> int:
        """Channel axis of what a slice or a pad gives."""
        axis = canonical_axis(self.layouts[node.inputs[0]])
        return min(1, len(_shape(node)) - 1) if axis is None else axis

    @put.register
    def _(self, node: I.ArgMax) -> None:
        source = self.type(node.inputs[0])
        needs = channels_last(source.shape, node.axis)
        stream = self.take(node.inputs[0], None, needs)
        block = ArgMax(stream.bus, bus_of(node.type, 1), needs.channels)
        layout = self.layouts[node.name]
        self.give(node, self.add(block, [stream], node, "argmax", [layout.positions], layout)[0])
