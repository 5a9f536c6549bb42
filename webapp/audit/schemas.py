"""The JSON of the audit."""

from __future__ import annotations

from marshmallow import fields

from webapp.web.fields import StrictSchema, Text
from webapp.web.paging import PageQuery


class AuditQuery(PageQuery):
    """Which entries."""

    subject = Text(
        max_length=128,
        metadata={"description": "Only entries about this: `item 7`, `model default`, `key …`."},
    )


class AuditEntrySchema(StrictSchema):
    """Who did what, when and from where."""

    id = fields.Integer(required=True, metadata={"format": "int64", "example": 1})
    at = fields.AwareDateTime(required=True, format="iso")
    actor = fields.String(
        required=True,
        allow_none=True,
        metadata={"description": "Holder of the API key, or `cli:NAME`; null without a key."},
    )
    address = fields.String(
        required=True, allow_none=True, metadata={"description": "Address of the client."}
    )
    request_id = fields.String(required=True, allow_none=True)
    action = fields.String(required=True, metadata={"example": "version.activate"})
    subject = fields.String(required=True, metadata={"example": "model default"})
    details = fields.Dict(
        keys=fields.String(), required=True, metadata={"example": {"version": 2}}
    )
