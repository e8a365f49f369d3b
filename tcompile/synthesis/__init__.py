"""Synthesis of a build directory by its own Makefile: what is asked for, the tools, the run, and what came of it."""

from __future__ import annotations

from tcompile.synthesis.flows import FLOWS, Job, job
from tcompile.synthesis.results import Route, Synthesis, results
from tcompile.synthesis.run import run
from tcompile.synthesis.tools import Programs, find_programs

__all__ = ["FLOWS", "Job", "Programs", "Route", "Synthesis", "find_programs", "job", "results", "run"]
