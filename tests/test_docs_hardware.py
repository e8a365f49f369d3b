"""The pages on hardware say what is: code runs, printed text is what it prints, diagrams are what Amaranth simulates.

A page is read from top to bottom with one namespace. In it

- a ``python`` block runs; a ``text`` block right behind it is what it printed;
- a block whose first line begins with ``cycle`` is a diagram of ``block``, fed with the beats ``inputs`` and the words
  ``memories`` of the namespace; its rows ``<input>.valid`` and ``<output>.ready`` are the stimulus, all others follow;
- a table of ports shows in its last column the bits of ``block``.

``--update-golden`` writes what follows into the pages instead of comparing.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import io
import pkgutil
import re
import shutil
import tempfile
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.sim import Simulator

import hw
from hw.block import Block, pack, unpack
from hw.outbox import Outbox
from tcompile.emit.verilog import modules
from tcompile.mapping.design import Instance
from tcompile.mapping.estimate import estimate
from tcompile.yosys import below, modules_of, run_yosys
from tests.conftest import ROOT
from tests.gateware import join_memories
from tests.pages import consoles, shown, without_speed

FOLDER = ROOT / "docs" / "hardware"
OTHERS = {"axi.md"}  # checked by the tests of those blocks
PAGES = [p for p in sorted(FOLDER.glob("*.md")) if p.name not in OTHERS] + [
    ROOT / "docs" / "board.md",
    ROOT / "docs" / "forms.md",
    ROOT / "docs" / "mapping.md",
    ROOT / "docs" / "simulation.md",
    ROOT / "docs" / "ports.md",
]
IDS = [str(p.relative_to(ROOT / "docs")) for p in PAGES]
PART = re.compile(r"^```(\w*)\n(.*?)^```\n|^(\| port \| way \| bits \| example \|\n)((?:\|[^\n]*\n)+)", re.M | re.S)
COSTS = re.compile(r"^\| page \| LUT4 \| CCU2C \| flip-flops \| RAM \| estimate.*\n\|[-| ]+\n((?:\|.*\n)+)", re.M)

Rows = dict[str, list[str]]


# --- reading a page ----------------------------------------------------------------------------------------------------


def rewritten(text: str, namespace: dict[str, Any]) -> str:
    """A page with everything that can be computed computed anew."""
    at, parts, printed = 0, [], ""
    for match in PART.finditer(text):
        kind, body, header, table = match.groups()
        parts.append(text[at : match.start()])
        assert not (printed and parts[-1].strip()), f"nothing shows what is printed: {printed}"
        at = match.end()
        if header:
            parts.append(header + ports_table(table, namespace["block"]))
        elif kind == "python":
            assert not printed, f"nothing shows what is printed: {printed}"
            printed = run_python(body, namespace)
            parts.append(match[0])
        elif kind == "text" and printed:
            parts.append(f"```text\n{printed}```\n")
            printed = ""
        elif body.startswith("cycle"):
            parts.append(f"```\n{diagram(body, namespace)}```\n")
        else:
            parts.append(match[0])
    assert not printed, f"nothing shows what is printed: {printed}"
    return "".join(parts) + text[at:]


def run_python(code: str, namespace: dict[str, Any]) -> str:
    out = io.StringIO()
    with redirect_stdout(out):
        exec(compile(code, "page", "exec"), namespace)
    return out.getvalue()


def ports_table(rows: str, block: Block) -> str:
    """The table with the numbers of a block, all of whose ports must be in it."""
    rule, *lines = rows.splitlines()
    bits = {f"{n}.payload": ("in", b.bits) for n, b in zip(block.input_names, block.inputs, strict=True)}
    bits |= {f"{n}.payload": ("out", b.bits) for n, b in zip(block.output_names, block.outputs, strict=True)}
    for name, memory in block.memories.items():
        bits |= {f"{name}_addr": ("out", memory.address_width), f"{name}_data": ("in", memory.width)}
        bits |= {f"{name}_en": ("out", 1)} if memory.waits else {}
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in lines]
    assert [c[0].strip("`") for c in cells] == list(bits)
    found = [f"| {c[0]} | {bits[c[0].strip('`')][0]} | {c[2]} | {bits[c[0].strip('`')][1]} |\n" for c in cells]
    return rule + "\n" + "".join(found)


# --- diagrams ----------------------------------------------------------------------------------------------------------


def diagram(body: str, namespace: dict[str, Any]) -> str:
    rows: Rows = {line.split()[0]: line.split()[1:] for line in body.splitlines()}
    block, inputs = namespace["block"], [np.array(x) for x in namespace["inputs"]]
    found = simulated(block, inputs, namespace.get("memories", {}), rows)
    width = max(len(c) for row in found.values() for c in row) + 1
    label = max(map(len, found)) + 2
    return "".join(name.ljust(label) + "".join(c.rjust(width) for c in row) + "\n" for name, row in found.items())


def simulated(block: Block, inputs: list[np.ndarray], memories: dict[str, Any], rows: Rows) -> Rows:
    """The rows of a diagram, by Amaranth's simulator."""
    m = Module()
    m.submodules.block = dut = block.component()
    join_memories(m, block, dut, memories)
    sources = [
        Source(name, [pack(beat, bus.width) for beat in beats], rows[f"{name}.valid"])
        for name, bus, beats in zip(block.input_names, block.inputs, inputs, strict=True)
    ]
    buses = dict(zip((*block.input_names, *block.output_names), (*block.inputs, *block.outputs), strict=True))
    found: Rows = {name: [] for name in rows}

    def cell(ctx: Any, name: str, cycle: int) -> str:
        port, _, signal = name.partition(".")
        if name == "cycle":
            return str(cycle)
        value = getattr(dut, port)
        if signal:
            return str(ctx.get(getattr(value, signal)))
        if port not in buses:
            return str(ctx.get(value))
        return ",".join(map(str, unpack(ctx.get(value.payload), buses[port]))) if ctx.get(value.valid) else "-"

    async def drive(ctx: Any) -> None:
        for cycle in range(len(rows["cycle"])):
            for source in sources:
                source.offer(ctx, dut, cycle)
            for name in block.output_names:
                ctx.set(getattr(dut, name).ready, int(rows[f"{name}.ready"][cycle]))
            for name, row in found.items():
                row.append(cell(ctx, name, cycle))
            for source in sources:
                source.see(ctx, dut)
            await ctx.tick()

    simulator = Simulator(m)
    simulator.add_clock(1e-6)
    simulator.add_testbench(drive)
    simulator.run()
    return found


class Source:
    """Offers a beat from a cycle in which the row says 1 until it is taken."""

    def __init__(self, name: str, words: list[int], row: list[str]) -> None:
        self.name, self.words, self.row, self.offers = name, words, row, False

    def offer(self, ctx: Any, dut: Any, cycle: int) -> None:
        stream = getattr(dut, self.name)
        self.offers = bool(self.words) and (self.offers or self.row[cycle] == "1")
        ctx.set(stream.valid, self.offers)
        ctx.set(stream.payload, self.words[0] if self.offers else 0)

    def see(self, ctx: Any, dut: Any) -> None:
        if self.offers and ctx.get(getattr(dut, self.name).ready):
            self.offers = False
            self.words.pop(0)


# --- tests -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def at_root(tmp_path, monkeypatch):
    """A folder with the examples, as the pages take for granted."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_page_says_what_is(page, at_root, request):
    text = page.read_text(encoding="utf-8")
    found = rewritten(text, {})
    if request.config.getoption("--update-golden"):
        page.write_text(found, encoding="utf-8")
    assert found == page.read_text(encoding="utf-8")


def blocks() -> list[type[Block]]:
    """Every class that describes a block."""
    kinds = []
    for info in pkgutil.iter_modules(hw.__path__):
        module = importlib.import_module(f"hw.{info.name}")
        members = [c for _, c in inspect.getmembers(module, inspect.isclass) if c.__module__ == module.__name__]
        kinds += [c for c in members if issubclass(c, Block) and not inspect.isabstract(c)]
    return kinds


def page_of(kind: type) -> str:
    """Text of the page whose headings or first lines name a class."""
    named = [p for p in FOLDER.glob("*.md") if p.name != "README.md" and f"`{kind.__name__}`" in p.read_text()]
    assert named, f"no page names {kind.__name__}"
    return "\n".join(p.read_text(encoding="utf-8") for p in named)


@pytest.mark.parametrize("kind", [*blocks(), Outbox], ids=lambda kind: kind.__name__)
def test_every_block_has_a_page_that_names_its_parameters(kind):
    text = page_of(kind)
    fields = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
    assert [f.name for f in fields if f"`{f.name}`" not in text and "axi" not in kind.__module__] == []


@pytest.mark.parametrize(
    "page", [p for p in sorted(FOLDER.glob("*.md")) if p.name != "README.md"], ids=lambda p: p.stem
)
def test_every_page_of_a_block_has_a_timing_diagram(page):
    assert re.search(r"^```\ncycle", page.read_text(encoding="utf-8"), re.M)


def test_overview_links_to_every_page():
    overview = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert [p.name for p in FOLDER.glob("*.md") if p.name != "README.md" and f"({p.name})" not in overview] == []


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_paths_that_are_named_exist(page):
    named = re.findall(r"`((?:hw|tcompile|templates|tests)/[\w./]+\.\w+)`", page.read_text(encoding="utf-8"))
    assert [path for path in named if not (ROOT / path).exists()] == []


# --- that the checks above can fail ------------------------------------------------------------------------------------

QUEUE = """```python
from hw.block import Bus
from hw.fifo import Fifo
block, inputs = Fifo(Bus(1, 4), depth=2), [[[3], [4]]]
```

```
cycle     0 1 2 3
i.valid   1 1 0 0
i         3 4 - -
o.valid   0 1 1 0
o.ready   1 1 1 1
o         - 3 4 -
```
"""


def test_diagram_is_what_is_simulated():
    assert rewritten(QUEUE, {}) == QUEUE


@pytest.mark.parametrize("right, false", [("o.valid   0 1", "o.valid   1 0"), ("- 3 4 -", "- 3 5 -")])
def test_diagram_is_what_is_simulated_wrong(right, false):
    page = QUEUE.replace(right, false)
    assert page != QUEUE == rewritten(page, {})


def test_printed_text_is_what_is_printed_wrong():
    page = "```python\nprint(2 + 2)\n```\n\n```text\n5\n```\n"
    assert rewritten(page, {}) == page.replace("5", "4")


def test_what_is_printed_must_be_shown_wrong():
    with pytest.raises(AssertionError, match="nothing shows"):
        rewritten("```python\nprint(1)\n```\n\nwords\n", {})


def test_ports_must_all_be_in_the_table_wrong():
    table = "| port | way | bits | example |\n|---|---|---|---|\n| `i.payload` | in | `i.bits` | 4 |\n"
    with pytest.raises(AssertionError):
        rewritten(QUEUE + "\n" + table, {})


# --- what takes longer -------------------------------------------------------------------------------------------------


def examples() -> dict[str, Block]:
    """The last block that each page makes."""
    found = {}
    for page in PAGES:
        namespace: dict[str, Any] = {}
        if page.parent == FOLDER and page.name != "README.md":
            for match in PART.finditer(page.read_text(encoding="utf-8")):
                if match[1] == "python":
                    run_python(match[2], namespace)
            found[page.name] = namespace["block"]
    return found


def costs(blocks: dict[str, Block]) -> dict[str, tuple[int, int, int, int]]:
    """LUT4, CCU2C, flip-flops and RAM cells after yosys' synthesis for ECP5."""
    written = modules(blocks.values())
    script = ["read_verilog blocks.v", "design -save all"]
    for block in blocks.values():
        name = written[block].name
        script += ["design -load all", f"synth_ecp5 -top {name} -noabc9", f"tee -o {name}.json stat -json"]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "blocks.v").write_text("\n".join(m.text for m in written.values()))
        (place / "script.ys").write_text("\n".join(script))
        run_yosys(["script.ys"], place)
        result = {}
        for page, block in blocks.items():
            cells = below(modules_of(place / f"{written[block].name}.json"), written[block].name)
            ram = sum(n for kind, n in cells.items() if kind in ("TRELLIS_DPR16X4", "DP16KD"))
            result[page] = (cells.get("LUT4", 0), cells.get("CCU2C", 0), cells.get("TRELLIS_FF", 0), ram)
    return result


@pytest.mark.long
@pytest.mark.exhaustive
def test_costs_of_the_examples_are_what_yosys_finds(at_root, request):
    page = FOLDER / "README.md"
    table = COSTS.search(page.read_text(encoding="utf-8"))
    assert table is not None
    blocks = examples()
    rows = ""
    for name, (lut, carry, ff, ram) in costs(blocks).items():
        guess = estimate(Instance("x", blocks[name], (), ()))
        label = f"[{name.removesuffix('.md')}]({name}): `{type(blocks[name]).__name__}`"
        rows += f"| {label} | {lut} | {carry} | {ff} | {ram} | {guess.lut}, {guess.ff} |\n"
    if request.config.getoption("--update-golden"):
        page.write_text(page.read_text(encoding="utf-8").replace(table[1], rows), encoding="utf-8")
        return
    stated, found = (
        np.array([re.findall(r"\| (\d+)", line) for line in t.splitlines()], int) for t in (table[1], rows)
    )
    assert (abs(stated - found) <= 4 + found // 10).all(), rows  # another yosys may find a little less or more


@pytest.mark.long
@pytest.mark.skipif(shutil.which("g++") is None or shutil.which("make") is None, reason="needs g++ and make")
@pytest.mark.parametrize("name", ["mapping.md", "simulation.md"])
def test_sessions_print_what_the_page_says(name, at_root, tmp_path):
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert consoles(text)
    assert [c for c, out in consoles(text) if without_speed(shown(c, tmp_path)) != without_speed(out)] == []
