"""For those who write their own training loop: a float ONNX network as a torch module that ends as exact integers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from tcompile.bundle import replace_file
from tcompile.compress.census import census, totals
from tcompile.compress.export import exported, to_onnx
from tcompile.compress.methods import low_rank_for, prepared_for, pruner_for
from tcompile.compress.recipe import read_recipe
from tcompile.frontend.importer import import_model
from tcompile.frontend.load import load
from tcompile.ir.graph import Graph

__all__ = ["Compression"]


class Compression(nn.Module):
    """A network under compression.

    Called with frames (N, ...) it gives scores (N, classes): what the file gives, but for a softmax or argmax at the
    end. In training mode sums are normalized over the batch, in evaluation mode with running statistics.

    Parameters
    ----------
    model : str, Path or Graph
        Float ONNX file, or a graph of the real level.
    samples : array (N, ...)
        Frames for calibration; the first 256 are used.
    options
        Fields of `tcompile.compress.Recipe` that speak of the network: ``method``, ``ternary``, ``terms``,
        ``act_bits``, ``sparsity`` ...

    Raises
    ------
    ModelError
        The network cannot be trained.
    UsageError
        An option is wrong.
    """

    def __init__(self, model: str | Path | Graph, samples: np.ndarray, **options: Any) -> None:
        super().__init__()
        self.recipe = read_recipe(None, options)
        graph = model if isinstance(model, Graph) else import_model(load(Path(model)).model)
        whole, _ = low_rank_for(graph, self.recipe)
        self._prepared = prepared_for(whole, samples, self.recipe, teacher=graph)
        self.network = self._prepared.network
        self._pruner = pruner_for(self._prepared, self.recipe)
        self._epoch = 0

    def forward(self, x: Tensor) -> Tensor:
        name = self._prepared.scores
        frames = x.reshape(-1, *self.network.input.type.shape)
        return self.network.scores(frames, name)

    def penalty(self) -> Tensor:
        """What the pruner adds to the loss; zero without one, and after `finish`."""
        if self._pruner is None or self._pruner.finished:
            return self._prepared.sites[0].weight.new_zeros(())
        return self._pruner.penalty()

    def step(self) -> None:
        """After every step of the optimizer."""
        if self._pruner is not None:
            self._pruner.after_step()

    def end_epoch(self) -> None:
        """After every epoch: some pruners move then."""
        self._epoch += 1
        if self._pruner is not None and not self._pruner.finished:
            self._pruner.after_epoch(self._epoch)

    def finish(self) -> None:
        """Prune.

        Raises
        ------
        UsageError
            The sparsity cannot be reached.
        """
        if self._pruner is not None:
            self._pruner.finish()

    @property
    def facts(self) -> Mapping[str, Any]:
        """Zero tiles and weights, compression rates, cycles: `tcompile.compress.census.totals`."""
        return totals(census(self._prepared, self.recipe.pe, self.recipe.simd))

    def exported(self) -> Graph:
        """The network as it is now, in integers and power-of-two steps.

        Raises
        ------
        ModelError
            A layer's sums may not be exact.
        """
        return exported(self._prepared)

    def export_onnx(self, path: str | Path) -> None:
        """Write the network as a standard ONNX file, whole or not at all.

        Raises
        ------
        ModelError
            A layer's sums may not be exact.
        UsageError
            The file cannot be written.
        """
        replace_file(Path(path), to_onnx(self.exported()).SerializeToString())
