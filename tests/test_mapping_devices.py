"""Targets: by name, or by what they hold."""

from __future__ import annotations

import pytest

from tcompile.errors import UsageError
from tcompile.mapping.devices import DEVICES, Device, device, room
from tcompile.mapping.estimate import Resources


@pytest.mark.parametrize("name", DEVICES)
def test_devices_are_known_by_name(name):
    found = device(name)
    assert found.name == name
    assert found.family == ("ecp5" if name.startswith("ecp5") else "xcup")
    assert found.ff >= found.lut > found.bram > 0


@pytest.mark.parametrize(
    "text, found",
    [("ecp5:100,200,3", ("ecp5", 100, 200, 3)), ("xcup:5,0,0", ("xcup", 5, 0, 0))],
)
def test_devices_may_be_told_by_what_they_hold(text, found):
    assert device(text) == Device(text, *found)


@pytest.mark.parametrize(
    "need, holds", [((9, 8, 7), True), ((10, 8, 7), False), ((9, 9, 7), False), ((9, 8, 8), False)]
)
def test_device_holds_what_is_not_more(need, holds):
    assert Device("x", "ecp5", 9, 8, 7).holds(Resources(*need)) is holds


def test_seven_tenths_of_the_luts_of_a_known_device_can_be_filled():
    assert room("ecp5-85") == Device("ecp5-85", "ecp5", 58_548, 83_640, 208)
    assert room("ecp5:100,200,3") == device("ecp5:100,200,3")


def refused(text: str) -> tuple[str, str, str]:
    with pytest.raises(UsageError) as caught:
        device(text)
    (problem,) = caught.value.problems
    return problem.code, problem.message, problem.hint


@pytest.mark.parametrize("text, meant", [("ecp5-58", "ecp5-85"), ("XC7Z020", "xc7z020"), ("zu3eg", "xczu3eg")])
def test_unknown_targets_are_refused_with_what_may_be_meant_wrong(text, meant):
    code, message, hint = refused(text)
    assert (code, message) == ("unknown-target", f"the target must be a device that is known, not '{text}'")
    assert hint.startswith(f"is {meant} meant? there are ecp5-12, ")


@pytest.mark.parametrize(
    "text", ["", "?", "ecp5:1,2", "ecp5:1,2,3,4", "ice40:1,2,3", "xcup:-1,2,3", "xcup:1.5,2,3", "ecp5:1234567890,1,1"]
)
def test_targets_that_tell_nothing_are_refused_wrong(text):
    code, _, hint = refused(text)
    assert code == "unknown-target"
    assert hint.endswith("or give what it holds, as ecp5:LUT,FF,BRAM or xcup:LUT,FF,BRAM")
