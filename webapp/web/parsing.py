"""How requests are read: JSON bodies strictly, and nothing that the document does not declare."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import islice
from typing import Any, NoReturn
from urllib.parse import unquote_to_bytes

import marshmallow as ma
from flask import Flask, Request, abort, request
from marshmallow import fields
from webargs.flaskparser import FlaskParser

from webapp.errors import MOST_FAULTS, InvalidInput
from webapp.web import jsonio

SMALL_BODY = 1024 * 1024
"""Most bytes of a JSON body, except where a view takes rows: up to MAX_CONTENT_LENGTH there.

A row of 1,000 features with names of 100 characters takes an eighth of it. 120 MB of JSON took
4.4 GB of memory to parse.
"""


class StrictParser(FlaskParser):
    """Reads JSON bodies by the rules of ``webapp.web.jsonio`` and refuses all other types."""

    def get_default_request(self) -> Request:
        """Return the request itself, not Flask's proxy: it is accessed ten times."""
        return request._get_current_object()  # type: ignore[attr-defined,no-any-return]

    def parse(self, argmap: Any, req: Any = None, *, location: Any = None, **kwargs: Any) -> Any:
        """Return the checked arguments of a view."""
        if location != "json":
            return super().parse(argmap, req, location=location, **kwargs)
        return load(argmap, self.load_json(self.get_default_request(), argmap), source="json")

    def load_json(self, req: Request, schema: ma.Schema, *, most: int = SMALL_BODY) -> Any:
        """Return the object in a JSON body of at most ``most`` bytes.

        Raises InvalidInput, or aborts with 400, 411, 413 or 415.
        """
        # Parsing the usual Content-Type would take 4 of a prediction's 100 µs.
        if req.environ.get("CONTENT_TYPE") != jsonio.JSON and not (
            req.mimetype == jsonio.JSON and is_utf8(req.mimetype_params.get("charset", "utf-8"))
        ):
            abort(415, "The body must be sent as Content-Type: application/json, in UTF-8.")
        req.max_content_length = min(most, req.max_content_length or most)
        try:
            value = jsonio.loads(self.read_json(req))
        except jsonio.MalformedJSON as error:
            abort(400, f"The body is not valid JSON: {error}.")
        if not isinstance(value, dict):
            raise InvalidInput([f"must be an object such as {_show_form(schema)}"], source="json")
        if len(value) > len(schema.fields) + MOST_FAULTS:
            # Before marshmallow writes a message for each of a million unknown fields.
            unknown = (name for name in value if name not in schema.fields)
            raise InvalidInput({name: ["Unknown field."] for name in islice(unknown, MOST_FAULTS)})
        return value

    def read_json(self, req: Request) -> bytes:
        """Return the JSON body before it is decoded."""
        return req.get_data(cache=False)

    def handle_error(self, error: ma.ValidationError, *args: Any, **kwargs: Any) -> NoReturn:
        """Raise InvalidInput for what a schema refused."""
        # webargs has put the messages under the part of the request that they are about.
        messages: dict[str, Any] = error.messages  # type: ignore[assignment]
        ((source, error.messages),) = messages.items()
        raise InvalidInput(error.normalized_messages(), source=source) from None  # type: ignore[no-untyped-call]


def load(schema: ma.Schema, found: Any, *, source: str) -> Any:
    """Return the checked values of a part of a request; raises InvalidInput.

    Good input is read field by field, which saves 9 of a prediction's 100 µs. Marshmallow finds
    every fault of the rest.
    """
    try:
        if getattr(schema, "plain", False) and found.keys() <= schema.load_fields.keys():
            with suppress(ma.ValidationError):
                loaded = {
                    name: field.deserialize(found.get(name, ma.missing), name, found)
                    for name, field in schema.load_fields.items()
                }
                return {name: value for name, value in loaded.items() if value is not ma.missing}
        return schema.load(found)
    except ma.ValidationError as error:
        raise InvalidInput(error.normalized_messages(), source=source) from None  # type: ignore[no-untyped-call]


def is_utf8(charset: str) -> bool:
    """Say whether a charset parameter is one of the usual names of UTF-8 or ASCII."""
    return charset.lower().replace("_", "-") in ("utf-8", "utf8", "us-ascii", "ascii")


def _show_form(schema: ma.Schema) -> str:
    """Return how an object of a schema looks, such as ``{"instances": […]}``."""
    names: Iterable[str] = getattr(schema, "shown_fields", ())  # where none is required alone
    names = names or [name for name, field in schema.fields.items() if field.required]
    plain = (fields.String, fields.Integer)
    shown = (
        f'"{name}": {"…" if isinstance(schema.fields[name], plain) else "[…]"}'
        for name in names or schema.fields
    )
    return f"{{{', '.join(shown)}}}"


def refuse_undeclared(app: Flask, operations: Mapping[tuple[str, str], Mapping[str, Any]]) -> None:
    """Refuse query parameters and bodies that an operation of the document does not declare.

    ``operations`` are by endpoint and method.
    """
    declared = {
        call: (
            {p["name"] for p in operation.get("parameters", ()) if p["in"] == "query"},
            "requestBody" in operation,
        )
        for call, operation in operations.items()
        if "422" in operation["responses"]  # not of probes, to which anything may be added
    }

    def check() -> None:
        environ = request.environ
        method = environ["REQUEST_METHOD"]
        method = "GET" if method == "HEAD" else method
        known, takes_body = declared.get((request.endpoint or "", method), (None, True))
        if known is not None and environ.get("QUERY_STRING"):
            _check_query(known)
        if not takes_body and (request.content_length or "Transfer-Encoding" in request.headers):
            raise InvalidInput(["must be empty: this operation takes no body"], source="body")

    app.before_request(check)


def _check_query(known: set[str]) -> None:
    try:
        # Werkzeug would leave the escapes of other bytes in the text.
        unquote_to_bytes(request.query_string).decode()
    except UnicodeDecodeError:
        abort(400, "The query is not percent-encoded UTF-8.")
    faults: dict[str, list[str]] = {}
    for name, values in request.args.lists():
        if name not in known:
            faults[name] = ["Unknown field."]
        elif len(values) > 1:
            faults[name] = ["Given more than once."]
    if faults:
        raise InvalidInput(faults, source="query")
