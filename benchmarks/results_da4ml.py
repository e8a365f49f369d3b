"""da4ml's answer for one constant matrix, in a virtual environment of its own.

Reads a job as JSON from the standard input and writes JSON to the standard output; see `benchmarks.results`. Needs
nothing of this project.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import da4ml
import numpy as np
from da4ml.cmvm import solve
from da4ml.codegen.rtl.verilog import pipeline_logic_gen
from da4ml.trace import FixedVariable, HWConfig, comb_trace, to_pipeline
from da4ml.types import Pipeline, QInterval

VARIANTS: dict[str, dict[str, int]] = {"default": {}, "least depth": {"hard_dc": 0}}
STATIC = ("shift_adder.v", "negative.v")
TOP = "da4ml_top"


def answer(job: dict[str, Any]) -> dict[str, Any]:
    """The graph that da4ml finds, its check on random vectors, and Verilog with registers as wanted.

    ``none``: registers at inputs and outputs only; ``level``: behind every level of adders too, where da4ml's own cutting
    by latency puts them when an adder takes 1 and a stage may take 1.
    """
    weights = np.array(job["matrix"], np.float32)
    top = float((1 << job["bits"]) - 1)
    began = time.perf_counter()
    found = solve(np.ascontiguousarray(weights.T), qintervals=[QInterval(0.0, top, 1.0)] * weights.shape[1], **VARIANTS[job["variant"]])  # fmt: skip
    seconds = time.perf_counter() - began
    inputs = [FixedVariable(*q, hwconf=HWConfig(-1, -1, -1)) for q in found.inp_qint]
    logic = comb_trace(inputs, list(found(inputs)))  # its two matrices as one network
    adders = sum(op.opcode in (0, 1) for op in logic.ops)
    negated = {k for k, is_negated in zip(logic.out_idxs, logic.out_negs, strict=True) if is_negated}
    x = np.random.default_rng(0).integers(0, int(top) + 1, (job["vectors"], weights.shape[1])).astype(np.float64)
    result: dict[str, Any] = {
        "version": version("da4ml"),
        "adders": adders + len(negated),
        "depth": int(max(logic.out_latency)),
        "seconds": round(seconds, 2),
        "exact": bool(np.array_equal(logic.predict(x), x @ weights.T.astype(np.float64))),
    }
    if job["registers"]:
        cut = to_pipeline(logic, 1, retiming=False, verbose=False)
        pipeline = Pipeline((logic,)) if job["registers"] == "none" else cut
        code = pipeline_logic_gen(pipeline, TOP, register_layers=1)
        source = Path(da4ml.__file__).parent / "codegen/rtl/verilog/source"
        files = {f"{name}.v": text for name, text in code.items()}
        result |= {"files": files | {name: (source / name).read_text() for name in STATIC}, "top": TOP}
    return result


if __name__ == "__main__":
    json.dump(answer(json.load(sys.stdin)), sys.stdout)
