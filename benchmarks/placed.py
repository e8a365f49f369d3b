"""Networks placed and routed on an ECP5-85: cycles, clock by static timing, frames per second, and what they take of the device.

::

    python -m benchmarks.placed                   # all that are not in placed.json yet
    python -m benchmarks.placed --only dscnn      # one

builds each network for the device (``tcompile build --target ecp5-85``), synthesizes, places and routes it once (``tcompile synth``),
simulates some frames of it against onnxruntime, and writes ``placed.json`` and ``placed.md``. Large designs take half an hour each.
Reads ``../shared/data`` (``--data``) for networks and frames that are not in ``examples``; works below ``build/placed`` (``--work``), where
a synthesis that is complete is taken if it is of the same Verilog. Where nets are many, nextpnr's default ``router1`` may hardly
go on; a script named ``nextpnr-ecp5`` on PATH may add ``--router router2``, and the table says so. Clocks are static timing at speed grade 6, not measured on a board.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.compression import save
from benchmarks.exactness import DATA, ROOT

FILE = Path(__file__).with_suffix(".json")
PAGE = FILE.with_suffix(".md")
DEVICE = "ecp5-85"


@dataclass(frozen=True)
class Case:
    """A network.

    Parameters
    ----------
    file : str
        Below the data's ``models``, or below ``examples``.
    accuracy : str
        Of the compiled network, which equals onnxruntime's on this file, and where it is measured.
    options : tuple of str
        Of ``tcompile build``.
    """

    name: str
    title: str
    file: str
    accuracy: str
    options: tuple[str, ...] = ("--target", DEVICE)

    def path(self, data: Path) -> Path:
        """The file."""
        inside = ROOT / self.file
        return inside if inside.exists() else data / "models" / self.file


CASES = (
    Case("dscnn", "MLPerf Tiny DS-CNN, keyword spotting, INT8 as it is", "mlperf_dscnn_int8_qdq.onnx", "90.2 % of 1000 test frames"),
    Case("ad01", "MLPerf Tiny autoencoder, anomaly detection, INT8 as it is", "mlperf_ad01_int8_qdq.onnx", "all integers of 1000 frames are onnxruntime's"),
    Case("resnet8", "MLPerf Tiny ResNet-8, image classification, two ternary terms", "examples/resnet8/resnet8.int4.onnx", "78.37 % of 10 000 test frames (JPEG), 4.73 points below float", ("--fps", "10000", "--target", DEVICE)),
    Case("resnet20", "ResNet-20, CIFAR-10, ternary, 87 % of the weights zero", "examples/resnet20/resnet20.sparse.int2.onnx", "79.78 % of 10 000 test frames (JPEG), 7.88 points below float", ("--target", "ecp5:54000,83640,208")),
)  # fmt: skip


def tcompile(*words: object) -> None:
    """Run the command."""
    print("$ tcompile", *words, flush=True)
    subprocess.run([sys.executable, "-m", "tcompile", *map(str, words)], check=True, cwd=ROOT)


def report_of(folder: Path) -> dict[str, Any]:
    """The report of a build directory; empty where there is none."""
    file = folder / "report.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def identity_of(folder: Path) -> str:
    """Digest of the Verilog and its memories; empty where there is none."""
    file = folder / "host/registers.json"
    return "".join(f"{word:08x}" for word in json.loads(file.read_text())["identity"]) if file.exists() else ""


def router_of(folder: Path) -> str:
    """Which of nextpnr's routers made the design."""
    log = (folder / f"synth/build-{DEVICE}/seed-1.log").read_text(encoding="utf-8")
    return "router2" if "Running router2" in log else "router1"


def run(case: Case, data: Path, work: Path) -> dict[str, Any]:
    """Build, synthesize, simulate what is not complete; the row of the table."""
    folder, new = work / case.name, work / f"{case.name}.new"
    work.mkdir(parents=True, exist_ok=True)
    tcompile("build", case.path(data), "-o", new, "-f", *case.options)
    if identity_of(new) != identity_of(folder):
        shutil.rmtree(folder, ignore_errors=True)
        new.rename(folder)
    shutil.rmtree(new, ignore_errors=True)
    if not (report_of(folder)["synthesis"] or {}).get("seeds"):
        tcompile("synth", folder, "--device", DEVICE)
    if report_of(folder)["verification"]["samples"] is None:
        tcompile("verify", folder, "--samples", 2)
    report = report_of(folder)
    synthesis, performance, verification = (report[k] for k in ("synthesis", "performance", "verification"))
    return {
        "title": case.title, "accuracy": case.accuracy, "options": list(case.options), "identity": identity_of(folder),
        "cycles": performance["ii_cycles"], "latency": performance["latency_cycles"],
        "simulated": performance["ii_cycles_simulated"], "samples": verification["samples"], "mismatches": verification["mismatches"],
        "clock_mhz": synthesis["fmax_mhz"], "fps": synthesis["fps"], "estimate": synthesis["estimate"], "used": synthesis["used"],
        "router": router_of(folder), **{k: synthesis[k] for k in ("lut", "ff", "bram", "dsp", "tools")},
    }  # fmt: skip


def text(found: dict[str, dict[str, Any]]) -> str:
    """The page."""
    tools = sorted({f"yosys {r['tools']['yosys']}, nextpnr {r['tools']['nextpnr-ecp5']}" for r in found.values()})
    lines = [
        "# Placed and routed",
        "",
        f"`python -m benchmarks.placed`: {'; '.join(tools)}; LFE5U-85F, CABGA381, speed grade 6, one seed of the placer each.",
        "Clocks are static timing, not measured on a board. *LUT*, *FF*, *BRAM* (18 kbit) are counted in the netlist; in parentheses what was",
        "estimated when it was built; *of the device* is what nextpnr packs, with the shell around the accelerator. No multiplier blocks.",
        "Routed by nextpnr's default, router1, or as is said.",
        "",
        "| network | accuracy | cycles per frame | first | clock, MHz | **frames per second** | LUT | FF | BRAM | of the device: LUT, BRAM |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for case in CASES:
        if case.name in found:
            r = found[case.name]
            assert r["dsp"] == r["mismatches"] == 0
            counts = [f"{r[k]:,} ({r['estimate'][k]:,})" for k in ("lut", "ff", "bram")]
            share = ", ".join(f"{r['used'][k]['used'] / r['used'][k]['available']:.0%}" for k in ("lut", "bram"))
            cells = [
                r["title"], r["accuracy"], f"{r['cycles']:,}", f"{r['latency']:,}", f"{r['clock_mhz']:.1f}" + " (router2)" * (r["router"] == "router2"), f"**{r['fps']:,.0f}**",
                *counts, share,
            ]  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run what is not there yet, or what is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--work", type=Path, default=ROOT / "build/placed")
    parser.add_argument("--only", action="append", choices=[c.name for c in CASES])
    options = parser.parse_args()
    found = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    for case in CASES:
        if case.name in (options.only or ()) or (not options.only and case.name not in found):
            found[case.name] = run(case, options.data, options.work)
            save(FILE, found)
            PAGE.write_text(text(found), encoding="utf-8")


if __name__ == "__main__":
    main()
