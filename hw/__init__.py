"""Gateware in Amaranth: blocks that add, subtract, compare and shift, and multiply nothing.

A package of its own: it knows nothing of ONNX and never imports `tcompile`.
"""

from __future__ import annotations

__all__: list[str] = []
