"""Verilog of blocks: each distinct block is elaborated once, and yosys writes all of them in one run; graphs are rendered."""

from __future__ import annotations

import gc
import hashlib
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hw.axi_lite import Control
from hw.block import Block
from hw.board import Board, ResetBridge
from hw.serial import Serial
from tcompile.emit.graphs import PORTS, serial_text
from tcompile.errors import InternalError, Problem
from tcompile.yosys import run_yosys

__all__ = ["Module", "Written", "module_name", "modules"]

PREFIX = "tc_"
SCRIPT = """\
read_rtlil blocks.il
proc -nomux -norom
memory_collect
opt_clean -purge
write_verilog -norename -noattr blocks.v
"""
SHORT = 4  # words of a memory that are set one by one

MODULE_LINE = re.compile(r"^((?:module|[ \t]*cell) )\\([^\s$]\S*)", re.MULTILINE)
ALWAYS_DUMMY = re.compile(r"\\\$auto\$verilog_backend\.cc:\d+:dump_module\$\d+ ")
NOTHING = re.compile(r"^  (?:wire|reg) (?:signed )?\[-1:0\] \S+ ?;\n", re.MULTILINE)  # signals without bits
REGISTER = re.compile(r"^  reg ((?:signed )?(?:\[\d+:\d+\] )?)(\\\S+ |\w+) *= ([^;\n]+);$", re.MULTILINE)
MEMORY = re.compile(
    r"^  initial begin\n((?:    (?P<name>\S+ ?)\[\d+\] = (?P<value>\S+);\n)(?:    (?P=name)\[\d+\] = (?P=value);\n)+)  end$",
    re.MULTILINE,
)
ARRAY = re.compile(r"^  (?=reg (?:\[\d+:\d+\] )?(?:\\\S+ |\w+) *\[\d+:\d+\];$)", re.MULTILINE)
UNWATCHED = "(* no_rw_check *)"  # no block reads a place while it is written; without this yosys adds logic for that, half of the memory's cost
TEXT = re.compile(r"^module (\S+?) ?\((.*?)\);\n.*?^endmodule\n", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Module:
    """Verilog of one block.

    Parameters
    ----------
    name : str
        Name of the top module; its submodules' names begin with it.
    ports : tuple of str
        Ports; ``clk`` and ``rst`` are among them where the block has registers.
    text : str
        The modules, the top one first.
    """

    name: str
    ports: tuple[str, ...]
    text: str


Written = Block | Control | Board | ResetBridge  # what Verilog is written of

_WRITTEN: dict[Written, Module] = {}  # by this process; networks share blocks, and a block's text never changes


def module_name(block: Written) -> str:
    """Kind and digest of the description: the same in every design, for every process."""
    kind = re.sub(r"(?<!^)(?=[A-Z])", "_", type(block).__name__.lstrip("_")).lower()
    return f"{PREFIX}{kind}_{hashlib.sha256(repr(block).encode()).hexdigest()[:10]}"


def modules(blocks: Iterable[Written]) -> dict[Written, Module]:
    """Verilog of distinct blocks, in the order of their first appearance.

    The text is Verilog-2001 and the same for the same blocks: no dates, paths or tool versions.

    Raises
    ------
    ToolError
        The yosys package is missing or failed.
    """
    named = {block: module_name(block) for block in blocks}
    if len(set(named.values())) != len(named):
        raise InternalError(Problem("module-names", "two different blocks must not share a module name"))
    new = {block: name for block, name in named.items() if block not in _WRITTEN}
    graphs = {block: name for block, name in new.items() if isinstance(block, Serial)}
    _WRITTEN.update({block: Module(name, PORTS, serial_text(block, name)) for block, name in graphs.items()})
    new = {block: name for block, name in new.items() if block not in graphs}
    if new:
        texts = _split(_run_yosys("\n".join(_rtlil(block, name) for block, name in new.items())))
        _WRITTEN.update({block: _module(name, texts) for block, name in new.items()})
    return {block: _WRITTEN[block] for block in named}


def _rtlil(block: Written, name: str) -> str:
    from amaranth.back import rtlil

    with _uncollected():
        text = rtlil.convert(block.component(), name=name, emit_src=False)
    return MODULE_LINE.sub(lambda m: f"{m[1]}\\{_plain(m[2])}", text)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without garbage collection: elaboration makes a million small objects, none of them garbage until it ends."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]", "_", name)


def _run_yosys(rtlil: str) -> str:
    """YoWASP tools see the directory they are started in, and relative paths."""
    with tempfile.TemporaryDirectory(prefix="tcompile-") as folder:
        place = Path(folder)
        (place / "blocks.il").write_text(rtlil, encoding="utf-8")
        (place / "script.ys").write_text(SCRIPT, encoding="utf-8")
        run_yosys(["script.ys"], place)
        return (place / "blocks.v").read_text(encoding="utf-8")


def _split(text: str) -> dict[str, tuple[tuple[str, ...], str]]:
    """Ports and text of each module by name."""
    text = ALWAYS_DUMMY.sub("always_once ", text)
    found: dict[str, tuple[tuple[str, ...], str]] = {}
    for match in TEXT.finditer(text):
        if match[1] in found:
            raise InternalError(Problem("module-names", f"two modules are named {match[1]!r}"))
        body = MEMORY.sub(_filled, REGISTER.sub(r"  reg \1\2;\n  initial \2 = \3;", match[0]))
        body = _complete_cases(ARRAY.sub(f"  {UNWATCHED} ", NOTHING.sub("", body)))
        found[match[1]] = tuple(p.strip() for p in match[2].split(",")), body
    return found


def _filled(match: re.Match[str]) -> str:
    """A loop that sets all words of a memory to one value."""
    depth = match[1].count("\n")
    if depth <= SHORT:
        return match[0]
    index = f"index_of_{_plain(match['name'].strip())}"
    loop = f"for ({index} = 0; {index} < {depth}; {index} = {index} + 1)"
    return f"  integer {index};\n  initial {loop}\n    {match['name']}[{index}] = {match['value']};"


def _complete_cases(text: str) -> str:
    """Add a default that does nothing to each case without one; what it would assign is assigned before."""
    lines: list[str] = []
    complete: list[bool] = []
    for line in text.splitlines(keepends=True):
        word = line.split(maxsplit=1)[0] if line.strip() else ""
        if word in ("case", "casez"):
            complete.append(False)
        elif word == "default:":
            complete[-1] = True
        elif word == "endcase" and not complete.pop():
            lines.append(line.replace("endcase", "  default: begin end"))
        lines.append(line)
    return "".join(lines)


def _module(name: str, texts: dict[str, tuple[tuple[str, ...], str]]) -> Module:
    parts = [n for n in texts if n == name or n.startswith(f"{name}_")]
    parts.sort(key=lambda n: n != name)
    return Module(name, texts[name][0], "\n".join(texts[n][1] for n in parts))
