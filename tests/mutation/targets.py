"""Which tests belong to a module, the most telling first."""

from __future__ import annotations

import tomllib
from pathlib import Path, PurePosixPath

__all__ = ["files_for", "load_table"]


def load_table(path: Path) -> dict[str, list[str]]:
    """The ``[tests]`` table of tests.toml: a module or folder, and its tests in the order to run them."""
    table = tomllib.loads(path.read_text(encoding="utf-8"))["tests"]
    return {str(place): [str(test) for test in tests] for place, tests in table.items()}


def files_for(module: str, table: dict[str, list[str]], root: Path) -> list[str]:
    """Test files of a module that exist: by its own name, then its row in the table, then its folder's row.

    ``tcompile/ir/interpret.py`` has by its name every ``test_interpret.py`` and ``test_interpret_*.py`` below tests/,
    and every ``test_ir_interpret.py`` and ``test_ir_interpret_*.py``. A row may name files or folders.
    """
    name = PurePosixPath(module)
    candidates = [
        path.relative_to(root).as_posix()
        for stem in (name.stem, f"{name.parent.name}_{name.stem}")
        for path in _named(root / "tests", stem)
    ]
    for place in (module, *(parent.as_posix() for parent in PurePosixPath(module).parents)):
        for test in table.get(place, []):
            path = root / test
            found = sorted(path.rglob("test_*.py")) if path.is_dir() else [path] if path.exists() else []
            candidates += [file.relative_to(root).as_posix() for file in found]
    return list(dict.fromkeys(candidates))


def _named(tests: Path, stem: str) -> list[Path]:
    return sorted([*tests.rglob(f"test_{stem}.py"), *tests.rglob(f"test_{stem}_*.py")])
