"""The field classes: strict, and exact at their limits."""

from __future__ import annotations

import math
import re
from typing import Any

import marshmallow as ma
import pytest
from marshmallow import fields, validate

from webapp.web.fields import (
    JSONBoolean,
    JSONFloat,
    JSONInteger,
    QueryFloat,
    QueryInteger,
    StrictSchema,
    Text,
)


def load(field: fields.Field[Any], value: object) -> Any:
    return StrictSchema.from_dict({"field": field})().load({"field": value})["field"]


def assert_refused(field: fields.Field[Any], value: object) -> None:
    with pytest.raises(ma.ValidationError) as raised:
        load(field, value)
    assert list(raised.value.messages_dict) == ["field"]


class Person(StrictSchema):
    """A schema of two fields."""

    name = Text(max_length=3)
    age = JSONInteger(minimum=0, maximum=150)


def test_a_strict_schema_names_what_it_does_not_know() -> None:
    with pytest.raises(ma.ValidationError) as raised:
        Person().load({"name": "Eve", "height": 170, "": 1})

    assert raised.value.messages == {"height": ["Unknown field."], "": ["Unknown field."]}


def test_a_strict_schema_is_strict_about_lists_too() -> None:
    with pytest.raises(ma.ValidationError) as raised:
        Person(many=True).load([{"name": "Eve"}, {"nom": "Eve"}])

    assert raised.value.messages == {1: {"nom": ["Unknown field."]}}


def test_a_strict_schema_keeps_the_order_of_its_fields() -> None:
    dumped = Person().dump({"age": 3, "name": "Eve"})

    assert list(dumped) == ["name", "age"]


@pytest.mark.parametrize(
    "text", ["a", "abc", "☃☃☃", "🙂🙂🙂", " a ", "a\u200db", "\u2028", "é\u0301"]
)
def test_text_is_kept_as_it_is(text: str) -> None:
    assert load(Text(min_length=1, max_length=3), text) == text


@pytest.mark.parametrize("value", ["", "abcd", "🙂🙂🙂🙂", 1, 1.5, True, None, ["a"], {"a": 1}])
def test_text_outside_its_limits_is_refused(value: object) -> None:
    assert_refused(Text(min_length=1, max_length=3), value)


@pytest.mark.parametrize("multiline", [False, True])
@pytest.mark.parametrize(
    "character",
    [
        "\x00",
        "\x01",
        "\x07",
        "\x08",
        "\x0b",
        "\x0c",
        "\x1b",
        "\x1f",
        "\x7f",
        "\x80",
        "\x85",
        "\x9f",
    ],
)
def test_text_never_holds_a_control_character(character: str, multiline: bool) -> None:
    for text in (character, f"a{character}", f"{character}b"):
        assert_refused(Text(max_length=10, multiline=multiline), text)


@pytest.mark.parametrize("character", ["\t", "\n", "\r"])
def test_only_multiline_text_holds_layout(character: str) -> None:
    text = f"a{character}b{character}"

    assert load(Text(max_length=10, multiline=True), text) == text
    assert_refused(Text(max_length=10), text)


@pytest.mark.parametrize(
    "character", [" ", "~", "\xa0", "\ud7ff", "\ue000", "\ufffd", "\U0010ffff"]
)
def test_text_holds_the_characters_beside_the_forbidden_ones(character: str) -> None:
    assert load(Text(max_length=1), character) == character


@pytest.mark.parametrize("value", [-3, 0, 2**32 - 1])
def test_a_json_integer_is_read_between_its_limits(value: int) -> None:
    found = load(JSONInteger(minimum=-3, maximum=2**32 - 1), value)

    assert (type(found), found) == (int, value)


@pytest.mark.parametrize(
    "value",
    [
        -4,
        2**32,
        10**400,
        -(10**400),
        0.0,
        1.5,
        math.nan,
        math.inf,
        True,
        False,
        "1",
        "",
        None,
        [1],
        {},
    ],
    ids=lambda value: str(value)[:10],
)
def test_what_is_no_json_integer_is_refused(value: object) -> None:
    assert_refused(JSONInteger(minimum=-3, maximum=2**32 - 1), value)


@pytest.mark.parametrize(
    ("text", "value"), [("0", 0), ("-0", 0), ("-3", -3), ("007", 7), (str(2**62), 2**62)]
)
def test_a_query_integer_is_read_between_its_limits(text: str, value: int) -> None:
    assert load(QueryInteger(minimum=-3, maximum=2**62), text) == value


@pytest.mark.parametrize(
    "text",
    [
        "-4",
        str(2**62 + 1),
        "9" * 20,
        "9" * 5000,
        "",
        "-",
        " 1",
        "1 ",
        "1\n",
        "+1",
        "--1",
        "1.0",
        "1e3",
        "1_0",
        "0x1",
        "٣",
        "１",
        "true",
        "NaN",
    ],
    ids=lambda text: repr(text[:10]),
)
def test_what_is_no_query_integer_is_refused(text: str) -> None:
    assert_refused(QueryInteger(minimum=-3, maximum=2**62), text)


@pytest.mark.parametrize("value", [0, 0.0, -0.0, 5e-324, 0.5, 1, 1.0])
def test_a_json_float_is_read_between_its_limits(value: float) -> None:
    found = load(JSONFloat(bounds=validate.Range(0, 1)), value)

    assert (type(found), found) == (float, value)


@pytest.mark.parametrize(
    "value",
    [
        -5e-324,
        math.nextafter(1, 2),
        2,
        10**400,
        -(10**400),
        math.nan,
        math.inf,
        -math.inf,
        True,
        False,
        "0.5",
        "",
        None,
        [0.5],
        {},
    ],
    ids=lambda value: str(value)[:10],
)
def test_what_is_no_json_float_is_refused(value: object) -> None:
    assert_refused(JSONFloat(bounds=validate.Range(0, 1)), value)


def test_a_limit_may_be_left_out_of_a_range() -> None:
    bounds = validate.Range(0, 1, max_inclusive=False)

    assert load(JSONFloat(bounds=bounds), math.nextafter(1, 0)) < 1
    assert_refused(JSONFloat(bounds=bounds), 1)
    assert_refused(QueryFloat(bounds=bounds), "1")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0.0),
        ("-0.0", 0.0),
        ("+0.5", 0.5),
        ("0.1", 0.1),
        ("1e6", 1e6),
        ("1E+6", 1e6),
        ("1.5e-300", 1.5e-300),
        ("1e-999", 0.0),
        ("0" * 29 + "7", 7.0),
    ],
)
def test_a_query_float_is_read_between_its_limits(text: str, value: float) -> None:
    assert load(QueryFloat(bounds=validate.Range(0, 1e6)), text) == value


@pytest.mark.parametrize(
    "text",
    [
        "-1e-300",
        "1000000.1",
        "1e400",
        "-1e400",
        "nan",
        "inf",
        "Infinity",
        "",
        " 1",
        "1 ",
        "1\n",
        ".5",
        "5.",
        "1_0",
        "1,5",
        "0x1p3",
        "1e",
        "1e1000",
        "٣",
        "9" * 5000,
        "0." + "1" * 5000,
    ],
    ids=lambda text: repr(text[:10]),
)
def test_what_is_no_query_float_is_refused(text: str) -> None:
    assert_refused(QueryFloat(bounds=validate.Range(0, 1e6)), text)


@pytest.mark.parametrize("value", [True, False])
def test_a_json_boolean_is_read(value: bool) -> None:
    assert load(JSONBoolean(), value) is value


@pytest.mark.parametrize("value", [0, 1, 0.0, "true", "false", "on", "", None, [], [True], {}])
def test_what_merely_looks_like_a_boolean_is_refused(value: object) -> None:
    assert_refused(JSONBoolean(), value)


@pytest.mark.parametrize("multiline", [False, True])
def test_text_is_documented_by_the_characters_that_it_takes(multiline: bool) -> None:
    field = Text(max_length=3, multiline=multiline)

    for character in [*map(chr, range(0x100)), "☃", "🙂", "\u2028"]:
        text = f"a{character}b"
        if re.search(field.metadata["pattern"], text):
            assert load(field, text) == text
        else:
            assert_refused(field, text)


def test_a_limit_that_is_left_out_is_documented_so() -> None:
    bounds = validate.Range(0, 1, min_inclusive=False, max_inclusive=False)

    for field in (JSONFloat(bounds=bounds), QueryFloat(bounds=bounds)):
        assert field.metadata == {"exclusiveMinimum": 0, "exclusiveMaximum": 1}
    assert JSONFloat(bounds=validate.Range(0, 1)).metadata == {}
