"""The field classes: strict, and exact at their limits."""

from __future__ import annotations

import math
import re
from types import SimpleNamespace
from typing import Any

import marshmallow as ma
import pytest
from marshmallow import fields, validate

from webapp.errors import InvalidInput
from webapp.items.schemas import ItemChanges, ItemSchema, NewItem
from webapp.web import parsing
from webapp.web.fields import (
    DEEPEST_OBJECT,
    JSONBoolean,
    JSONFloat,
    JSONInteger,
    JSONObject,
    QueryFloat,
    QueryInteger,
    StrictSchema,
    Text,
)

UNIT = validate.Range(0, 1)
OPEN = validate.Range(0, 1, min_inclusive=False, max_inclusive=False)
SEED = {"minimum": -3, "maximum": 2**32 - 1}
NO_NUMBERS = [True, False, "", "1", None, [1], {}, math.nan, math.inf, 10**400, -(10**400)]
NO_LITERALS = ["", "-", " 1", "1 ", "1\n", "--1", "1_0", "0x1", "٣", "true", "NaN", "9" * 5000]
CONTROLS = [chr(code) for code in (0, 1, 7, 8, 0x0B, 0x0C, 0x1B, 0x1F, 0x7F, 0x80, 0x85, 0x9F)]

# Field → values that it takes, with what becomes of them; and values that it refuses.
FIELDS: dict[str, tuple[fields.Field[Any], list[tuple[Any, Any]], list[Any]]] = {
    "text": (
        Text(min_length=1, max_length=3),
        [(text, text) for text in ("a", "☃☃☃", "🙂🙂🙂", " a ", "\u2028", "é\u0301", "~", "\xa0")],
        ["", "abcd", "🙂🙂🙂🙂", 1, 1.5, True, None, ["a"], {}, "a\n", "\tb", "\r", *CONTROLS],
    ),
    "multiline text": (
        Text(max_length=3, multiline=True),
        [(text, text) for text in ("", "a\n", "\tb", "\r")],
        [*CONTROLS, *(f"a{character}b" for character in CONTROLS)],
    ),
    "JSON integer": (
        JSONInteger(**SEED),
        [(value, value) for value in (-3, 0, 2**32 - 1)],
        [*NO_NUMBERS, -4, 2**32, 0.0, 1.5],
    ),
    "query integer": (
        QueryInteger(**SEED),
        [("0", 0), ("-0", 0), ("-3", -3), ("007", 7), (str(2**32 - 1), 2**32 - 1)],
        [*NO_LITERALS, "-4", str(2**32), "9" * 20, "+1", "1.0", "1e3"],
    ),
    "JSON float": (
        JSONFloat(bounds=UNIT),
        [(value, float(value)) for value in (0, 0.0, -0.0, 5e-324, 0.5, 1, 1.0)],
        [*NO_NUMBERS, -5e-324, math.nextafter(1, 2), 2, -math.inf],
    ),
    "query float": (
        QueryFloat(bounds=validate.Range(0, 1e6)),
        [("-0.0", 0.0), ("+0.5", 0.5), ("1E+6", 1e6), ("1e-999", 0.0), ("0" * 29 + "7", 7.0)],
        [*NO_LITERALS, "-1e-300", "1000000.1", "1e400", "inf", ".5", "5.", "1,5", "1e", "1e1000"],
    ),
    "open range": (JSONFloat(bounds=OPEN), [(0.5, 0.5), (5e-324, 5e-324)], [0, 1]),
    "open range in a query": (QueryFloat(bounds=OPEN), [("0.5", 0.5)], ["0", "1"]),
    "boolean": (
        JSONBoolean(),
        [(True, True), (False, False)],
        [0, 1, 0.0, "true", "false", "on", "", None, [], [True], {}],
    ),
}


def load(field: fields.Field[Any], value: object) -> Any:
    return StrictSchema.from_dict({"field": field})().load({"field": value})["field"]


def assert_refused(field: fields.Field[Any], value: object) -> None:
    with pytest.raises(ma.ValidationError) as raised:
        load(field, value)
    assert list(raised.value.messages_dict) == ["field"], value


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_takes_what_is_within_its_limits_and_refuses_the_rest(name: str) -> None:
    field, taken, refused = FIELDS[name]

    for value, expected in taken:
        found = load(field, value)
        assert (type(found), found) == (type(expected), expected)
    for value in refused:
        assert_refused(field, value)


def test_an_object_is_as_deep_as_json_can_be_written() -> None:
    def nested(depth: int) -> dict[str, Any]:
        return {"a": nested(depth - 1)} if depth > 1 else {"a": [1]}

    assert load(JSONObject(), nested(DEEPEST_OBJECT - 1)) == nested(DEEPEST_OBJECT - 1)
    assert_refused(JSONObject(), nested(DEEPEST_OBJECT + 1))


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
    for kind in (JSONFloat, QueryFloat):
        assert kind(bounds=OPEN).metadata == {"exclusiveMinimum": 0, "exclusiveMaximum": 1}
    assert JSONFloat(bounds=UNIT).metadata == {}


class Renamed(StrictSchema):
    """A schema that marshmallow itself must read and write."""

    name = Text(max_length=3, data_key="Name", attribute="full_name")

    @ma.post_load
    def _check(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        return {**data, "checked": True}


def test_a_schema_reads_and_writes_as_marshmallow_does() -> None:
    for schema, data, expected in (
        (NewItem(), {"name": "Eve"}, {"name": "Eve", "description": ""}),
        (ItemChanges(), {}, {}),
        (Renamed(), {"Name": "Eve"}, {"full_name": "Eve", "checked": True}),
    ):
        assert parsing.load(schema, data, source="json") == schema.load(data) == expected
        with pytest.raises(InvalidInput) as raised:
            parsing.load(schema, {"name": "", "": 1}, source="json")
        assert raised.value.faults == schema.validate({"name": "", "": 1})

    eve = {"id": 1, "name": "Eve"}
    for person in (eve, SimpleNamespace(**eve)):
        assert ItemSchema().dump(person) == eve
        assert ItemSchema(many=True).dump([person]) == [eve]
    assert Renamed().dump(SimpleNamespace(full_name="Eve")) == {"Name": "Eve"}
