"""Promises about the project as a whole: its public names, its start-up, its dependencies and its documents."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import tcompile
from tests.conftest import ROOT

PUBLIC = ["Accelerator", "__version__", "compile"]
HEAVY = {"torch", "amaranth", "onnxruntime"}
ONLY_IN = {  # a library, and the modules that may import it
    "torch": ("tcompile/compress",),
    "onnxruntime": ("tcompile/reference.py",),
    "rich": ("tcompile/console.py",),
    "amaranth": ("hw", "tcompile/emit/verilog.py", "tcompile/simulate/gateware.py"),
}

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SOURCES = sorted(path for package in ("tcompile", "hw") for path in (ROOT / package).rglob("*.py"))


def imported_names(source: str) -> Iterator[str]:
    """Top-level names of the packages that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.partition(".")[0]


def forbidden_imports(place: str, source: str) -> list[str]:
    """Libraries that the module at ``place`` (relative to the root) imports and must not."""
    names = set(imported_names(source))
    wrong = [lib for lib, homes in ONLY_IN.items() if lib in names and not place.startswith(homes)]
    if place.startswith("hw/") and "tcompile" in names:
        wrong.append("tcompile")
    return sorted(wrong)


def uncommented_requirements(pyproject: str) -> list[str]:
    """Lines of the dependency lists that hold a requirement and no reason for it."""
    lists = re.findall(r"^(?:dependencies|train|dev) = \[\n(.*?)^\]", pyproject, re.MULTILINE | re.DOTALL)
    lines = [line for block in lists for line in block.splitlines() if line.strip()]
    return [line.strip() for line in lines if not re.fullmatch(r'\s*"[^"]+",\s+# \w.{8,}', line)]


def modules_after(code: str) -> set[str]:
    """Top-level modules that are loaded in a fresh interpreter once ``code`` has run."""
    script = f"import json, sys\n{code}\nprint('\\n' + json.dumps(sorted(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    return {name.partition(".")[0] for name in json.loads(run.stdout.splitlines()[-1])}


RUN_HELP = """
from tcompile.cli import main
sys.argv = ["tcompile", "--help"]
try:
    main()
except SystemExit as stop:
    assert stop.code in (0, None), stop.code
"""


def test_public_names_are_exactly_the_known_ones():
    assert sorted(tcompile.__all__) == PUBLIC
    assert all(hasattr(tcompile, name) for name in PUBLIC)


def test_unknown_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        tcompile.no_such_name  # noqa: B018


def test_help_loads_no_heavy_library():
    assert modules_after(RUN_HELP) & HEAVY == set()


def test_import_loads_no_heavy_library():
    assert modules_after("import tcompile") & HEAVY == set()


def test_heavy_library_would_be_seen():
    assert "amaranth" in modules_after("import amaranth")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_module_imports_only_what_it_may(path: Path):
    assert forbidden_imports(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "place, source, wrong",
    [
        ("tcompile/ir/graph.py", "def f():\n    import onnxruntime as ort", ["onnxruntime"]),
        ("tcompile/passes/prune.py", "from torch.nn import Linear", ["torch"]),
        ("tcompile/cli.py", "import rich.table", ["rich"]),
        ("hw/engine.py", "from tcompile.errors import Problem\nimport amaranth", ["tcompile"]),
        ("tcompile/compress/train.py", "import torch", []),
        ("tcompile/reference.py", "import onnxruntime", []),
    ],
)
def test_forbidden_import_is_found(place: str, source: str, wrong: list[str]):
    assert forbidden_imports(place, source) == wrong


def test_every_folder_of_modules_is_a_package():
    folders = {path.parent for path in SOURCES}  # import-linter passes over folders that are none
    assert [folder for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []


def test_each_dependency_says_why_it_is_there():
    assert uncommented_requirements((ROOT / "pyproject.toml").read_text(encoding="utf-8")) == []


def test_dependency_without_reason_is_found():
    assert uncommented_requirements('dependencies = [\n    "numpy>=2",\n]\n') == ['"numpy>=2",']


def test_training_is_an_extra():
    core = " ".join(PROJECT["project"]["dependencies"])
    assert "torch" not in core
    assert "torch==2.13.0" in PROJECT["project"]["optional-dependencies"]["train"]


def test_wheel_carries_what_it_names():
    included = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert [source for source in included if not (ROOT / source).exists()] == []


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_make_targets_in_documents_exist(document: str):
    named = set(re.findall(r"\bmake ([a-z]+)\b(?=[`\n #])", (ROOT / document).read_text(encoding="utf-8")))
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert named
    assert named <= targets


def test_readme_opens_with_the_two_commands():
    first_screen = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:30]
    assert any(line.startswith("make demo") for line in first_screen)
    assert any(line.startswith("make test") for line in first_screen)


def test_ci_runs_the_test_command_of_the_readme():
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def test_changelog_has_a_place_for_what_comes_next():
    assert "\n## Unreleased\n" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
