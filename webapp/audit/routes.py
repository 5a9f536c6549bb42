"""The endpoint of the audit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from webapp.audit import service
from webapp.audit.models import AuditEntry
from webapp.audit.schemas import AuditEntrySchema, AuditQuery
from webapp.extensions import db
from webapp.scopes import Scope
from webapp.web.api import Blueprint, MethodView
from webapp.web.paging import HEADERS, answer_page

blp = Blueprint("audit", __name__, url_prefix="/audit", description="Who did what.")


@blp.route("", get="list_audit_entries")
class Audit(MethodView):
    """The audit."""

    @blp.allow(Scope.ML_ADMIN)
    @blp.arguments(AuditQuery, location="query")
    @blp.response(200, AuditEntrySchema(many=True), headers=HEADERS)
    @blp.problems(503)
    def get(self, query: Mapping[str, Any]) -> tuple[Sequence[AuditEntry], dict[str, str]]:
        """List who did what, the latest first.

        Each entry was stored in the transaction that it tells of. There is no total.
        """
        return answer_page(service.list_entries(db.session(), **query))
