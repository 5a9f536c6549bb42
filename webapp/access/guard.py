"""The guard before every view: whose request it is, and whether their key allows it."""

from __future__ import annotations

from collections.abc import Mapping

import marshmallow as ma
import sqlalchemy as sa
from flask import Flask, has_request_context, request
from marshmallow import fields

from webapp.access.keyring import Keyring
from webapp.access.service import KeyMissing, KeyRefused, ScopeMissing
from webapp.audit.service import Actor, set_actor_source
from webapp.scopes import Scope
from webapp.web.blueprint import Blueprint
from webapp.web.request import IDENTITY_KEY, current_identity, request_id

PUBLIC_BLUEPRINTS = {"docs"}  # pages that show nothing but what the source code does

# Under /health, where requests are neither limited nor queued.
blp = Blueprint(
    "access", __name__, url_prefix="/health", description="API keys.", ignores_undeclared=True
)


class KeySchema(ma.Schema):
    """The API key is good."""

    status = fields.String(required=True, metadata={"example": "ok"})


@blp.route("/key", get="check_key")
@blp.allow(*Scope)
@blp.response(200, KeySchema)
def key() -> dict[str, str]:
    """Say whether the API key is good, whatever it allows.

    A proxy asks this before it takes in a large body. Where no keys are needed, the answer is yes.
    """
    return {"status": "ok"}


def classify_routes(app: Flask) -> Mapping[tuple[str, str], frozenset[str]]:
    """Return the scopes, one of which a key needs, by endpoint and method; none for public routes.

    Raises RuntimeError where a route has not declared them.
    """
    declared = {
        call: scopes
        for blueprint in app.blueprints.values()
        if isinstance(blueprint, Blueprint)
        for call, scopes in blueprint.allowed.items()
    }
    needed = {}
    for rule in app.url_map.iter_rules():
        is_public = rule.endpoint.rpartition(".")[0] in PUBLIC_BLUEPRINTS
        for method in rule.methods or ():
            call = (rule.endpoint, "GET" if method == "HEAD" else method)
            if method == "OPTIONS" or is_public:
                needed[rule.endpoint, method] = frozenset[str]()
            elif call in declared:  # as plain text: the members of an Enum hash slowly
                needed[rule.endpoint, method] = frozenset(map(str, declared[call]))
            else:
                raise RuntimeError(f"{method} {rule.rule}: declare who may call it by blp.allow")
    return needed


def init_app(app: Flask, engine: sa.Engine, *, lease: float) -> None:
    """Guard an application whose routes are all registered; ``lease`` is in seconds.

    Where the setting AUTH is off, everybody may do everything.
    """
    table = classify_routes(app)
    keyring = app.extensions["keyring"] = Keyring(engine, lease=lease)

    def guard() -> None:
        rule = request.url_rule
        needed = None if rule is None else table[rule.endpoint, request.method]
        if not needed:  # public, or a 404 or 405 that Flask answers later
            return
        scheme, _, text = request.environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        if not scheme:
            raise KeyMissing
        if scheme.lower() != "bearer":
            raise KeyRefused("The API key must be sent as `Authorization: Bearer KEY`.")
        identity = keyring.identify(text)
        request.environ[IDENTITY_KEY] = identity  # before a refusal too: for log and limits
        if needed.isdisjoint(identity.scopes):
            raise ScopeMissing(sorted(needed))

    if app.config["AUTH"] == "on":
        app.before_request(guard)
        app.extensions["guard"] = guard
    set_actor_source(_find_actor)


def _find_actor() -> Actor | None:
    """Return who sent the current request; None outside of requests."""
    if not has_request_context():
        return None
    identity = current_identity()
    name = None if identity is None else identity.name
    return Actor(name, request.remote_addr, request_id())
