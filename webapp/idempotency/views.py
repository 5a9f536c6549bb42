"""Views that create something, with `Idempotency-Key`: a repeat gets the first answer."""

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
from webapp.idempotency.service import KEY_LENGTH, StoredAnswer
from webapp.web.blueprint import Blueprint, View
from webapp.web.openapi import header
from webapp.web.request import current_identity

Headers: TypeAlias = dict[str, str]
REPLAYED = "Idempotency-Replayed"

REPLAYED_HEADER = {
    REPLAYED: header("`true` when this is the first answer to the same `Idempotency-Key`.")
}


class KeyHeader(ma.Schema):
    """The header that names one act of creation."""

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


def idempotent(
    blp: Blueprint,
    schema: ma.Schema,
    announce: Callable[[Any], Response | tuple[Any, Headers]],
    *,
    describe: Callable[[dict[str, Any]], Any] = dict,
    before_repeat: Callable[[], None] = lambda: None,
    status: int = 201,
    headers: type[KeyHeader] = KeyHeader,
) -> Callable[[View], View]:
    """Let a view that creates something take an `Idempotency-Key`; its answer has a ``status``.

    The view gets ``before_commit``, which its service calls with the new object before it
    commits, and returns that object. ``announce`` turns it into what ``schema`` dumps and the
    headers of the answer, or into an answer with another status. ``describe`` returns the view's
    arguments as JSON, to tell a repeat from another request; ``before_repeat`` is called before a
    stored answer is sent. ``headers`` may document more than the key.
    """

    def decorate(view: View) -> View:
        @wraps(view)
        def create(self: Any, arguments: Any, header: dict[str, Any], **path: Any) -> Any:
            if "key" not in header:
                return announce(view(self, arguments, before_commit=keep_nothing, **path))
            session = db.session()
            identity = current_identity()  # two callers may choose the same key
            found = service.claim_key(
                session,
                caller="" if identity is None else identity.holder_id,
                key=header["key"],
                fingerprint=_fingerprint(describe(arguments)),
            )
            if isinstance(found, StoredAnswer):
                before_repeat()
                return Response(found.body, found.status, {**found.headers, REPLAYED: "true"})

            def store(created: Any) -> None:
                announced = announce(created)
                if isinstance(announced, Response):
                    response, headers = announced, dict(announced.headers)
                else:
                    content, headers = announced
                    response = jsonify(schema.dump(content))
                    response.status_code = status
                headers = {"Content-Type": str(response.content_type), **headers}
                answer = StoredAnswer(response.status_code, headers, response.get_data())
                service.store_answer(session, found, answer)

            with service.claim_held(session, db.engine, found):
                return announce(view(self, arguments, before_commit=store, **path))

        takes_key = blp.arguments(headers, location="headers")
        return takes_key(blp.problems(409, 422)(create))  # type: ignore[no-any-return] # untyped

    return decorate


def _fingerprint(arguments: Any) -> str:
    path = request.path.rstrip("/")  # with and without a slash at its end, it is the same resource
    described = orjson.dumps([path, arguments], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(described).hexdigest()
