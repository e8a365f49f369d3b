"""Every layer of a large network by itself in Verilator, on a crop of a frame: its own weights, folding and requantizer.

A whole frame of a large network takes millions of cycles of a large design. A layer taken out of it takes the same
entries of the same schedule at every position, so that a few positions, borders among them, show what all of them do.
The layers become one design with as many ports, placed and written as any other; what comes out is compared with the
interpreter, and inside the crop with what the layer gives in the whole frame.

``python -m benchmarks.crops DIRECTORY`` does this for a build directory.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import numpy as np

from hw.engine import Engine
from tcompile.bundle import Bundle
from tcompile.directory import read_build
from tcompile.emit import emit
from tcompile.ir import integer as I
from tcompile.ir.graph import Graph, Node
from tcompile.ir.interpret import interpret
from tcompile.mapping.cycles import predict
from tcompile.mapping.design import Design, Edge
from tcompile.mapping.place import Recipe, place
from tcompile.mapping.plan import lanes_come_from
from tcompile.simulate.verilator import Simulation

__all__ = ["Crop", "Found", "crops", "frame_of", "joined", "same_hardware", "simulated"]

Values = Mapping[str, np.ndarray]
Windowed = (I.Conv, I.MaxPool, I.SumPool)
TOGETHER = 6  # layers in one design: a larger one takes longer for every cycle
PATIENCE = 4  # times the predicted cycles


@dataclass(frozen=True, eq=False)
class Crop:
    """A layer over a part of a frame.

    Parameters
    ----------
    nodes : tuple of Node
        Inputs, the layer, and the requantizer behind it; named as in the network.
    feeds : mapping of str to ndarray
        Codes (1, *shape) of the inputs.
    inside : tuple of slice
        Places of the result that padding does not reach, of all its axes and of the frame's.
    wanted : ndarray
        What they hold in the whole frame.
    positions : tuple of int
        Of the result, in the crop and in the frame.
    maker : str
        The layer whose lanes come in, where the whole network's input does not.
    """

    nodes: tuple[Node, ...]
    feeds: Values
    inside: tuple[slice, ...]
    wanted: np.ndarray
    positions: tuple[int, int]
    maker: str

    @property
    def name(self) -> str:
        """Of the layer."""
        return next(n.name for n in self.nodes if not isinstance(n, I.Input))

    @property
    def graph(self) -> Graph:
        """The layer as a network."""
        return Graph("integer", self.nodes, (self.nodes[-1].name,))

    def design(self, recipe: Recipe) -> Design:
        """Its hardware, with the folding and as much time for each beat as in the whole network."""
        here, whole = self.positions
        folds = {n: fold for n, fold in recipe.folds.items() if n == self.name}
        graphs = {n: graph for n, graph in recipe.graphs.items() if n == self.name}
        lanes = recipe.folds[self.maker].leaving if self.maker in recipe.folds else recipe.lanes
        return place(self.graph, Recipe(folds, lanes, recipe.pace * here // whole, graphs=graphs))

    def result(self) -> np.ndarray:
        """What the interpreter makes of it, which is checked where padding does not reach."""
        found = interpret(self.graph, self.feeds)[self.graph.outputs[0]]
        if not np.array_equal(found[(slice(None), *self.inside)], self.wanted):
            raise AssertionError(f"{self.name} must give the same inside a crop as in the whole frame")
        return found


@dataclass(frozen=True, eq=False)
class Found:
    """What a simulation of some crops found; mismatches by layer."""

    mismatches: Mapping[str, int]
    integers: Mapping[str, int]
    ends: tuple[int, ...]
    predicted: tuple[int, ...]
    faults: tuple[str, ...]
    seconds: float

    @property
    def good(self) -> bool:
        """Whether all integers are right, and there are some."""
        return not self.faults and not any(self.mismatches.values()) and all(self.integers.values())


def frame_of(graph: Graph, seed: int = 0) -> Values:
    """All values of a network for one frame of random codes."""
    random = np.random.default_rng(seed)
    codes = {
        n.name: random.integers(n.type.lo, n.type.hi, (1, *n.type.shape), endpoint=True) for n in graph.all(I.Input)
    }
    return {**codes, **interpret(graph, codes, keep=lambda n: True)}


def crops(graph: Graph, frame: Values) -> Iterator[Crop]:
    """A crop of every layer, pool and addition."""
    for node in graph:
        if isinstance(node, (*Windowed, I.AddScaled, I.Dense)):
            yield _crop(graph, frame, node)


def _crop(graph: Graph, frame: Values, node: I.IntNode) -> Crop:
    users = graph.consumers[node.name]
    behind = users[:1] if len(users) == 1 and isinstance(users[0], I.Requantize) else ()
    sources = [graph[i] for i in node.inputs]
    at, sizes, inside, there = _places(node, sources[0])
    inputs = [
        I.Input(name=f"{node.name}_in{k}", type=replace(s.type, shape=sizes), origin=s.origin)
        for k, s in enumerate(sources)
    ]
    shape = _out(node, sizes)
    layer = replace(node, inputs=tuple(i.name for i in inputs), type=replace(node.type, shape=shape))
    last = [replace(b, type=replace(b.type, shape=shape)) for b in behind]
    feeds = {i.name: frame[s][(slice(None), *at)] for i, s in zip(inputs, node.inputs, strict=True)}
    value = (*behind, node)[0].name
    positions = prod(shape[2:]), prod(node.type.shape[2:])
    wanted, maker = frame[value][(slice(None), *there)], node.inputs[0]
    while lanes_come_from(graph[maker]):
        maker = lanes_come_from(graph[maker])
    return Crop((*inputs, layer, *last), feeds, inside, wanted, positions, maker)


def _places(
    node: I.IntNode, source: Node
) -> tuple[tuple[slice, ...], tuple[int, ...], tuple[slice, ...], tuple[slice, ...]]:
    """Of the input what is cut out and its sizes; of the result what padding does not reach, in the crop and in the frame."""
    shape = source.type.shape
    everything = (slice(None),) * len(shape)
    if isinstance(node, I.Dense):
        return everything, shape, everything, everything
    axes = [_axis(node, k, n) for k, n in enumerate(shape[2:])]
    cut, inside, there = ((*everything[:2], *part) for part in zip(*axes, strict=True))
    sizes = (*shape[:2], *(s.stop - s.start for s in cut[2:]))
    return cut, sizes, inside, there


def _axis(node: I.IntNode, k: int, n: int) -> tuple[slice, slice, slice]:
    """Along one axis: a window and a step in the middle of the frame, all of a frame that is no larger."""
    reach, stride, before = 1, 1, 0
    if isinstance(node, Windowed):
        kernel = node.weight.shape[2:] if isinstance(node, I.Conv) else node.kernel
        reach, stride, before = (kernel[k] - 1) * node.dilations[k] + 1, node.strides[k], node.pads[k]
    size = min(n, reach + stride)
    start = (n - size) // 2 // stride * stride
    low = -(-before // stride) if start else 0
    high = (size - reach + before) // stride + 1
    return slice(start, start + size), slice(low, high), slice(low + start // stride, high + start // stride)


def _out(node: I.IntNode, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of the result over a grid of other sizes."""
    if isinstance(node, I.Dense):
        return node.type.shape
    if not isinstance(node, Windowed):
        return shape
    rank = len(node.strides)
    kernel = node.weight.shape[2:] if isinstance(node, I.Conv) else node.kernel
    grid = (
        (n + node.pads[k] + node.pads[rank + k] - (kernel[k] - 1) * node.dilations[k] - 1) // node.strides[k] + 1
        for k, n in enumerate(shape[2:])
    )
    return (*node.type.shape[:2], *grid)


def joined(designs: Sequence[Design]) -> Design:
    """Designs side by side, with the ports of all of them."""
    instances, streams, ends = [], {}, ([], [])
    for design in designs:
        names = {name: f"s{len(streams) + k}" for k, name in enumerate(design.streams)}
        streams |= {names[n]: replace(s, name=names[n]) for n, s in design.streams.items()}
        for i in design.instances:
            sides = (tuple(names[s] for s in side) for side in (i.inputs, i.outputs))
            instances.append(replace(i, **dict(zip(("inputs", "outputs"), sides, strict=True))))
        for known, edges in zip(ends, (design.inputs, design.outputs), strict=True):
            known += [replace(e, port=k, stream=names[e.stream]) for k, e in enumerate(edges, start=len(known))]
    return Design("tcompile_top", tuple(instances), streams, *map(tuple, ends))


def simulated(parts: Sequence[Crop], recipe: Recipe, folder: Path, stall: int | None = None) -> Found:
    """Simulate crops side by side in Verilator.

    Parameters
    ----------
    folder : Path
        Where the Verilog goes; must not exist.
    stall : int, optional
        Seed of random pauses at all ports.
    """
    design = joined([part.design(recipe) for part in parts])
    wanted = {part.graph.outputs[0]: part.result() for part in parts}
    feeds = {name: codes for part in parts for name, codes in part.feeds.items()}
    golden = {f"s_axis_{e.port}": feeds[e.value] for e in design.inputs}
    golden |= {f"m_axis_{e.port}": wanted[e.value] for e in design.outputs}
    predicted = predict(design, 1)
    Bundle(emit(design, golden, patience=PATIENCE * predicted.ends[-1])).write(folder)
    beats = [e.layout.to_beats(feeds[e.value], design.streams[e.stream].bus) for e in design.inputs]
    with Simulation(folder) as simulation:
        run = simulation.run(beats, stall=stall)
    faults = (*run.faults, *(f"{stream} is {how}" for stream, how in run.standstill.items()))
    wrong = {
        e.value: _wrong(design, e, beats, wanted[e.value]) for e, beats in zip(design.outputs, run.outputs, strict=True)
    }
    outputs = {part.graph.outputs[0]: part.name for part in parts}
    return Found(
        {outputs[value]: count for value, count in wrong.items()},
        {outputs[value]: wanted[value].size for value in wrong},
        run.ends, predicted.ends, faults, run.seconds,
    )  # fmt: skip


def _wrong(design: Design, edge: Edge, beats: np.ndarray, wanted: np.ndarray) -> int:
    """Integers of an output that are not as they must be; all of them after a standstill."""
    stream = design.streams[edge.stream]
    if len(beats) != stream.beats:
        return wanted.size
    return int((edge.layout.from_beats(beats, stream.bus) != wanted).sum())


def same_hardware(part: Crop, recipe: Recipe, whole: Design) -> bool:
    """Whether weights, lanes and requantizers are those of the whole network; rings and schedules follow the grid."""
    known = {i.name: i for i in whole.instances}
    pairs = [(i, known[i.name]) for i in part.design(recipe).instances if i.name in known]
    engines = [(a, b) for a, b in pairs if isinstance(a.block, Engine) and isinstance(b.block, Engine)]
    steps = [(a, b) for a, b in pairs if a.name.endswith("_requantize")]
    return (
        all(a.block.lanes == b.block.lanes for a, b in engines)
        and all(a.memories.get("weights") == b.memories.get("weights") for a, b in engines)
        and all((a.block, a.memories) == (b.block, b.memories) for a, b in steps)
    )


def main() -> int:
    """Print a line for each layer."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path, help="build directory")
    parser.add_argument("--together", type=int, default=TOGETHER, help="layers in one simulation")
    parser.add_argument("--stall", type=int, help="seed of random pauses at all ports")
    options = parser.parse_args()
    built = read_build(options.directory)
    graph, whole = built.network.graph, built.design()
    parts, good = list(crops(graph, frame_of(graph))), True
    for first in range(0, len(parts), options.together):
        some = parts[first : first + options.together]
        same = {part.name: same_hardware(part, built.recipe, whole) for part in some}
        with tempfile.TemporaryDirectory(prefix="tcompile-") as folder:
            found = simulated(some, built.recipe, Path(folder) / "build", options.stall)
        on_time = options.stall is not None or found.ends == found.predicted
        for name, wrong in found.mismatches.items():
            hardware = "hardware as in the network" if same[name] else "OTHER HARDWARE"
            print(f"{name:12} {wrong} mismatches in {found.integers[name]} integers, {hardware}")
        print(
            f"  together {found.ends} cycles, predicted {found.predicted}; {found.seconds:.0f} s",
            *found.faults,
            flush=True,
        )
        good = good and found.good and on_time and all(same.values())
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
