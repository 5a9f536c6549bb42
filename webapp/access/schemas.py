"""The shapes of what is said of API keys on the wire."""

from __future__ import annotations

from marshmallow import fields

from webapp.web.fields import StrictSchema


class KeySchema(StrictSchema):
    """The API key is good."""

    status = fields.String(required=True, metadata={"example": "ok"})
