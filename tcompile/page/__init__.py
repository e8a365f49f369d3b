"""The report for people: one page that stands alone, without scripts and without network, or the same as Markdown.

Every number carries its exact value beside its text. Names come from the model and are not trusted: the templates escape
all text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tcompile.page.cells import Cell, Row, part, remarks, rows_of, truth, word
from tcompile.page.facts import (
    TONES,
    Fact,
    cards,
    clock_facts,
    commands,
    exactness_facts,
    sentences,
    synthesis_facts,
    verdict,
    verification_facts,
    weight_facts,
)
from tcompile.page.flow import Flow, flow
from tcompile.page.maps import Zeros, zeros
from tcompile.page.stages import Stage, stages
from tcompile.page.tables import (
    Table,
    certificate_tables,
    choices_table,
    difference_tables,
    interface_tables,
    layer_table,
    resource_table,
    synthesis_tables,
    tools_table,
)
from tcompile.templates import render

__all__ = ["Stage", "markdown", "page", "stages"]


@dataclass(frozen=True)
class Passage:
    """What a pass did."""

    name: Cell
    changed: Cell
    notes: tuple[Cell, ...]


@dataclass(frozen=True)
class Context:
    """All that the templates know."""

    title: str
    model: Cell
    format: Cell
    sha256: Cell
    version: Cell
    verdict: str
    tone: str
    reference: Cell
    sentences: tuple[str, ...]
    cards: tuple[Fact, ...]
    flow: Flow
    zeros: tuple[Zeros, ...]
    layers: Table
    choices: tuple[Table, ...]
    resources: Table
    weights: tuple[Fact, ...]
    exactness: tuple[Fact, ...]
    certificate: tuple[Table, ...]
    doubts: tuple[Cell, ...]
    verified: bool
    verification: tuple[Fact, ...]
    differences: tuple[Table, ...]
    verification_notes: tuple[Cell, ...]
    clock: tuple[Fact, ...]
    synthesis: tuple[Fact, ...]
    is_timed: bool
    synthesized: tuple[Table, ...]
    registers: tuple[Cell, ...]
    passes: tuple[Passage, ...]
    notes: tuple[Cell, ...]
    interface: tuple[Table, ...]
    tools: Table
    commands: tuple[Fact, ...]


def page(report: Row, listed: Sequence[Stage]) -> bytes:
    """The page of a report; equal reports give equal bytes.

    Parameters
    ----------
    report : mapping
        Content of ``report.json``; what is missing is shown like ``null``, by a dash.
    listed : sequence of Stage
        What `stages` finds in the network; empty where it is not at hand: no wires and maps are drawn.
    """
    return render("report.html.j2", _context(report, listed), escape="html")


def markdown(report: Row, listed: Sequence[Stage]) -> bytes:
    """The same in GitHub's Markdown, without pictures."""
    return render("report.md.j2", _context(report, listed), escape="markdown")


def _context(report: Row, listed: Sequence[Stage]) -> Context:
    layers, verification, exactness = rows_of(report, "layers"), part(report, "verification"), part(report, "exactness")
    model = part(report, "model")
    name = word(model.get("file"))
    return Context(
        title=name.text,
        model=name,
        format=word(model.get("format")),
        sha256=word(model.get("sha256")),
        version=word(part(report, "tools").get("tcompile")),
        verdict=verdict(report),
        tone=TONES.get(verdict(report), "open"),
        reference=word(exactness.get("reference")),
        sentences=sentences(report),
        cards=cards(report),
        flow=flow(report, listed),
        zeros=zeros(report, listed),
        layers=layer_table(layers),
        choices=choices_table(layers),
        resources=resource_table(layers),
        weights=weight_facts(report),
        exactness=exactness_facts(report),
        certificate=certificate_tables(report),
        doubts=remarks(exactness.get("doubts")),
        verified=verification.get("samples") is not None,
        verification=verification_facts(report),
        differences=difference_tables(report),
        verification_notes=remarks(verification.get("notes")),
        clock=clock_facts(report),
        synthesis=synthesis_facts(report),
        is_timed=part(report, "synthesis").get("fmax_mhz") is not None,
        synthesized=synthesis_tables(report),
        registers=remarks(part(report, "synthesis").get("memories_in_registers")),
        passes=tuple(
            Passage(word(p.get("name")), truth(p.get("changed")), remarks(p.get("notes")))
            for p in rows_of(report, "passes")
        ),
        notes=remarks(report.get("notes")),
        interface=interface_tables(report),
        tools=tools_table(report),
        commands=commands(report),
    )
