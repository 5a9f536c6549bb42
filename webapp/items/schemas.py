"""The JSON of items, and the query that lists them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import marshmallow as ma
from marshmallow import fields, validate

from webapp.items.models import DESCRIPTION_LENGTH, MOST_COUNTED, NAME_LENGTH, SORTS, sort_keys
from webapp.web.fields import JSONInteger, StrictSchema, Text
from webapp.web.paging import PageQuery, decode_end, encode_end

LONGEST_AFTER = 2_048  # characters; a name of 255 letters of four bytes takes 1,500
NAME_EXAMPLE: dict[str, Any] = {"metadata": {"example": "Test Item"}}
DESCRIPTION_EXAMPLE: dict[str, Any] = {"metadata": {"example": "Just testing"}}
NAME: dict[str, Any] = {"min_length": 1, "max_length": NAME_LENGTH, **NAME_EXAMPLE}
DESCRIPTION = {"max_length": DESCRIPTION_LENGTH, "multiline": True, **DESCRIPTION_EXAMPLE}


class ItemSchema(StrictSchema):
    """An item."""

    id = fields.Integer(required=True, metadata={"format": "int64", "example": 1})
    name = fields.String(required=True, **NAME_EXAMPLE)
    description = fields.String(required=True, **DESCRIPTION_EXAMPLE)
    created_at = fields.AwareDateTime(required=True, format="iso")
    updated_at = fields.AwareDateTime(required=True, format="iso")


class NewItem(StrictSchema):
    """A new item."""

    name = Text(required=True, **NAME)
    description = Text(load_default="", **DESCRIPTION)


class ItemChanges(StrictSchema):
    """What to change of an item; fields that are not sent keep their value."""

    name = Text(**NAME)
    description = Text(**DESCRIPTION)


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
        validate=validate.Length(max=LONGEST_AFTER),
        metadata={
            "description": "Where the page begins, from a `next` link; its number then does not "
            "count. Following these links reads every item once, even while others create and "
            "delete items."
        },
    )

    @ma.post_load
    def find_start(self, query: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Replace ``after`` by the values it stands for; refuse too large a page number."""
        if "after" in query:
            query["after"] = parse_after(query["after"], query["sort"])
        elif (query["page"] - 1) * query["page_size"] >= MOST_COUNTED:
            message = f"Page numbers reach the first {MOST_COUNTED:,} items. To read on, follow "
            message += 'the `next` links: `Link: <…>; rel="next"` of each page.'
            raise ma.ValidationError(message, "page")
        return query


def _check_utc(value: datetime) -> None:
    if value.utcoffset():
        raise ma.ValidationError("Must be in UTC.")


SORT_FIELDS: dict[str, fields.Field[Any]] = {
    "id": JSONInteger(minimum=1, maximum=2**63 - 1),
    "name": Text(**NAME),
    "created_at": fields.AwareDateTime(format="iso", validate=_check_utc),
}


def parse_after(text: str, sort: str) -> list[Any]:
    """Return the values of the sort columns that ``after`` in a `next` link stands for.

    Raises marshmallow's ValidationError for what is not from a `next` link of this order.
    """
    try:
        _, *values = decode_end(text)
        pairs = zip(sort_keys(sort), values, strict=True)
        found = [SORT_FIELDS[key].deserialize(value) for key, value in pairs]
    except (TypeError, ValueError, ma.ValidationError):
        found = []
    if not found or encode_end([sort, *found]) != text:
        raise ma.ValidationError("Is not from a `next` link of a list in this order.", "after")
    return found
