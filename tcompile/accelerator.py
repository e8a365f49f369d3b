"""The Python interface: compile a file, verify it, write it."""

from __future__ import annotations

import difflib
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from tcompile.data import read_npz
from tcompile.errors import Problem, UsageError, printable
from tcompile.machine import machine_of
from tcompile.options import BuildOptions, Simulator
from tcompile.pipeline import Built, build, compile_file
from tcompile.report import with_verification
from tcompile.verify import Machine, Verification, frames_of, input_types, labels_of, random_inputs, verify

__all__ = ["Accelerator", "build_options", "compile"]


class Accelerator:
    """A compiled network.

    Attributes
    ----------
    report : dict
        The content of ``report.json``.
    """

    def __init__(self, built: Built) -> None:
        self._built = built
        self.report: dict[str, Any] = dict(built.report)

    def verify(
        self,
        x: np.ndarray | Mapping[str, np.ndarray] | None = None,
        y: np.ndarray | None = None,
        *,
        samples: int = 16,
        seed: int = 0,
        simulator: Simulator = "verilator",
        stall: int | None = None,
    ) -> Verification:
        """Compare every output integer with onnxruntime.

        Parameters
        ----------
        x : ndarray (N, ...) or mapping of str to ndarray, optional
            Frames in the model's own input layout; random ones if left out.
        y : int array (N,), optional
            Classes, for accuracy.
        samples, seed : int
            Number and seed of random frames.
        simulator : {"verilator", "amaranth", "model"}
            What computes the accelerator's integers.
        stall : int, optional
            Seed of random pauses at all ports of the hardware.

        Raises
        ------
        UsageError
            The frames do not fit the model.
        """
        network = self._built.compiled.network
        if samples < 1 or seed < 0:
            raise UsageError(Problem("bad-option", f"samples must be at least 1 and seed 0, not {samples} and {seed}"))
        if x is None:
            frames = random_inputs(network, samples, seed)
        else:
            frames = frames_of(input_types(network), x if isinstance(x, Mapping) else {"x": np.asarray(x)})
        count = len(next(iter(frames.values())))
        labels = labels_of({} if y is None else {"y": np.asarray(y)}, count)
        with self._machine(simulator, stall) as machine:
            found = verify(network, frames, labels, machine=machine)
        self.report = with_verification(self.report, found)
        return found

    @contextmanager
    def _machine(self, simulator: Simulator, stall: int | None) -> Iterator[Machine]:
        """The machine of what `write` would write."""
        graph, design = self._built.compiled.network.graph, self._built.mapped.design
        with tempfile.TemporaryDirectory(prefix="tcompile-") as folder:
            place = Path(folder) / "build"
            if simulator == "verilator":
                self._built.write(place)
            with machine_of(simulator, graph, lambda: design, place, stall=stall) as machine:
                yield machine

    def write(self, directory: str | Path, *, force: bool = False) -> None:
        """Write the build directory, whole or not at all.

        Raises
        ------
        UsageError
            The directory exists and `force` is not given, or it cannot be written.
        """
        from dataclasses import replace

        replace(self._built, report=self.report).write(Path(directory), force=force)


def build_options(options: Mapping[str, Any]) -> BuildOptions:
    """Checked options.

    Raises
    ------
    UsageError
        Every option that is unknown or wrong.
    """
    try:
        return BuildOptions(**options)
    except ValidationError as error:
        raise UsageError([_bad_option(e["loc"], e["type"], e["msg"], e["input"]) for e in error.errors()]) from error


def _bad_option(place: tuple[int | str, ...], kind: str, reason: str, found: object) -> Problem:
    name = ".".join(map(str, place))
    if kind == "extra_forbidden":
        close = difflib.get_close_matches(name[:100], BuildOptions.model_fields, 1)
        listed = ", ".join(BuildOptions.model_fields)
        return Problem(
            "unknown-option",
            f"there is no option {printable(name)}",
            hint=f"is {close[0]} meant?" if close else f"the options are {listed}",
        )
    reason = reason.removeprefix("Value error, ")
    if not place:
        return Problem("bad-option", reason)
    return Problem(
        "bad-option", f"{printable(name)[1:-1]}: {reason[:1].lower() + reason[1:]}, not {printable(str(found))}"
    )


def compile(
    model: str | Path, *, calib: Mapping[str, np.ndarray] | np.ndarray | str | Path | None = None, **options: Any
) -> Accelerator:
    """Compile an ONNX file.

    Parameters
    ----------
    model : str or Path
        ONNX file.
    calib : ndarray, mapping or path of an .npz file, optional
        Sample inputs for the ranges of activations.
    options
        Fields of `tcompile.options.BuildOptions`, such as ``ternary="sws:2"``.

    Raises
    ------
    ModelError
        The network cannot be compiled; every reason is listed.
    UsageError
        An option or a file is wrong.
    """
    match calib:
        case str() | Path():
            arrays: Mapping[str, np.ndarray] | None = read_npz(Path(calib))
        case np.ndarray():
            arrays = {"x": calib}
        case _:
            arrays = calib
    checked = build_options(options)
    return Accelerator(build(compile_file(Path(model), checked, arrays), checked))
