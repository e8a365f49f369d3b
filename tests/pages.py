"""Pages that show commands and code: both are run, and what they print is what the page says.

A ``console`` block holds commands behind ``$`` and what each prints; a line ``...`` stands for any lines. A block of
code whose first line is a comment with a file's name, ``# train.py``, is that file; any other ``python`` block runs as it is, and a
``text`` block right behind it is what it prints.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

__all__ = ["SECONDS", "agrees", "consoles", "masked", "replayed", "sessions", "shown", "without_speed"]

BLOCK = re.compile(r"^```(console|python|text|verilog)\n(.*?)^```", re.M | re.S)
SESSION = re.compile(r"^\$ (.*(?:\\\n.*)*)\n((?:(?!\$ ).*\n)*)", re.M)
FILE = re.compile(r"(?:#|//) ([\w-]+\.(?:py|v))\n")
SECONDS = 300  # that a command may take


def consoles(text: str) -> list[tuple[str, str]]:
    """Every command of a page and what it prints."""
    return [pair for kind, body in BLOCK.findall(text) if kind == "console" for pair in sessions(body)]


def sessions(body: str) -> list[tuple[str, str]]:
    """Commands of one block and what they print."""
    return SESSION.findall(body)


def shown(command: str, folder: Path, seconds: float = SECONDS) -> str:
    """What a command prints, both streams together."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command, shell=True, cwd=folder, env={**os.environ, "PATH": path}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=seconds, check=False,
    )  # fmt: skip
    return "".join(line.rstrip() + "\n" for line in done.stdout.splitlines())


def replayed(text: str, folder: Path, same: Callable[[str], str] = str, seconds: float = SECONDS) -> str:
    """A page, run from top to bottom in a folder, with what is printed in place of what differs from it.

    Parameters
    ----------
    same : callable
        Takes from a text what may differ from run to run.
    seconds : float
        That a command may take.
    """
    printed: list[str] = []

    def output(page: str, got: str) -> str:
        return page if agrees(same(page), same(got)) else got

    def block(match: re.Match[str]) -> str:
        kind, body = match.groups()
        if kind == "console":
            body = "".join(f"$ {c}\n{output(out, shown(c, folder, seconds))}" for c, out in sessions(body))
        elif kind == "text" and printed:
            body = output(body, printed[-1])
        printed.clear()
        if kind in ("python", "verilog"):
            name = FILE.match(body)
            file = folder / (name[1] if name else "block.py")
            file.write_text(body, encoding="utf-8")
            if not name:
                printed.append(shown(f"python {file.name}", folder, seconds))
        return f"```{kind}\n{body}```"

    return BLOCK.sub(block, text)


def agrees(page: str, got: str) -> bool:
    """Whether a text is what a page says, whose lines ``...`` stand for any lines."""
    parts = [re.escape(part) for part in re.split(r"^\.\.\.\n", page, flags=re.M)]
    return re.fullmatch(r"(?:.*\n)*".join(parts), got) is not None


def without_speed(text: str) -> str:
    """Output without what differs from machine to machine."""
    return re.sub(r"\d+ cycles per second", "N cycles per second", text)


def masked(text: str) -> str:
    """Output without the numbers that depend on a training; that nothing differs stays."""
    text = re.sub(r"\b0 mismatches", "no mismatches", text)
    return re.sub(r"[^\S\n]+", " ", re.sub(r"\d[\d,.]*", "N", text))
