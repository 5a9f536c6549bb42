"""The shapes and limits of items on the wire."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import marshmallow as ma
from marshmallow import fields, validate

from webapp.fields import JSONInteger, StrictSchema, Text
from webapp.items.models import DESCRIPTION_LENGTH, NAME_LENGTH, SORTS
from webapp.paging import PageQuery, decode_place, encode_place

LARGEST_ID = 2**63 - 1
LONGEST_PLACE = 2_048  # of the longest name, all of whose letters take four bytes: 1,500


class ItemSchema(StrictSchema):
    """An item."""

    id = fields.Integer(required=True, metadata={"format": "int64", "example": 1})
    name = fields.String(required=True, metadata={"example": "Test Item"})
    description = fields.String(required=True, metadata={"example": "Just testing"})
    created_at = fields.AwareDateTime(required=True, format="iso")
    updated_at = fields.AwareDateTime(required=True, format="iso")


class ItemChanges(StrictSchema):
    """What to change of an item; what is not sent keeps its value."""

    name = Text(min_length=1, max_length=NAME_LENGTH, metadata={"example": "Test Item"})
    description = Text(
        max_length=DESCRIPTION_LENGTH, multiline=True, metadata={"example": "Just testing"}
    )


class NewItem(ItemChanges):
    """A new item."""

    name = Text(
        required=True, min_length=1, max_length=NAME_LENGTH, metadata={"example": "Test Item"}
    )
    description = Text(
        max_length=DESCRIPTION_LENGTH,
        multiline=True,
        load_default="",
        metadata={"example": "Just testing"},
    )


class ItemQuery(PageQuery):
    """Which items to list, and in which order."""

    q = Text(
        max_length=NAME_LENGTH,
        load_default="",
        metadata={
            "description": "Only items whose name or description contains this text, letter "
            "for letter: no wildcards, case counts."
        },
    )
    sort = fields.String(
        load_default="id",
        validate=validate.OneOf(SORTS),
        metadata={"description": "Order; a leading `-` reverses it."},
    )
    after = fields.String(
        validate=validate.Length(max=LONGEST_PLACE),
        metadata={
            "description": "Where the page begins, instead of at its number: as a `next` link "
            "says it. Whoever follows these links meets every item once, whatever others create "
            "and delete meanwhile."
        },
    )

    def load(self, data: Any, **kwargs: Any) -> dict[str, Any]:
        """Return the checked query, with the place that ``after`` stands for."""
        query: dict[str, Any] = super().load(data, **kwargs)
        if "after" in query:
            query["after"] = parse_place(query["after"], query["sort"])
        return query


def _check_utc(value: datetime) -> None:
    if value.utcoffset():
        raise ma.ValidationError("Is not in UTC.")


# The values of a place, by column.
_KEYS: dict[str, fields.Field[Any]] = {
    "id": JSONInteger(minimum=1, maximum=LARGEST_ID),
    "name": Text(min_length=1, max_length=NAME_LENGTH),
    "created_at": fields.AwareDateTime(format="iso", validate=_check_utc),
}


def parse_place(text: str, sort: str) -> list[Any]:
    """Return the values of the order's columns at a place.

    Raises marshmallow's ValidationError for a place in another order, and for what no list of
    items can have named.
    """
    columns = dict.fromkeys((sort.removeprefix("-"), "id"))
    try:
        _, *values = decode_place(text)
        place = [_KEYS[c].deserialize(v) for c, v in zip(columns, values, strict=True)]
    except (ValueError, ma.ValidationError):
        place = []
    if encode_place([sort, *place]) != text or not place:
        raise ma.ValidationError("Is not from a `next` link of a list in this order.", "after")
    return place
