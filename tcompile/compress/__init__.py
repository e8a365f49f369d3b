"""Compression with training: pruning, ternary weights, activations of few bits; from a float network to exact integers.

For a network that torch trains elsewhere::

    from tcompile.compress import Compression

    net = Compression("model.onnx", x_train[:256], method="wpc", sparsity=0.5, act_bits=4)
    optimizer = torch.optim.Adam(net.parameters())
    for x, y in batches:
        optimizer.zero_grad()
        (cross_entropy(net(x), y) + net.penalty()).backward()
        optimizer.step()
        net.step()
    net.finish()                # prunes; the survivors may be trained on
    net.export_onnx("model.int2.onnx")
"""

from __future__ import annotations

from tcompile.compress.library import Compression
from tcompile.compress.recipe import Recipe, read_recipe, shipped

__all__ = ["Compression", "Recipe", "read_recipe", "shipped"]
