"""The ``host`` folder's share of the streams: their layout, a packer to copy, golden frames as arrays."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np

from tcompile.mapping.design import Design, Edge
from tcompile.mapping.layout import Layout
from tcompile.templates import render

__all__ = ["golden_npz", "host_files", "port_layout"]

MOST_AXES = 6  # of a tensor whose order is looked for among the permutations
DATE = (1980, 1, 1, 0, 0, 0)  # of files in an archive, so that the same arrays give the same bytes


@dataclass(frozen=True)
class _Nothing:
    pass


def host_files(design: Design, golden: Mapping[str, np.ndarray]) -> dict[str, bytes]:
    """``host/layout.json``, ``host/pack.py`` and ``host/golden.npz``.

    Parameters
    ----------
    design : Design
    golden : mapping of str to ndarray
        Integer frames (N, *shape) by name of the AXI4-Stream port, inputs and outputs.
    """
    layout = {
        "inputs": [port_layout(design, "s_axis", e) for e in design.inputs],
        "outputs": [port_layout(design, "m_axis", e) for e in design.outputs],
    }
    return {
        "host/golden.npz": golden_npz(golden),
        "host/layout.json": (json.dumps(layout, indent=1) + "\n").encode(),
        "host/pack.py": render("host/pack.py.j2", _Nothing()),
    }


def port_layout(design: Design, kind: str, edge: Edge) -> dict[str, Any]:
    """How the elements of a port's tensor travel, as a JSON object.

    ``axes`` is the permutation of the tensor's axes in whose order they come; where there is none, ``order`` lists the
    flat index of each element.
    """
    stream = design.streams[edge.stream]
    layout = edge.layout
    axes = _axes(layout)
    return {
        "name": f"{kind}_{edge.port}",
        "value": edge.value,
        "shape": list(layout.shape),
        "lanes": stream.bus.lanes,
        "bits": stream.bus.width,
        "signed": stream.bus.signed,
        "beats": stream.beats,
        "positions": layout.positions,
        "channels": layout.channels,
        "axes": axes,
        "order": layout.order.tolist() if axes is None else None,
    }


def _axes(layout: Layout) -> list[int] | None:
    if len(layout.shape) > MOST_AXES:
        return None
    index = np.arange(len(layout.order)).reshape(layout.shape)
    every: Iterable[tuple[int, ...]] = permutations(range(len(layout.shape)))
    return next((list(a) for a in every if np.array_equal(index.transpose(a).reshape(-1), layout.order)), None)


def golden_npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    """An ``.npz`` archive, the same bytes for the same arrays."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(arrays):
            content = io.BytesIO()
            np.lib.format.write_array(content, np.ascontiguousarray(arrays[name]), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", DATE), content.getvalue(), zipfile.ZIP_DEFLATED)
    return buffer.getvalue()
