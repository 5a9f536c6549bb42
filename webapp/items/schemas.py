"""The shapes and limits of items on the wire."""

from __future__ import annotations

from marshmallow import fields, validate

from webapp.fields import StrictSchema, Text
from webapp.items.models import DESCRIPTION_LENGTH, NAME_LENGTH, SORT_KEYS
from webapp.paging import PageQuery

SORT_CHOICES = [sign + key for key in SORT_KEYS for sign in ("", "-")]


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
        validate=validate.OneOf(SORT_CHOICES),
        metadata={"description": "Order; a leading `-` reverses it."},
    )
