"""The README's commands and code run as they stand, and print what it says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```console\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
SESSIONS = [pair for block in BLOCKS for pair in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE)]
PYTHON = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    return tmp_path


def shown(command: str, folder: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command, shell=True, cwd=folder, env={**os.environ, "PATH": path}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300, check=False,
    )  # fmt: skip
    return "".join(line.rstrip() + "\n" for line in done.stdout.splitlines())


def test_readme_has_examples():
    assert len(SESSIONS) >= 4
    assert len(PYTHON) == 1


@pytest.mark.parametrize("command, output", SESSIONS, ids=[c for c, _ in SESSIONS])
def test_console_block_prints_what_the_readme_says(command, output, folder):
    assert shown(command, folder) == output


def test_python_block_runs(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    exec(compile(PYTHON[0], "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert f"It prints `{printed.strip()}`" in TEXT
    assert (folder / "build/digits/report.json").is_file()
