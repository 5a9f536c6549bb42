"""`Idempotency-Key`: views that create something answer a repeat as they answered first."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeAlias

import marshmallow as ma
import orjson
from flask import Response, jsonify, request
from marshmallow import fields, validate

from webapp.db.base import keep_nothing
from webapp.extensions import db
from webapp.idempotency import service
from webapp.idempotency.models import KEY_LENGTH
from webapp.idempotency.service import Claim, KeptAnswer
from webapp.web.blueprint import Blueprint, View
from webapp.web.request import current_identity

Headers: TypeAlias = dict[str, str]
REPLAYED = "Idempotency-Replayed"

REPLAYED_HEADER = {
    REPLAYED: {
        "description": "`true` when this is the first answer to the same `Idempotency-Key`.",
        "schema": {"type": "string"},
    }
}


class KeyHeader(ma.Schema):
    """The name that a client gives to one act of creation."""

    key = fields.String(
        data_key="Idempotency-Key",
        validate=validate.Regexp(
            f"^[!-~]{{1,{KEY_LENGTH}}}$", error="Must be 1 to 255 visible ASCII characters."
        ),
        metadata={
            "description": "Any text of your own. For 24 hours, a repeat with the same key and "
            "the same content creates nothing and gets the first answer again; with another "
            "content it is refused (422), and while the first is under way (409)."
        },
    )


class Keeper:
    """Renders the answer to what was made, and stores it in the transaction that makes it."""

    response: Response

    def __init__(self, claim: Claim, render: Callable[[Any], Response]) -> None:
        self._claim = claim
        self._render = render

    def __call__(self, made: Any) -> None:
        """Store the answer; the transaction of the work is open, and ``made`` flushed."""
        self.response = self._render(made)
        headers = dict(self.response.headers.items())
        answer = KeptAnswer(self.response.status_code, headers, self.response.get_data())
        service.keep_answer(db.session(), self._claim, answer)


def idempotent(
    blp: Blueprint,
    schema: ma.Schema,
    announce: Callable[[Any], tuple[Any, Headers]],
    *,
    describe: Callable[[dict[str, Any]], Any] = dict,
    before_repeat: Callable[[], None] = lambda: None,
) -> Callable[[View], View]:
    """Let a view that creates something heed `Idempotency-Key`; the answer's status is 201.

    The view is given ``before_commit``, to be called with what it made within the transaction
    that makes it, and returns what it made. ``announce`` turns that into the object that
    ``schema`` dumps, and the headers of the answer. ``describe`` returns the view's arguments as
    JSON can tell them; ``before_repeat`` is called before an answer is given again.
    """

    def render(made: Any) -> Response:
        content, headers = announce(made)
        response = jsonify(schema.dump(content))
        response.status_code = 201
        response.headers.extend(headers)
        return response

    def create_once(view: View, self: Any, key: str, arguments: Any, path: Any) -> Response:
        session = db.session()
        fingerprint = _fingerprint(describe(arguments))
        found = service.claim_key(session, caller=_caller(), key=key, fingerprint=fingerprint)
        if isinstance(found, KeptAnswer):
            before_repeat()
            return Response(found.body, found.status, {**found.headers, REPLAYED: "true"})
        keeper = Keeper(found, render)
        with service.claim_held(session, db.engine, found):
            view(self, arguments, before_commit=keeper, **path)
        return keeper.response

    def decorate(view: View) -> View:
        @wraps(view)
        def create(self: Any, arguments: Any, header: dict[str, Any], **path: Any) -> Any:
            if "key" in header:
                return create_once(view, self, header["key"], arguments, path)
            return announce(view(self, arguments, before_commit=keep_nothing, **path))

        takes_key = blp.arguments(KeyHeader, location="headers")
        return takes_key(blp.problems(409, 422)(create))  # type: ignore[no-any-return] # untyped

    return decorate


def _caller() -> str:
    """Return whose keys these are: two callers may choose the same one."""
    identity = current_identity()
    return "" if identity is None else identity.holder_id


def _fingerprint(arguments: Any) -> str:
    path = request.path.rstrip("/")  # both forms are one resource
    described = orjson.dumps([path, arguments], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(described).hexdigest()
