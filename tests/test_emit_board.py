"""The board design as files: clock, speed of the line, pins, names; all that is refused."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hw.block import Bus
from hw.frame_port import RESTART, Port
from hw.packets import decode
from tcompile.accelerator import build_options
from tcompile.emit import emit
from tcompile.emit.board import BOARDS, plan_board, port_of
from tcompile.emit.pll import FARTHEST, Pll, pll_for
from tcompile.errors import UsageError
from tcompile.mapping.design import Edge
from tcompile.simulate.netlist import RESET_CYCLES
from tests.designs import LAYOUT, SHAPE, design

MHZ = 10**6
FRAMES = np.random.default_rng(3).integers(-16, 16, (4, *SHAPE))
GOLDEN = {"s_axis_0": FRAMES, "m_axis_0": FRAMES}


def files(clock_mhz: float = 100, baud: int = 1_000_000, made=None) -> dict[str, bytes]:
    return emit(made or design(), GOLDEN, patience=99, board=plan_board("ulx3s", clock_mhz, baud))


@pytest.mark.parametrize(
    "wanted, i, f, o",
    [(100, 1, 4, 6), (150, 1, 6, 4), (62.5, 2, 5, 10), (12.5, 2, 1, 48), (25, 1, 1, 24), (400, 1, 16, 1)],
)
def test_dividers(wanted, i, f, o):
    pll = pll_for(25 * MHZ, Fraction(wanted) * MHZ)
    assert (pll.i, pll.f, pll.o, pll.output_hz) == (i, f, o, Fraction(wanted) * MHZ)


def test_a_command_resets_the_accelerator_for_as_long_as_it_needs():
    assert RESTART >= 2 * RESET_CYCLES


@given(st.fractions(Fraction(7, 2), 400, max_denominator=1000))
def test_a_clock_is_never_faster_than_wanted_and_keeps_all_limits(wanted):
    try:
        pll = pll_for(25 * MHZ, wanted * MHZ)
    except ValueError:
        return
    assert pll.problems() == []
    assert wanted * (1 - FARTHEST) <= pll.output_hz / MHZ <= wanted


def test_no_setting_comes_closer():
    wanted = 133 * MHZ
    best = max(
        (Pll(Fraction(25 * MHZ), i, f, o) for i in range(1, 9) for f in range(1, 60) for o in range(1, 20)),
        key=lambda p: p.output_hz if not p.problems() and p.output_hz <= wanted else -1,
    )
    assert pll_for(25 * MHZ, wanted).output_hz == best.output_hz == Fraction(925 * MHZ, 7)


@pytest.mark.parametrize("wanted", [0.1, 3, 1000])
def test_a_clock_out_of_reach_wrong(wanted):
    with pytest.raises(UsageError, match="clock_mhz: a clock of"):
        plan_board("ulx3s", wanted, 115_200)


def test_a_speed_out_of_reach_wrong():
    with pytest.raises(UsageError, match="baud: 3000000 baud must be met within 2%"):
        plan_board("ulx3s", 25, 3_000_000)


@pytest.mark.parametrize(
    "pll, reason", [((1, 4, 1), "oscillator"), ((9, 36, 6), "phase detector"), ((1, 129, 1), "divider f")]
)
def test_limits_of_the_loop_wrong(pll, reason):
    assert reason in Pll(Fraction(25 * MHZ), *pll).problems()


def test_same_design_same_bytes():
    assert files() == files()


def test_without_a_board_there_are_no_files_for_it():
    plain, whole = emit(design(), GOLDEN, patience=99), files()
    assert {n: whole[n] for n in plain} == plain
    assert {n.split("/")[0] for n in whole.keys() - plain.keys()} == {"board", "host", "synth"}


def test_every_pin_of_the_top_level_is_placed_once():
    text = files()["board/ulx3s.v"].decode()
    declared = re.findall(r"^    (?:input|output) wire (?:\[(\d+):0\] )?(\w+),?$", text, re.M)
    pins = [f"{n}[{k}]" if high else n for high, n in declared for k in range(int(high or 0) + 1)]
    lpf = files()["board/ulx3s.lpf"].decode()
    placed = re.findall(r'LOCATE COMP "(\S+)" SITE "(\w+)";', lpf)
    assert sorted(n for n, _ in placed) == sorted(pins) == sorted(re.findall(r'IOBUF PORT "(\S+)"', lpf))
    assert len({site for _, site in placed}) == len(placed)


def test_the_top_level_joins_every_pin_of_the_accelerator():
    whole = files()
    top = whole["rtl/tiny.v"].decode()
    pins = re.findall(r"^    (?:input|output) wire (?:\[\d+:0\] )?(\w+),?$", top, re.M)
    joined = whole["board/ulx3s.v"].decode().split("tiny #(")[1]
    assert [p for p in pins if f".{p}(" not in joined] == []


def test_clock_and_speed_are_in_the_files():
    whole = files(62.5, 3_000_000)
    assert b"CLKI_DIV(2)" in whole["board/pll.v"] and b"CLKFB_DIV(5)" in whole["board/pll.v"]
    assert b"BIT_CLOCKS = 21" in whole["board/ulx3s.v"]
    said = json.loads(whole["host/board.json"])
    assert (said["clock_mhz"], said["baud"], said["bit_clocks"]) == (62.5, 3_000_000, 21)


def test_the_host_is_told_the_identity_that_the_chip_shows():
    whole = files()
    shown = int(re.search(rb"build_identity = 256'h([0-9a-f]+)", whole["rtl/tiny.v"])[1], 16)
    words = json.loads(whole["host/board.json"])["identity"]
    assert sum(word << 32 * k for k, word in enumerate(words)) == shown


def test_frames_per_second_are_those_of_the_slower_way():
    said = json.loads(files()["host/board.json"])
    assert (said["inputs"][0]["frame_bytes"], said["window"]) == (80, 25)
    assert said["frames_per_second_at_most"] == 1123.59  # 1 000 000 / 10 / (80 + 9)


def test_the_bench_sends_whole_packets():
    packets = decode(files()["board/sim/golden/host.bin"])
    assert [p[:3] for p in packets if p] == [b"\x04", b"\x02\x20\x00", b"\x06\x00\x00", b"\x06\x00\x01"]


def test_ports_keep_their_numbers():
    moved = replace(design(), outputs=(Edge(3, "d", "z", LAYOUT),))
    assert port_of(moved, moved.outputs[0]) == Port(3, 16, 40)
    whole = emit(moved, {"s_axis_0": FRAMES, "m_axis_3": FRAMES}, patience=99, board=plan_board("ulx3s", 100, 115_200))
    assert b".m_axis_3_tdata(m_axis_3_tdata)" in whole["board/ulx3s.v"]


def test_wide_beats_are_whole_bytes():
    wide = design(bus=Bus(3, 11, True))
    assert port_of(wide, wide.inputs[0]).bits == 40


def test_the_clock_of_the_board_is_that_of_its_oscillator():
    assert f'FREQUENCY PORT "clk_25mhz" {BOARDS["ulx3s"].clock_hz // MHZ} MHZ' in files()["board/ulx3s.lpf"].decode()


def test_nothing_around_the_accelerator_multiplies():
    whole = files()
    text = b"".join(whole[n] for n in whole if n.startswith("board/tc_")).decode()
    assert re.findall(r"[\w\])] [*/%] [\w\[(]", re.sub(r"//.*|/\*.*?\*/|\(\*.*?\*\)", "", text)) == []


@pytest.mark.parametrize(
    "options, reason",
    [
        ({"board": "nexys"}, "board: input should be 'ulx3s'"),
        ({"baud": 9600}, "give a board too"),
        ({"board": "ulx3s", "baud": 0}, "baud: input should be greater than or equal to 1"),
    ],
)
def test_options_that_do_not_fit_wrong(options, reason):
    with pytest.raises(UsageError, match=reason):
        build_options(options)
