"""The file that a build was made of, beside the network that passes made of it: what they cost in accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from tcompile.errors import Problem, UsageError, printable
from tcompile.frontend.load import digest, load
from tcompile.ir.graph import TensorType
from tcompile.reference import Session
from tcompile.verify import classes

__all__ = ["Original"]

SHOWN = 12  # digits of a digest


@dataclass(frozen=True, eq=False)
class Original:
    """A file in onnxruntime, as it stands."""

    model: onnx.ModelProto

    @classmethod
    def read(cls, path: Path, built: Mapping[str, Any], inputs: Mapping[str, TensorType]) -> Original:
        """The original of a build.

        Parameters
        ----------
        path : Path
            ONNX file.
        built : mapping
            ``model`` of the build's report.
        inputs : mapping of str to TensorType
            The build's own, by name.

        Raises
        ------
        UsageError
            It is another file, or the build does not begin where the file does.
        """
        found, wanted = digest(path), str(built["sha256"])
        if found != wanted:
            message = (
                f"the original must be the file that was built, {printable(str(built['file']))} (SHA-256 {wanted[:SHOWN]}...), "
                f"and {printable(path.name)} has {found[:SHOWN]}..."
            )
            raise UsageError(Problem("other-original", message, (str(path),), "give the file that build was given"))
        given = {i.name: i for i in onnx.load(path, load_external_data=False).graph.input}
        missing = sorted(set(inputs) - set(given))
        if missing:
            message = f"the build must begin with inputs of the original, and begins with {printable(missing[0])}"
            raise UsageError(Problem("cut-original", message, tuple(missing), "its accuracy cannot be told of a part"))
        open_ones = {n for n in inputs if any(not d.dim_value for d in given[n].type.tensor_type.shape.dim)}
        return cls(load(path, {n: inputs[n].shape for n in sorted(open_ones)}).reference)

    def accuracy(self, frames: Mapping[str, np.ndarray], labels: np.ndarray) -> float | None:
        """Share of frames (N, *shape) whose largest output is that of the label; None if there are no classes."""
        kinds = {i.name: i.type.tensor_type.elem_type for i in self.model.graph.input}
        feeds = {n: frames[n].astype(onnx.helper.tensor_dtype_to_np_dtype(kind)) for n, kind in kinds.items()}
        found = classes(Session(self.model).frames(feeds))
        return None if found is None else float((found == labels).mean())
