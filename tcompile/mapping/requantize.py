"""Requantizers of the integer network as blocks: parameters arranged by beat and lane."""

from __future__ import annotations

import numpy as np

from hw.block import Block, Bus
from hw.comparators import FLAT_LEVELS, Comparators, comparators_words
from hw.quotient import Quotient, QuotientChannel, quotient_words
from hw.table import Table, table_words
from tcompile.ir import integer as I
from tcompile.ir.graph import IntType
from tcompile.ir.requantizers import Comparators as ComparatorsForm
from tcompile.ir.requantizers import Division, Shift, signed_width
from tcompile.mapping.layout import Layout

__all__ = ["channels_of_lanes", "is_identity", "requantizer"]

Memories = dict[str, tuple[int, ...]]


def is_identity(node: I.Requantize, source: IntType) -> bool:
    """Whether nothing is to be done: x itself, and no input is clipped."""
    form = node.form
    return (
        isinstance(form, Shift)
        and form.multiplier == 1
        and not (form.negate.any() or form.addend.any() or form.bits.any() or form.exceptions_per_channel)
        and bool((form.lo <= source.lo).all() and (form.hi >= source.hi).all())
    )


def channels_of_lanes(node: I.Requantize, layout: Layout, lanes: int) -> list[int]:
    """Channel of the parameters for every lane of every beat until they repeat; filling lanes repeat their last one."""
    if node.form.channels == 1:
        return [0] * lanes
    shape = layout.shape
    channel = np.unravel_index(layout.order, shape)[node.axis % len(shape)].reshape(layout.positions, layout.channels)
    if (channel == channel[0]).all():
        channel = channel[:1]
    padded = np.pad(channel, [(0, 0), (0, -layout.channels % lanes)], mode="edge")
    return [int(c) for c in padded.reshape(-1)]


def requantizer(
    node: I.Requantize, source: IntType, i: Bus, o: Bus, layout: Layout, interval: int
) -> tuple[Block, Memories]:
    """The block for a requantizer, and its memories.

    Parameters
    ----------
    interval : int
        Cycles per beat that it may take.
    """
    order = channels_of_lanes(node, layout, i.lanes)
    form = node.form
    if isinstance(form, ComparatorsForm):
        thresholds, values = ([row.tolist() for row in part] for part in (form.thresholds, form.values))
        spread = [thresholds[c] for c in order], [values[c] for c in order]
        block = _roomy(node, source, i, o, len(order)) if node.levels else Comparators.of(i, o, *spread)
        return block, comparators_words(block, *spread)
    if isinstance(form, (Division, Shift)):
        channels = _quotients(form)
        ranges = [(source.lo, source.hi)] * len(order)
        arranged = [channels[c] for c in order]
        shift = isinstance(form, Shift)
        quotient = Quotient.of(
            i, o, arranged, ranges, multiplier=form.multiplier, ties=form.ties, interval=interval, shift=shift
        )
        return quotient, quotient_words(quotient, arranged)
    tables = [row.tolist() for row in form.values]
    arranged_tables, base = [tables[c] for c in order], [int(form.base[c]) for c in order]
    table = Table.of(i, o, arranged_tables)
    return table, table_words(table, base, arranged_tables)


def _roomy(node: I.Requantize, source: IntType, i: Bus, o: Bus, lanes: int) -> Comparators:
    """Comparators for any steps of so many levels: those that may be loaded."""
    count = node.levels - 1
    return Comparators(
        i, o, levels=count, period=lanes // i.lanes, threshold_width=signed_width(source.lo, source.hi + 1), counting=False,
        form="flat" if count <= FLAT_LEVELS else "tree",
    )  # fmt: skip


def _quotients(form: Division | Shift) -> list[QuotientChannel]:
    """Parameters by channel."""
    divisors = form.divisor if isinstance(form, Division) else np.left_shift(1, form.bits)
    count = form.channels

    def spread(values: np.ndarray) -> list[int]:
        return [int(v) for v in np.broadcast_to(values, (count,))]

    parts = [spread(p) for p in (form.negate, form.addend, divisors, form.lo, form.hi)]
    exceptions, corrections = (
        [tuple(x.tolist()) for x in (part * count if len(part) == 1 else part)] or [()] * count
        for part in (form.exceptions, form.corrections)
    )
    return [
        QuotientChannel(bool(negate), addend, divisor, lo, hi, e, c)
        for negate, addend, divisor, lo, hi, e, c in zip(*parts, exceptions, corrections, strict=True)
    ]
