"""Health: whether the process answers and whether it can serve, for supervisors and balancers."""

from __future__ import annotations

from functools import cache

from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from flask import Response, current_app, jsonify
from marshmallow import fields, validate

from webapp.db.outages import outages_translated
from webapp.db.postgresql import time_limit
from webapp.errors import Unavailable
from webapp.extensions import db
from webapp.web.blueprint import Blueprint
from webapp.web.fields import StrictSchema

DATABASE_DEADLINE = 2.0  # seconds until readiness answers, whatever the database does

blp = Blueprint(
    "health",
    __name__,
    url_prefix="/health",
    description="Whether the service is alive and can serve.",
    ignores_undeclared=True,  # probes may add a query of their own
)


class LiveSchema(StrictSchema):
    """The process answers."""

    status = fields.String(required=True, metadata={"example": "ok"})


class ReadySchema(StrictSchema):
    """What the service needs, part by part: ``ok``, or what is wrong."""

    status = fields.String(
        required=True, validate=validate.OneOf(["ok", "degraded", "unavailable"])
    )
    checks = fields.Dict(
        keys=fields.String(),
        values=fields.String(),
        required=True,
        metadata={
            "example": {"database": "ok", "schema": "ok", "models": "ok", "training engine": "ok"}
        },
    )


@blp.route("/live", get="check_liveness")
@blp.allow()
@blp.response(200, LiveSchema)
def live() -> dict[str, str]:
    """Answer as long as the process does."""
    return {"status": "ok"}


@blp.route("/ready", get="check_readiness")
@blp.allow()
@blp.response(200, ReadySchema)
@blp.alt_response(503, schema=ReadySchema, description="Cannot serve; names the failing part.")
def ready() -> Response:
    """Say whether the service can serve.

    200 only if the database answers and its schema is at the newest revision. `degraded` if this
    worker serves a model while it cannot ask the database for newer versions, or cannot load a
    version, or if what does trainings cannot be reached: other workers would do no better, so the
    answer is still 200.
    """
    checks = _check_database()
    is_available = set(checks.values()) == {"ok"}
    checks["models"] = current_app.extensions["model_server"].describe_state()
    executor = current_app.extensions["jobs"].executor
    checks["training engine"] = executor.describe_state() if is_available else "unknown"
    status = "ok" if set(checks.values()) == {"ok"} else "degraded"
    response = jsonify({"status": status if is_available else "unavailable", "checks": checks})
    response.status_code = 200 if is_available else 503
    return response


def _check_database() -> dict[str, str]:
    try:
        with (
            outages_translated(),
            time_limit(DATABASE_DEADLINE - 0.2),  # the rest is for everything else
            db.engine.connect() as connection,
        ):
            revision = MigrationContext.configure(connection).get_current_revision()
    except Unavailable:
        return {"database": "does not answer", "schema": "unknown"}
    newest = _find_newest_revision(current_app.extensions["migrate"].directory)
    schema = "ok" if revision == newest else f"at {revision}, not at {newest}"
    return {"database": "ok", "schema": schema}


@cache
def _find_newest_revision(directory: str) -> str | None:
    return ScriptDirectory(directory).get_current_head()
