"""Folding files: what they may say, and everything that is wrong with one at once."""

from __future__ import annotations

import pytest

from tcompile.errors import UsageError
from tcompile.mapping.folding import FORMS, Fold, Folding, Wish, read_folding

LAYERS = ["conv1", "conv2", "fc"]


def test_wishes_are_read():
    text = '{"Defaults": {"PE": 4}, "conv1": {"PE": 16, "SIMD": 9}, "fc": {"form": "engine"}, "conv2": {}}'
    assert read_folding(text, LAYERS) == Folding(
        {"conv1": Wish(16, 9), "fc": Wish(form="engine"), "conv2": Wish()}, Wish(4)
    )


def test_empty_file_wishes_nothing():
    assert read_folding("{}", LAYERS) == Folding({}, Wish())


def test_names_may_come_from_anywhere_once():
    assert read_folding('{"fc": {"SIMD": 2}}', iter(LAYERS)).layers == {"fc": Wish(simd=2)}


def test_details_of_forms_are_read():
    text = '{"Defaults": {"digit": 2}, "fc": {"form": "serial", "digit": 4}, "conv1": {"form": "parallel", "spacing": 3}, "conv2": {"form": "engine", "coded": true}}'
    assert read_folding(text, LAYERS) == Folding(
        {
            "fc": Wish(form="serial", digit=4),
            "conv1": Wish(form="parallel", spacing=3),
            "conv2": Wish(form="engine", coded=True),
        },
        Wish(digit=2),
    )


def test_lanes_are_rows_times_columns_of_an_engine():
    assert [Fold(3, 5, form).lanes for form in FORMS] == [15, 0, 0]


def refused(text: str, layers: list[str] = LAYERS) -> list[tuple[str, str, tuple[str, ...], str]]:
    with pytest.raises(UsageError) as caught:
        read_folding(text, layers)
    return [(p.code, p.message, p.where, p.hint) for p in caught.value.problems]


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "must be JSON: Expecting property name"),
        ("", "must be JSON: Expecting value"),
        ("[" * 100_000, "must be JSON"),
        ('{"fc": {}, "fc": {}}', "must be JSON: fc stands there twice"),
        ('{"conv1": {}, "fc": {"PE": 1, "SIMD": 1, "PE": 2}}', "must be JSON: PE stands there twice"),
        ("[]", "must hold an object"),
        ('"conv1"', "must hold an object"),
        ("null", "must hold an object"),
    ],
)
def test_what_is_no_object_is_refused_wrong(text, message):
    ((code, found, where, _),) = refused(text)
    assert (code, where) == ("bad-folding", ())
    assert message in found


@pytest.mark.parametrize("entry", ["8", "[]", "null", '"PE"'])
def test_entry_that_is_no_object_is_refused_wrong(entry):
    assert refused(f'{{"fc": {entry}}}') == [
        ("bad-folding", 'must be an object such as {"PE": 8, "SIMD": 8}', ("fc",), "")
    ]


@pytest.mark.parametrize("value", ["0", "-1", "1.0", "true", '"8"', "null", "[1]"])
@pytest.mark.parametrize("key", ["PE", "SIMD", "spacing"])
def test_sizes_that_are_no_positive_integer_are_refused_wrong(key, value):
    assert refused(f'{{"fc": {{"{key}": {value}}}}}') == [
        ("bad-folding", f"{key} must be a positive integer, not '{value}'", ("fc",), "")
    ]


@pytest.mark.parametrize("value", ['"auto"', '"Serial"', "1", "null"])
def test_form_that_does_not_exist_is_refused_wrong(value):
    assert refused(f'{{"fc": {{"form": {value}}}}}') == [
        ("bad-folding", f"form must be one of engine, serial, parallel, not '{value}'", ("fc",), "")
    ]


@pytest.mark.parametrize("value", ["0", "3", "8", "true", "2.0", '"1"'])
def test_digit_that_no_graph_has_is_refused_wrong(value):
    assert refused(f'{{"fc": {{"digit": {value}}}}}') == [
        ("bad-folding", f"digit must be one of 1, 2, 4, not '{value}'", ("fc",), "")
    ]


@pytest.mark.parametrize("value", ["0", "1", '"yes"', "null"])
def test_coded_is_true_or_false_wrong(value):
    assert refused(f'{{"fc": {{"coded": {value}}}}}') == [
        ("bad-folding", f"coded must be true or false, not '{value}'", ("fc",), "")
    ]


@pytest.mark.parametrize("name, hint", [("conv3", "is 'conv1' meant?"), ("x", "there are 'conv1', 'conv2', 'fc'")])
def test_layer_that_does_not_exist_is_refused_wrong(name, hint):
    ((code, message, where, found),) = refused(f'{{"{name}": {{"PE": 1}}}}')
    assert (code, where) == ("unknown-layer", ())
    assert message == f"the folding file names a layer that does not exist: '{name}'"
    assert found == hint.replace("conv1", "conv2") if name == "conv3" and "conv2" in found else hint


@pytest.mark.parametrize(
    "key, hint",
    [
        ("SMID", "is 'SIMD' meant?"),
        ("pe", "is 'PE' meant?"),
        ("width", "there are 'PE', 'SIMD', 'form', 'digit', 'spacing', 'coded'"),
    ],
)
def test_key_that_does_not_exist_is_refused_wrong(key, hint):
    assert refused(f'{{"fc": {{"{key}": 1}}}}') == [
        ("unknown-key", f"the folding file names a key that does not exist: '{key}'", ("fc",), hint)
    ]


def test_defaults_are_checked_like_layers_wrong():
    assert refused('{"Defaults": {"PE": 0}}')[0][2] == ("Defaults",)


def test_all_problems_come_at_once_wrong():
    text = '{"conv1": {"PE": 0, "SIMD": "a", "Pe": 1}, "nothing": {"PE": 0}, "fc": 3, "conv2": {"PE": 2}}'
    assert [(code, where) for code, _, where, _ in refused(text)] == [
        ("bad-folding", ("conv1",)),
        ("bad-folding", ("conv1",)),
        ("unknown-key", ("conv1",)),
        ("unknown-layer", ()),
        ("bad-folding", ("fc",)),
    ]


def test_long_lists_of_layers_are_cut_wrong():
    ((*_, hint),) = refused('{"?": {}}', [f"layer{k}" for k in range(20)])
    assert hint == "there are " + ", ".join(f"'layer{k}'" for k in range(12))
