"""One layer in every form: the same integers as the interpreter, from the gateware under stalls, in predicted cycles."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pytest

from tcompile.ir.graph import Graph
from tcompile.ir.interpret import interpret
from tcompile.mapping.cycles import FRAMES
from tcompile.mapping.design import Design
from tcompile.mapping.folding import DIGITS, FORMS, Folding, Form, Wish
from tcompile.mapping.network import Mapped, map_network
from tcompile.mapping.plan import Choice
from tcompile.simulate.gateware import simulate
from tests.networks import Builder, RandomNetwork, differences, frames_of

CASES = 240  # of which a share runs in every run of the tests
SHARE = 24
BOUNDS = [(0, 1), (0, 3), (0, 15), (0, 255), (-1, 0), (-8, 7), (-128, 127), (-3, 12)]


@dataclass(frozen=True)
class Case:
    """A layer at random, in some of the cases with a requantizer behind it, and details of its hardware at random."""

    seed: int

    @property
    def form(self) -> Form:
        """Of the case's gateware."""
        return FORMS[self.seed % len(FORMS)]

    @cached_property
    def graph(self) -> Graph:
        net = RandomNetwork(self.seed)
        net.random, net.b = np.random.default_rng(self.seed), Builder()
        x = net.b.input(net.first_shape(), *net.pick(BOUNDS))
        y = net.conv(x) or net.dense(x)
        assert y is not None
        return net.b.graph(net.requantize(y) if net.random.random() < 0.3 else y)

    def mapped(self, form: Form) -> Mapped:
        random = np.random.default_rng([self.seed, 1])
        pe, simd = (int(n) for n in random.integers(1, 13, 2))
        digit, spacing = int(random.choice(DIGITS)), int(random.integers(1, 4))
        others = Folding(defaults=Wish(digit=digit, spacing=spacing))
        return map_network(self.graph, Choice(pe, simd, others, form=form, permute=False))

    def frames(self) -> dict[str, np.ndarray]:
        return frames_of(self.graph, FRAMES, self.seed)

    def check_models(self) -> None:
        """The blocks of all forms compute what the interpreter does, stream by stream."""
        found = {form: differences(self.mapped(form).design, self.graph, self.frames()) for form in FORMS}
        assert found == {form: [] for form in FORMS}

    def check_gateware(self) -> None:
        """So does the gateware, with and without stalls; and without, in the cycles that were predicted."""
        mapped, frames = self.mapped(self.form), self.frames()
        design, wanted = mapped.design, interpret(self.graph, frames)
        assert {plan.fold.form for plan in mapped.plans.values()} == {self.form}
        for stall in (None, self.seed):
            run = simulate(design, beats(design, frames), stall=stall)
            for edge, given in zip(design.outputs, run.outputs, strict=True):
                values = edge.layout.from_beats(given, design.streams[edge.stream].bus)
                assert np.array_equal(values, wanted[edge.value])
            assert (run.standstill, run.faults) == ({}, ())
            if stall is None:
                assert (run.first, run.ends) == (mapped.cycles.first, mapped.cycles.ends)
                assert (run.latency, run.intervals[-1]) == (mapped.cycles.latency, mapped.interval)


def beats(design: Design, frames: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Frames as they enter the ports."""
    return [e.layout.to_beats(frames[e.value], design.streams[e.stream].bus) for e in design.inputs]


@pytest.mark.parametrize("seed", range(SHARE))
def test_all_forms_compute_the_layer(seed):
    Case(seed).check_models()


@pytest.mark.parametrize("seed", range(SHARE))
def test_gateware_computes_the_layer_in_the_predicted_cycles(seed):
    Case(seed).check_gateware()


@pytest.mark.long
@pytest.mark.exhaustive
@pytest.mark.parametrize("seed", range(SHARE, CASES))
def test_any_layer_in_any_form(seed):
    Case(seed).check_models()
    Case(seed).check_gateware()
