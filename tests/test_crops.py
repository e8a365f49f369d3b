"""Layers taken out of a network: each by itself gives what it gives in the whole, in Verilator too."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

import tcompile
from benchmarks.crops import Crop, crops, frame_of, joined, same_hardware, simulated
from benchmarks.networks import resnet18, resnet20
from tcompile.ir import integer as I
from tcompile.mapping.folding import Fold
from tcompile.mapping.network import Mapped
from tcompile.simulate.gateware import simulate

LAYERS = 21 + 1 + 8 + 1  # of the ResNet-18 shape: with weights, pools, additions, the average
TOGETHER = 8


@pytest.fixture(name="folder", scope="session")
def _folder(tmp_path_factory):
    return tmp_path_factory.mktemp("crops")


@pytest.fixture(name="small", scope="session")
def _small(folder):
    """The ResNet-20 shape, as engines."""
    path = folder / "resnet20.onnx"
    onnx.save(resnet20(), path)
    return tcompile.compile(path, form="engine", pe=8, simd=8, permute=False)._built.mapped


@pytest.fixture(name="accelerator", scope="session")
def _accelerator(folder):
    """The ResNet-18 shape, built."""
    path = folder / "resnet18.onnx"
    onnx.save(resnet18(), path)
    return tcompile.compile(path, form="engine", pe=8, simd=8)


@pytest.fixture(name="large", scope="session")
def _large(accelerator):
    return accelerator._built.mapped


def parts_of(found: Mapped, *names: str) -> list[Crop]:
    every = crops(found.graph, frame_of(found.graph))
    return [part for part in every if not names or part.name in names]


@pytest.mark.long
def test_crops_of_all_layers_give_what_the_network_gives(small):
    """`result` raises where they do not."""
    parts = parts_of(small)
    assert len(parts) == len({part.name for part in parts}) == 20 + 9 + 1  # layers with weights, additions, the average
    assert all(part.wanted.size and part.result().size >= part.wanted.size for part in parts)
    assert all(same_hardware(part, small.recipe, small.design) for part in parts)


@pytest.mark.long
def test_crop_with_other_integers_or_lanes_is_seen_wrong(small):
    one, other = parts_of(small)[1:3]
    with pytest.raises(AssertionError, match=f"{one.name} must give the same inside a crop"):
        replace(one, wanted=other.wanted[..., :1] + 1).result()
    folds = {**small.recipe.folds, one.name: Fold(pe=4, simd=8)}
    assert not same_hardware(one, replace(small.recipe, folds=folds), small.design)


@pytest.mark.long
def test_crops_side_by_side_in_the_gateware(small):
    parts = parts_of(small)[-3:]
    design = joined([part.design(small.recipe) for part in parts])
    feeds = {name: codes for part in parts for name, codes in part.feeds.items()}
    run = simulate(design, [e.layout.to_beats(feeds[e.value], design.streams[e.stream].bus) for e in design.inputs])
    for part, edge, beats in zip(parts, design.outputs, run.outputs, strict=True):
        assert np.array_equal(edge.layout.from_beats(beats, design.streams[edge.stream].bus), part.result())


@pytest.mark.long
@pytest.mark.exhaustive
def test_large_network_equals_onnxruntime_on_a_frame(accelerator):
    found = accelerator.verify(samples=1, simulator="model")
    assert (found.mismatches, found.integers) == (0, 1000)
    assert accelerator.report["exactness"]["verdict"] == "proved"


@pytest.mark.long
@pytest.mark.exhaustive
def test_activations_of_the_large_network_neither_die_nor_saturate(large):
    """Of a frame of noise, whose places are all alike: on such, some channels are the same everywhere."""
    frame = frame_of(large.graph)
    for node in large.graph.all(I.Requantize):
        codes = frame[node.name]
        assert (codes == 0).mean() < 0.7 and (codes == node.type.hi).mean() < 0.12
        places = codes.reshape(codes.shape[2], -1)
        assert (places.min(axis=1) == places.max(axis=1)).mean() < 0.3 or places.shape[1] == 1


@pytest.mark.long
@pytest.mark.exhaustive
@pytest.mark.parametrize("names", [("conv_3", "maxpool_9", "conv_11"), ("conv_138", "conv_148")], ids=str)
def test_layers_of_the_large_network_in_verilator(large, names, tmp_path):
    """A share of the layers, with pauses and without."""
    parts = parts_of(large, *names)
    for stall in (None, 1):
        found = simulated(parts, large.recipe, tmp_path / str(stall), stall)
        assert found.good and len(found.integers) == len(parts) > 1
        assert stall is not None or found.ends == found.predicted


@pytest.mark.long
@pytest.mark.exhaustive
@pytest.mark.parametrize("first", range(0, LAYERS, TOGETHER))
def test_every_layer_of_the_large_network_in_verilator(large, first, tmp_path):
    parts = parts_of(large)
    assert len(parts) == LAYERS
    found = simulated(parts[first : first + TOGETHER], large.recipe, tmp_path / "build")
    assert found.good and found.ends == found.predicted
