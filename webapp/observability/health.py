"""Whether the process lives and whether it can serve: for supervisors and balancers."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from flask import Flask, Response, current_app, jsonify
from marshmallow import fields, validate

from webapp.db.outages import outages_translated
from webapp.db.postgresql import time_limit
from webapp.errors import Unavailable
from webapp.extensions import db
from webapp.web.blueprint import Blueprint
from webapp.web.fields import StrictSchema

DATABASE_DEADLINE = 2.0  # seconds until the answer, whatever the database does
MARGIN = 0.2  # of them, for all but the database

# Whoever asks may add what it likes: no probe must fail for a query.
blp = Blueprint(
    "health",
    __name__,
    url_prefix="/health",
    description="Is it alive, can it serve?",
    ignores_undeclared=True,
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
        metadata={"example": {"database": "ok", "schema": "ok", "models": "ok"}},
    )


@blp.route("/live", get="check_liveness")
@blp.allow()
@blp.response(200, LiveSchema)
def live() -> dict[str, str]:
    """Say that the process answers."""
    return {"status": "ok"}


@blp.route("/ready", get="check_readiness")
@blp.allow()
@blp.response(200, ReadySchema)
@blp.alt_response(503, schema=ReadySchema, description="Cannot serve; names the failing part.")
def ready() -> Response:
    """Say whether the service can serve.

    200 only when the database answers and its schema is at the newest revision. `degraded` when
    this worker serves a model from stale knowledge, or cannot load a version that should serve:
    another worker would do no better, so the answer is still 200.
    """
    required = _check_database()
    others = {name: describe() for name, describe in current_app.extensions["health"].items()}
    checks = {**required, **others}
    if set(required.values()) != {"ok"}:
        status = "unavailable"
    else:
        status = "ok" if set(others.values()) <= {"ok"} else "degraded"
    response = jsonify({"status": status, "checks": checks})
    response.status_code = 503 if status == "unavailable" else 200
    return response


def init_app(app: Flask, **parts: Callable[[], str]) -> None:
    """Have readiness name further parts; each function returns ``ok``, or what is wrong.

    A part that is not ``ok`` makes the service ``degraded``.
    """
    app.extensions["health"] = parts


def _check_database() -> dict[str, str]:
    try:
        with (
            outages_translated(),
            time_limit(DATABASE_DEADLINE - MARGIN),
            db.engine.connect() as connection,
        ):
            revision = MigrationContext.configure(connection).get_current_revision()
    except Unavailable:
        return {"database": "does not answer", "schema": "unknown"}
    newest = newest_revision(current_app.extensions["migrate"].directory)
    if revision != newest:
        return {"database": "ok", "schema": f"at {revision}, not at {newest}"}
    return {"database": "ok", "schema": "ok"}


@cache
def newest_revision(directory: str) -> str | None:
    """Return the newest revision among the migrations in a folder."""
    return ScriptDirectory(directory).get_current_head()
