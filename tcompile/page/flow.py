"""The picture of the pipeline: a box for each port and layer, one below the other, and the wires between them.

What goes to the next box is an arrow between the two. All else runs in lanes to the left of the boxes: one for each value
from the box that gives it to the last one that takes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tcompile.page.cells import NONE, Cell, Row, cut, cycles_of, figure, pair, rows_of, share, visible, word
from tcompile.page.facts import interval
from tcompile.page.stages import Stage

__all__ = ["Box", "Flow", "Wire", "flow"]

NAME = 40  # columns of a name
PITCH, WIDEST = 16, 240  # pixels from lane to lane, and of all lanes


@dataclass(frozen=True)
class Wire:
    """A piece of a lane, `x` pixels from the left: it passes a box, leaves it, joins it and goes on, or ends there."""

    x: float
    kind: Literal["pass", "leave", "join", "end"]


@dataclass(frozen=True)
class Box:
    """A port or a layer.

    Parameters
    ----------
    kind : str
        Of its stage.
    does : str
        What it computes, in which form.
    origin : str
        ONNX nodes.
    sources : str
        What comes in, in words.
    apart : bool
        Whether that is not just the box above.
    follows : bool
        Whether an arrow comes from the box above.
    bits, shape : str
        Of the codes that come, of sums, of the codes that leave; of the value that leaves.
    matrix, lanes, size, weights : str
        Of layers with weights.
    cycles : Cell or None
        Per frame; None where a layer has no work of its own.
    load : float
        Share of the interval in which it works, at most 1.
    """

    name: Cell
    kind: str
    does: str
    origin: str
    sources: str
    apart: bool
    follows: bool
    wires: tuple[Wire, ...]
    bits: str
    shape: str
    weights: str = ""
    matrix: str = ""
    lanes: str = ""
    size: str = ""
    cycles: Cell | None = None
    load: float = 0.0
    percent: str = ""
    bottleneck: bool = False


@dataclass(frozen=True)
class Flow:
    """All boxes in the order of computation, beside lanes for wires of `room` pixels."""

    label: str
    room: float
    boxes: tuple[Box, ...]


def flow(report: Row, stages: Sequence[Stage]) -> Flow:
    """The picture of a report.

    Parameters
    ----------
    stages : sequence of Stage
        The layers of the report among ports; empty where the network is not at hand: boxes are then without wires.

    Raises
    ------
    ValueError
        They are other layers.
    """
    layers = rows_of(report, "layers")
    names = [s.name for s in stages if s.kind == "layer"]
    if stages and names != [r.get("name") for r in layers]:
        raise ValueError("the layers of report.json are not those of network.ir")
    listed = tuple(stages) or tuple(Stage(str(r.get("name")), "layer") for r in layers)
    ports = {p.get("name"): p for p in rows_of(report, "ports")}
    rows = iter(layers)
    given = [next(rows) if s.kind == "layer" else ports.get(s.name, {"name": s.name}) for s in listed]
    slowest = max((c for c in map(cycles_of, layers) if c is not None), default=None)
    wires, room = _wires(listed)
    boxes = tuple(_box(listed, k, row, wires[k], slowest, interval(report)) for k, row in enumerate(given))
    late = ", ".join(b.name.full or b.name.text for b in boxes if b.bottleneck)
    return Flow(f"{len(layers)} layers in the order of computation" + (f"; bottleneck: {late}" if late else ""), room, boxes)  # fmt: skip


def _box(listed: Sequence[Stage], k: int, row: Row, wires: tuple[Wire, ...], slowest: Any, period: Any) -> Box:
    stage, cycles = listed[k], cycles_of(row)
    above = (k - 1,) if k else ()
    return Box(
        name=cut(word(row.get("name")), NAME),
        kind=stage.kind,
        does=_does(stage, row),
        origin=", ".join(visible(str(n)) for n in row.get("onnx_nodes") or ()),
        sources=" and ".join(visible(listed[s].name) for s in stage.sources),
        apart=stage.sources not in (above, ()),
        follows=k > 0 and k - 1 in stage.sources,
        wires=wires,
        bits=_bits(stage),
        shape=" × ".join(map(str, stage.shape)),
        weights="" if stage.bits_weight is None else f"{stage.bits_weight}-bit weights",
        matrix=pair(row, "MH", "MW"),
        lanes=pair(row, "PE", "SIMD"),
        size=_size(row),
        cycles=None if cycles is None else figure(cycles),
        load=round(min(1.0, cycles / period), 4) if cycles is not None and period else 0.0,
        percent=share(cycles, period),
        bottleneck=cycles is not None and cycles == slowest and slowest > 0,
    )


def _does(stage: Stage, row: Row) -> str:
    """Operation and form of a layer; the value of a port."""
    if stage.kind != "layer":
        return " · ".join((stage.kind, *([word(row["value"]).text] if row.get("value") else [])))
    digit = row.get("digit")
    form = None if row.get("form") is None else f"{row['form']}" + (f", digits of {digit} bit" if digit else "")
    return " · ".join(cut(word(t), NAME).text for t in (row.get("op"), form) if t is not None) or NONE.text


def _bits(stage: Stage) -> str:
    """Bits of what comes in, of sums and of what goes out."""
    if stage.kind != "layer":
        return "/".join(map(str, stage.bits_in or stage.bits_out))
    parts = [stage.bits_in, () if stage.bits_sum is None else (stage.bits_sum,), stage.bits_out]
    return " → ".join("/".join(map(str, p)) for p in parts if p)


def _size(row: Row) -> str:
    """What a layer is made of: planes of weights, or adders of a graph."""
    key, name = ("planes", "plane") if row.get("adders") is None else ("adders", "adder")
    count = row.get(key)
    return "" if count is None else f"{figure(count).text} {name}" + ("" if count == 1 else "s")


def _wires(listed: Sequence[Stage]) -> tuple[list[tuple[Wire, ...]], float]:
    """Pieces of lanes beside each box, and the room they take."""
    takers: dict[int, list[int]] = {}
    for k, stage in enumerate(listed):
        for source in stage.sources:
            if source < k - 1:
                takers.setdefault(source, []).append(k)
    lanes: list[list[int]] = []  # sources of the wires in each; short wires are next to the boxes, so that few cross
    for source in sorted(takers, key=lambda s: (takers[s][-1] - s, s)):
        free = (lane for lane in lanes if all(takers[s][-1] <= source or takers[source][-1] <= s for s in lane))
        lane = next(free, None)
        if lane is None:
            lanes.append(lane := [])
        lane.append(source)
    pitch = min(PITCH, WIDEST / max(1, len(lanes)))
    room = (len(lanes) + 0.5) * pitch if lanes else 0.0
    places = {source: round(room - (n + 1) * pitch, 1) for n, lane in enumerate(lanes) for source in lane}
    return [tuple(_beside(k, takers, places)) for k in range(len(listed))], round(room, 1)


def _beside(k: int, takers: dict[int, list[int]], places: dict[int, float]) -> Iterator[Wire]:
    """Pieces of lanes beside box k."""
    for source, boxes in takers.items():
        if source == k:
            yield Wire(places[source], "leave")
        elif k == boxes[-1]:
            yield Wire(places[source], "end")
        elif source < k < boxes[-1]:
            yield Wire(places[source], "join" if k in boxes else "pass")
