"""Train a float network some epochs more, on the frames and with the augmentation that ``tcompile compress`` uses.

::

    python examples/resnet20/finetune.py resnet20.onnx --data build/resnet20/data.npz -o build/resnet20/tuned.onnx --epochs 4

The fair float baseline of a compressed network: as many epochs, on the same pixels, validated on the same split. Adam
with a cosine schedule; the last epoch is kept. On one machine the same seed gives the same file. ``--unit`` is what the pixels of the data
are shares of where the network takes pixels.
Needs torch.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from tcompile.bundle import replace_file
from tcompile.compress.data import Data, split
from tcompile.compress.network import Network
from tcompile.compress.recipe import Recipe
from tcompile.compress.train import augmented, evaluate, predict
from tcompile.frontend.export import export
from tcompile.frontend.importer import import_model
from tcompile.frontend.load import load
from tcompile.ir import real as R
from tcompile.ir.graph import Graph, Tensor


def trainable(graph: Graph) -> tuple[Network, dict[str, nn.Parameter]]:
    """The network, with the weights and biases of its linear layers as parameters."""
    network = Network(graph)
    linear = {name for node in graph if isinstance(node, R.Linear) for name in node.uses[1:]}
    parameters = {}
    for node in graph.all(R.Const):
        if node.name in linear:
            parameters[node.name] = nn.Parameter(network.get_buffer(f"const_{node.name}"))
            delattr(network, f"const_{node.name}")
            network.register_parameter(f"const_{node.name}", parameters[node.name])
    return network, parameters


def train(network: Network, data: Data, recipe: Recipe) -> None:
    """Adam on the training frames."""
    torch.manual_seed(recipe.seed)
    torch.set_num_threads(recipe.threads)
    random = torch.Generator().manual_seed(recipe.seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=recipe.rate)
    x, y = torch.from_numpy(data.x_train), torch.from_numpy(data.y_train)
    for epoch in range(1, recipe.epochs + 1):
        began, total = time.monotonic(), 0.0
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate_at(epoch)
        for index in torch.split(torch.randperm(len(y), generator=random), recipe.batch):
            scores = network(augmented(x[index].float(), recipe, random)).flatten(1)
            loss = functional.cross_entropy(scores, y[index])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += loss.item() * len(index)
        seconds = time.monotonic() - began
        print(f"epoch {epoch}/{recipe.epochs}  loss {total / len(y):.4f}  {seconds:.0f} s", flush=True)


def in_units(graph: Graph, unit: float) -> Graph:
    """The network for inputs divided by `unit`: the weights of the layers that take them times as much."""
    inputs = {n.name for n in graph.all(R.Input)}
    weights = {node.uses[1] for node in graph if isinstance(node, R.Linear) and node.uses[0] in inputs}
    return graph.with_nodes(
        replace(n, value=Tensor.of((n.value.array * unit).astype(n.value.array.dtype)))
        if isinstance(n, R.Const) and n.name in weights
        else n
        for n in graph
    )


def tuned(graph: Graph, parameters: dict[str, nn.Parameter]) -> Graph:
    """The graph with the trained constants."""
    arrays = {name: value.detach().numpy()[0] for name, value in parameters.items()}
    return graph.with_nodes(
        replace(node, value=Tensor.of(arrays[node.name])) if isinstance(node, R.Const) and node.name in arrays else node
        for node in graph
    )


def main() -> None:
    """Train, write, and tell the accuracies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rate", type=float, default=3e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--unit", type=float, default=1.0)
    options = parser.parse_args()
    graph = in_units(import_model(load(options.model).model), options.unit)
    recipe = Recipe(epochs=options.epochs, rate=options.rate, seed=options.seed, batch=128, flip=True, shift=4)
    with np.load(options.data) as arrays:
        kind, (scores,) = graph.all(R.Input)[0].type, graph.outputs
        data = split(dict(arrays), kind, graph[scores].type.shape[-1], validation=recipe.validation, seed=recipe.seed)
    network, parameters = trainable(graph)
    train(network, data, recipe)
    result = tuned(graph, parameters)
    replace_file(options.output, export(result).SerializeToString())
    for part, x, y in (("validation", data.x_validation, data.y_validation), ("test", data.x_test, data.y_test)):
        before, after = (evaluate(predict(g, scores, x.astype(np.float32)), y)[0] for g in (graph, result))
        print(f"{part}: {before:.2%} before, {after:.2%} after")


if __name__ == "__main__":
    main()
