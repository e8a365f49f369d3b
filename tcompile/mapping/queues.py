"""How deep the queues behind a fork must be.

Branches of a fork that meet again take different times; the shorter one must hold what the longer one still needs.
The design's timing is run with queues of the shorter branches without end, and the places they really used are their
depth. Then they never hold anything up, and since streams are deterministic, a depth that lets one run finish lets every
run finish, under any stalls. Which branch is the longest is an estimate: where a run comes to a standstill, the queues
that are full then get room as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

import networkx as nx
import numpy as np

from hw.engine import Engine
from hw.fifo import Fifo
from hw.reorder import Reorder
from hw.window import Window
from tcompile.mapping.cycles import FRAMES, Transfers, cycles_of, transfers
from tcompile.mapping.design import Design, Instance

__all__ = ["queue_depths", "sized", "smoothing"]


def queue_depths(design: Design) -> dict[str, int]:
    """Places of every queue, by instance name; 2 at least."""
    return sized(design)[0]


def sized(design: Design) -> tuple[dict[str, int], Transfers]:
    """Places of every queue, and the run that needed them: queues of these depths give the same one."""
    endless = _shorter_branches(design)
    seen = transfers(design, FRAMES, endless)
    while endless and (full := _full(design, seen.streams, endless)):
        endless += full
        seen = transfers(design, FRAMES, endless)
    by_name = {i.name: i for i in design.instances}
    return {name: max(2, _held(by_name[name], seen)) for name in endless}, seen


def smoothing(design: Design, pace: int) -> dict[str, int]:
    """Places of all queues with which a frame goes through every `pace` cycles, or as fast as any queues make it.

    Inputs come evenly over a frame's time and queues have no end: what they hold then is what they need, since a run in
    which all beats come as early as they can is in no place later than that one.
    """
    queues = [i for i in design.instances if isinstance(i.block, Fifo)]
    while True:
        seen = transfers(design, FRAMES, [i.name for i in queues], pace)
        interval = cycles_of(design, seen).interval
        assert interval is not None
        if interval <= pace:
            return {i.name: _held(i, seen) for i in queues}
        pace = interval


def _held(queue: Instance, seen: Transfers) -> int:
    """Most beats that were in a queue at a time."""
    taken, given = seen.streams[queue.inputs[0]], seen.streams[queue.outputs[0]]
    free_again = np.searchsorted(given + 1, taken, side="right")
    return int((np.arange(len(taken)) - free_again).max(initial=-1)) + 1


def _full(design: Design, times: Mapping[str, np.ndarray], endless: list[str]) -> list[str]:
    """Queues that still held all they can at the end of a run; none after a run that came to its end."""
    found = []
    for instance in design.instances:
        block = instance.block
        if isinstance(block, Fifo) and instance.name not in endless:
            held = len(times[instance.inputs[0]]) - len(times[instance.outputs[0]])
            found += [instance.name] * (held >= block.depth)
    return found


def _shorter_branches(design: Design) -> list[str]:
    """Queues behind forks, but of each fork the one before the longest way: it needs no room."""
    graph = nx.DiGraph()
    consumers = {s: i.name for i in design.instances for s in i.inputs}
    by_name = {i.name: i for i in design.instances}
    graph.add_nodes_from(by_name)
    graph.add_edges_from((i.name, consumers[s]) for i in design.instances for s in i.outputs if s in consumers)
    way: dict[str, Fraction] = {}
    for name in reversed(list(nx.topological_sort(graph))):
        way[name] = _delay(design, by_name[name]) + max((way[n] for n in graph.successors(name)), default=Fraction(0))
    shorter = []
    for instance in design.instances:
        queues = [consumers[s] for s in instance.outputs if isinstance(by_name[consumers[s]].block, Fifo)]
        if len(queues) > 1:
            longest = max(queues, key=lambda n: way[n])
            shorter += [n for n in queues if n != longest]
    return shorter


def _delay(design: Design, instance: Instance) -> Fraction:
    """Frames that a block must have seen before its first output; a trifle for those that need one beat."""
    block = instance.block
    if isinstance(block, Reorder):
        return Fraction(block.beats, design.streams[instance.outputs[0]].beats)
    return Fraction(block.span, block.frame_words) if isinstance(block, (Engine, Window)) else Fraction(1, 10**6)
