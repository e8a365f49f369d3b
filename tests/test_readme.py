"""The README's commands and code run as they stand, and print what it says."""

from __future__ import annotations

import re
import shutil

import pytest

from tests.conftest import ROOT
from tests.pages import consoles, shown

TEXT = (ROOT / "README.md").read_text()
SESSIONS = consoles(TEXT)
PYTHON = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    return tmp_path


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
