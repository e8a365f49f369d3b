"""One network through the compiler: its integers, and its hardware, against onnxruntime."""

from __future__ import annotations

import tempfile
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from tcompile import reference
from tcompile.errors import ModelError, Problem, TcompileError, UsageError
from tcompile.ir.graph import Graph
from tcompile.machine import machine_of
from tcompile.mapping.cycles import predict
from tcompile.options import BuildOptions
from tcompile.pipeline import Built, Compiled, build, compile_file
from tcompile.verify import Interpreter, Machine, Network, Verification, random_inputs, verify
from tests.fuzz.draft import Dice
from tests.fuzz.generate import Case

__all__ = ["FAILED", "PASSED", "REFUSED", "Failure", "Outcome", "check_integers", "outcome", "run"]

PASSED, REFUSED, FAILED = "passed", "refused", "failed"
HARDWARE_FRAMES = 5
LONGEST = 400_000  # cycles of a run in a simulator
PATIENCE = 20_000  # cycles times blocks up to which Amaranth's simulator takes less time than building a bench


@dataclass(frozen=True)
class Outcome:
    """What became of a network.

    Parameters
    ----------
    codes : tuple of str
        Of a refusal: codes of its problems; of a failure: what failed.
    text : str
        Of a refusal or failure: what was said.
    verdict : str
        Of the exactness certificate, ``proved`` or not.
    differing : int
        Integers that differ where the certificate said that they might.
    """

    seed: int
    dialect: str
    status: str
    codes: tuple[str, ...] = ()
    text: str = ""
    verdict: str = ""
    differing: int = 0


class Failure(Exception):
    """Something is not as the tool says."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


def run(case: Case, *, hardware: bool = False) -> Outcome:
    """Compile a network and compare it with onnxruntime.

    Parameters
    ----------
    hardware : bool
        Simulate its design too, with options drawn from the seed.
    """
    return outcome(case.seed, case.dialect, case.model, case.frames, hardware=hardware)


def outcome(
    seed: int, dialect: str, model: onnx.ModelProto, frames: Mapping[str, np.ndarray], *, hardware: bool = False
) -> Outcome:
    """As `run`, of a model; the seed decides the options.

    What onnxruntime runs as the file stands, the tool must run as well: only its optimizations may have a fault.
    """
    found = Outcome(seed, dialect, FAILED)
    dice = Dice([seed, 1])
    mode = dice.pick(["auto", "auto", "plain", "fused"])
    try:
        _check_valid(model, frames)
        compiled = _compiled(model, mode)
        found = replace(found, verdict=compiled.report["exactness"]["verdict"])
        differing = check_integers(compiled, frames)
        if hardware:
            _check_hardware(compiled, frames, dice)
        return replace(found, status=PASSED, differing=differing)
    except (ModelError, UsageError) as error:
        codes = tuple(dict.fromkeys(p.code for p in error.problems))
        own = any(c.startswith("reference-") for c in codes) and (mode != "fused" or found.verdict)
        return replace(found, status=FAILED if own else REFUSED, codes=codes, text=_text(error.problems))
    except Failure as error:
        return replace(found, codes=(error.kind,), text=str(error))
    except TcompileError as error:
        return replace(found, codes=(type(error).__name__,), text=_text(error.problems) + "\n" + traceback.format_exc())
    except Exception as error:  # noqa: BLE001 any other one is a fault of the tool
        return replace(found, codes=(type(error).__name__,), text=traceback.format_exc())


def _check_valid(model: onnx.ModelProto, frames: Mapping[str, np.ndarray]) -> None:
    """That onnxruntime runs the network is the generator's promise."""
    if any(n.domain.startswith("qonnx") for n in model.graph.node):
        return
    try:
        reference.run(model, {name: x[0] for name, x in frames.items()})
    except ModelError as error:
        raise Failure("generator", _text(error.problems)) from error


def _text(problems: tuple[Problem, ...]) -> str:
    return "; ".join(f"[{p.code}] {p.message}" for p in problems)


def _compiled(model: onnx.ModelProto, mode: str) -> Compiled:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        return compile_file(path, BuildOptions(reference=mode))


# Integers


def check_integers(compiled: Compiled, frames: Mapping[str, np.ndarray]) -> int:
    """Compare with onnxruntime; returns how many integers differ where the certificate allows it."""
    network = compiled.network
    drawn = random_inputs(network, 4, 3)
    found = verify(network, {k: np.concatenate([x, drawn[k]]) for k, x in frames.items()}, other=False)
    exactness = compiled.report["exactness"]
    _judge(found, exactness, network.graph)
    codes_only = all(p.kind == "codes" for p in network.outputs)
    if not found.mismatches and codes_only and network.mode == "plain" and found.identical_outputs < found.samples:
        raise Failure("host", f"equal codes, and only {found.identical_outputs} of {found.samples} equal outputs")
    return found.mismatches


def _judge(found: Verification, exactness: Mapping[str, Any], graph: Graph) -> None:
    """A mismatch is a failure unless some step that the certificate lists comes before the first one."""
    if not found.mismatches:
        return
    text = f"{found.mismatches} of {found.integers} integers differ from {found.reference}; located: {found.located}"
    risky = {e["layer"] for e in exactness["layers"] if e["at_risk"]}
    if exactness["verdict"] == "proved":
        raise Failure("mismatch", text)
    if found.located and not exactness["doubts"] and not risky & _before(graph, found.located[0].value):
        raise Failure("mismatch", f"{text}; none of {sorted(risky)} is before the first")


def _before(graph: Graph, value: str) -> set[str]:
    """ONNX nodes that a value is computed by."""
    seen, stack = set[str](), [value]
    while stack:
        name = stack.pop()
        if name not in seen:
            seen.add(name)
            stack.extend(graph[name].inputs)
    return {node for name in seen for node in graph[name].origin.names}


# Hardware


def _check_hardware(compiled: Compiled, frames: Mapping[str, np.ndarray], dice: Dice) -> None:
    options = _options(dice)
    built = build(compiled, BuildOptions(**options))
    few = {name: x[:HARDWARE_FRAMES] for name, x in frames.items()}
    try:
        _check_design(built, few, dice)
    except Failure as error:
        raise Failure(error.kind, f"{error}; options {options}") from error
    except TcompileError as error:
        raise Failure(type(error).__name__, f"{_text(error.problems)}; options {options}") from error


def _options(dice: Dice) -> dict[str, Any]:
    """Options of the mapping, at random."""
    form = dice.pick(["auto", "engine", "engine", "serial", "parallel"])
    options: dict[str, Any] = {"form": form, "permute": dice.pick([None, True, False])}
    if dice.chance(0.3):
        return options | {"fps": float(dice.pick([1e4, 1e5, 1e6, 5e6]))}
    return options | {"pe": dice.pick([1, 2, 3, 4, 8]), "simd": dice.pick([1, 2, 3, 4, 8])}


def _check_design(built: Built, frames: Mapping[str, np.ndarray], dice: Dice) -> None:
    design, network = built.mapped.design, built.compiled.network
    if not design.instances or not design.outputs:
        return
    cycles = predict(design, HARDWARE_FRAMES)
    if cycles.ends[-1] > LONGEST:
        return
    simulator = "amaranth" if cycles.ends[-1] * len(design.instances) < PATIENCE else "verilator"
    stall = dice.integer(0, 99)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "build"
        if simulator == "verilator":
            built.write(place)
        for seed in (None, stall):
            with machine_of(simulator, network.graph, lambda: design, place, stall=seed) as machine:  # type: ignore[arg-type]
                found = _check_machine(network, machine, frames)
            if seed is None and (found.latency, found.ends) != (cycles.latency, cycles.ends):
                raise Failure("cycles", f"predicted {cycles}, simulated latency {found.latency} and ends {found.ends}")


def _check_machine(network: Network, machine: Machine, frames: Mapping[str, np.ndarray]) -> Verification:
    """Hardware gives exactly what the interpreter gives."""
    meant = verify(network, frames, machine=Interpreter(network.graph), other=False)
    found = verify(network, frames, machine=machine, other=False)
    if (found.mismatches, found.located) != (meant.mismatches, meant.located):
        raise Failure("hardware", f"{machine.name}, stalls {machine.stall}: {found.located} against {meant.located}")
    return found
