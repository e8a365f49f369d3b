"""Beats and TDATA bytes say the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hw.block import Bus, pack
from tcompile.simulate import packing
from tcompile.simulate.packing import beat_bytes, from_bytes, to_bytes

BUSES = st.builds(Bus, st.integers(1, 9), st.integers(1, 40), st.booleans())


def random_beats(bus: Bus, count: int, seed: int = 0) -> np.ndarray:
    low = -(1 << bus.width - 1) if bus.signed else 0
    return np.random.default_rng(seed).integers(low, low + (1 << bus.width), (count, bus.lanes))


@given(BUSES, st.integers(0, 5), st.integers(0, 9))
def test_bytes_are_the_payload_in_little_endian(bus, count, seed):
    beats = random_beats(bus, count, seed)
    words = [pack(row, bus.width).to_bytes(beat_bytes(bus), "little") for row in beats]
    assert to_bytes(beats, bus) == b"".join(words)


@given(BUSES, st.integers(0, 5), st.integers(0, 9))
def test_beats_come_back(bus, count, seed):
    beats = random_beats(bus, count, seed)
    assert np.array_equal(from_bytes(to_bytes(beats, bus), bus), beats)


@pytest.mark.parametrize("bus", [Bus(3, 5, True), Bus(2, 8, True), Bus(2, 16, False)])
def test_large_arrays_in_chunks(monkeypatch, bus):
    monkeypatch.setattr(packing, "CHUNK", 64)
    beats = random_beats(bus, 100)
    assert np.array_equal(from_bytes(to_bytes(beats, bus), bus), beats)


def test_filling_bits_are_zero_and_ignored():
    bus = Bus(1, 5, signed=True)
    assert to_bytes(np.array([[-1]]), bus) == b"\x1f"
    assert from_bytes(b"\xff", bus).tolist() == [[-1]]
