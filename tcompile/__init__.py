"""Compiles ONNX networks to FPGA accelerators that multiply nothing.

::

    import tcompile

    acc = tcompile.compile("model.onnx")
    acc.verify(x, y)
    acc.write("build/")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tcompile.version import __version__

if TYPE_CHECKING:
    from tcompile.accelerator import Accelerator, compile

__all__ = ["Accelerator", "__version__", "compile"]


def __getattr__(name: str) -> Any:
    """Import the heavy half of the library when it is first used."""
    if name in ("Accelerator", "compile"):
        from tcompile import accelerator

        return getattr(accelerator, name)
    raise AttributeError(f"module 'tcompile' has no attribute {name!r}")
