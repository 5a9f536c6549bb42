"""The guard before every view: who asks, and whether they may."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import TypeAlias

import sqlalchemy as sa
from flask import Flask, current_app, has_request_context, request
from sqlalchemy.orm import Session

from webapp.access import service
from webapp.access.errors import KeyMissing, KeyRefused, ScopeMissing
from webapp.access.keyring import Keyring, StoredKey
from webapp.access.models import ApiKey
from webapp.actor import Actor, set_actor_source
from webapp.db.outages import outages_translated
from webapp.db.postgresql import time_limit
from webapp.scopes import Scope
from webapp.web.blueprint import Blueprint
from webapp.web.request import Identity, current_identity, remember_identity, request_id

MOST_RECENT = 100  # keys that a question brings along: about a millisecond for as many
DEADLINE = 2.0  # seconds that a request waits for the database's word on its key
_BEARER = "Bearer "
# Pages for people, which hold nothing but what the source code does.
PUBLIC_BLUEPRINTS = frozenset({"docs"})
# What has no place in the OpenAPI document, and so says nothing by itself.
PLAIN = {("metrics.Metrics", "GET"): frozenset({Scope.METRICS_READ})}

Call: TypeAlias = tuple[str, str]
"""An endpoint and a method."""


class Unclassified(RuntimeError):
    """A route says neither that it is public nor which scope it asks for."""


def classify_routes(app: Flask) -> Mapping[Call, frozenset[str]]:
    """Return the scopes one of which each route asks for; none for a public one.

    Raises Unclassified.
    """
    declared = PLAIN | {
        call: scopes
        for blueprint in app.blueprints.values()
        if isinstance(blueprint, Blueprint)
        for call, scopes in blueprint.allowed.items()
    }
    found = {}
    for rule in app.url_map.iter_rules():
        blueprint = rule.endpoint.rpartition(".")[0]
        for method in rule.methods or ():
            call = (rule.endpoint, method)
            if method == "OPTIONS" or blueprint in PUBLIC_BLUEPRINTS:
                found[call] = frozenset[str]()
                continue
            asked = declared.get((rule.endpoint, "GET" if method == "HEAD" else method))
            if asked is None:
                raise Unclassified(f"{method} {rule.rule}")
            found[call] = frozenset(map(str, asked))  # plain ones: an Enum hashes slowly
    return found


def init_app(app: Flask, engine: sa.Engine, *, lease: float) -> None:
    """Guard an application whose routes are all registered; ``lease`` in seconds.

    Where its setting AUTH is off, everybody may do everything.
    """
    table = classify_routes(app)
    keyring = app.extensions["keyring"] = make_keyring(engine, lease=lease)

    def guard() -> None:
        rule = request.url_rule
        asked = None if rule is None else table[rule.endpoint, request.method]
        if not asked:  # public, or no route: that is said later
            return
        identity = keyring.identify(_read_key(request.environ.get("HTTP_AUTHORIZATION")))
        remember_identity(request, identity)  # also of whoever may not: for the log and the limits
        if asked.isdisjoint(identity.scopes):
            raise ScopeMissing(sorted(asked))

    if app.config["AUTH"] == "on":
        app.before_request(guard)
        app.extensions["guard"] = guard
    set_actor_source(_find_actor)


def _find_actor() -> Actor | None:
    """Return who sent the present request; None outside of one."""
    if not has_request_context():
        return None
    identity = current_identity()
    name = None if identity is None else identity.name
    return Actor(name, request.remote_addr, request_id())


def make_keyring(engine: sa.Engine, *, lease: float) -> Keyring:
    """Return the keyring of a process, reading from a database; lease in seconds."""

    def find_recent_keys() -> Mapping[str, StoredKey]:
        with outages_translated(), time_limit(DEADLINE), Session(engine) as session:
            keys = service.list_recent_keys(session, most=MOST_RECENT)
            return {key.digest: _describe_key(key) for key in keys}

    def find_key(digest: str) -> StoredKey | None:
        with outages_translated(), time_limit(DEADLINE), Session(engine) as session:
            key = service.find_key(session, digest)
            return None if key is None else _describe_key(key)

    def note_uses(uses: Mapping[str, datetime]) -> None:
        with outages_translated(), Session(engine) as session:
            service.note_uses(session, uses)

    return Keyring(
        find_recent_keys=find_recent_keys,
        find_key=find_key,
        note_uses=note_uses,
        lease=lease,
        deadline=DEADLINE,
    )


def _describe_key(key: ApiKey) -> StoredKey:
    return StoredKey(
        identity=Identity(key.key_id, key.holder_id, key.name, frozenset(key.scopes)),
        digest=key.digest,
        expires_at=math.inf if key.expires_at is None else key.expires_at.timestamp(),
        revoked=key.revoked_at is not None,
    )


def wait_until_heeded() -> None:
    """Wait until whoever revoked a key before now may say that no worker accepts it."""
    keyring: Keyring = current_app.extensions["keyring"]
    keyring.wait_out_leases()


def _read_key(header: str | None) -> str:
    if not header:
        raise KeyMissing
    if not header.startswith(_BEARER) and header[: len(_BEARER)].lower() != _BEARER.lower():
        raise KeyRefused("The API key must be sent as `Authorization: Bearer KEY`.")
    return header[len(_BEARER) :]
