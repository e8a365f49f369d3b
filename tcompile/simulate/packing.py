"""Beats as TDATA bytes and back: elements side by side without gaps, element 0 in the low bits, little-endian."""

from __future__ import annotations

import numpy as np

from hw.block import Beats, Bus

__all__ = ["beat_bytes", "from_bytes", "to_bytes"]

CHUNK = 1 << 22  # bits that are unpacked at a time


def beat_bytes(bus: Bus) -> int:
    """Bytes of one beat: its bits, filled up at the top to whole bytes."""
    return -(-bus.bits // 8)


def to_bytes(beats: Beats, bus: Bus) -> bytes:
    """Beats (N, lanes) as N times `beat_bytes` bytes; each element is cut to its width."""
    beats = np.asarray(beats, np.int64).reshape(-1, bus.lanes)
    if bus.width in (8, 16, 32):
        return beats.astype(f"<i{bus.width // 8}").tobytes()
    shifts = np.arange(bus.width)
    rows = max(1, CHUNK // bus.bits)
    chunks = (beats[k : k + rows] for k in range(0, len(beats), rows))
    bits = (((c[:, :, None] >> shifts) & 1).astype(np.uint8).reshape(len(c), bus.bits) for c in chunks)
    return b"".join(np.packbits(b, axis=1, bitorder="little").tobytes() for b in bits)


def from_bytes(data: bytes, bus: Bus) -> Beats:
    """Beats (N, lanes) from N times `beat_bytes` bytes; elements of signed streams are two's complement."""
    size = beat_bytes(bus)
    if bus.width in (8, 16, 32):
        return (
            np.frombuffer(data, f"<{'i' if bus.signed else 'u'}{bus.width // 8}")
            .astype(np.int64)
            .reshape(-1, bus.lanes)
        )
    octets = np.frombuffer(data, np.uint8).reshape(-1, size)
    weights = np.int64(1) << np.arange(bus.width, dtype=np.int64)
    if bus.signed:
        weights[-1] *= -1
    beats = np.empty((len(octets), bus.lanes), np.int64)
    rows = max(1, CHUNK // (8 * size))
    for k in range(0, len(octets), rows):
        bits = np.unpackbits(octets[k : k + rows], axis=1, bitorder="little", count=bus.bits)
        beats[k : k + rows] = bits.reshape(len(bits), bus.lanes, bus.width) @ weights
    return beats
