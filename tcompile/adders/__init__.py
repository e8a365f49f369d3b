"""Graphs of two-input adders for constant matrices.

`search` writes a matrix of integers as sums of shared sums. In `kernel` (compiled) pairs of terms that many rows share
become nodes, and the choice is improved by taking some back and searching again; `trees` makes adders of two operands of
what is left. `cost` counts what a graph needs.
"""

from tcompile.adders.objective import Objective
from tcompile.adders.search import search

__all__ = ["Objective", "search"]
