"""The endpoint of the audit, and its JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from marshmallow import fields

from webapp.audit import service
from webapp.audit.service import AuditEntry
from webapp.extensions import db
from webapp.scopes import Scope
from webapp.web.blueprint import Blueprint
from webapp.web.fields import StrictSchema, Text
from webapp.web.paging import HEADERS, PageQuery, answer_page

blp = Blueprint("audit", __name__, url_prefix="/audit", description="Who did what.")


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


@blp.route("", get="list_audit_entries")
@blp.allow(Scope.ML_ADMIN)
@blp.arguments(AuditQuery, location="query")
@blp.response(200, AuditEntrySchema(many=True), headers=HEADERS)
@blp.problems(503)
def list_audit_entries(query: Mapping[str, Any]) -> tuple[Sequence[AuditEntry], dict[str, str]]:
    """List who did what, the latest first.

    Each entry was stored in the transaction that it tells of. There is no total.
    """
    return answer_page(service.list_entries(db.session(), **query))
