"""From an ONNX file to a clean, static model: `load` reads a file, `normalize` brings any model to one form."""

from tcompile.frontend.load import Loaded, load
from tcompile.frontend.normalize import normalize

__all__ = ["Loaded", "load", "normalize"]
