"""The OpenAPI document: the shape of errors, types of path parameters, and what it documents."""

from __future__ import annotations

import http
import re
from collections.abc import Mapping
from typing import Any

import flask_smorest
import marshmallow as ma
from flask import Flask, abort
from marshmallow import fields
from werkzeug.http import HTTP_STATUS_CODES
from werkzeug.routing import BaseConverter

OPENAPI_VERSION = "3.1.0"
PROBLEM_CONTENT_TYPE = "application/problem+json"
SECURITY_SCHEME = "ApiKey"
LARGEST_ID = 2**63 - 1
_EXAMPLES = {
    400: "The body is not valid JSON: unexpected end of data (line 1, column 9).",
    404: "There is no item 7.",
    409: "The model 'default' has no active version: train it, or activate a version of it.",
    422: "json.features: has 2 values, expected 3",
}


class ProblemSchema(ma.Schema):
    """The one shape of every error (RFC 9457)."""

    type = fields.String(required=True)
    title = fields.String(required=True)
    status = fields.Integer(required=True)
    detail = fields.String(required=True, metadata={"description": "What is wrong."})
    instance = fields.String(required=True, metadata={"description": "Path of the request."})
    request_id = fields.String(
        required=True, metadata={"description": "Also in `X-Request-ID`: tell it to support."}
    )
    errors = fields.Dict(
        keys=fields.String(), metadata={"description": "Messages by field, then row, then column."}
    )


def header(description: str, **schema: str) -> dict[str, Any]:
    """Return a header of an answer as OpenAPI describes it."""
    return {"description": description, "schema": {"type": "string", **schema}}


class IdConverter(BaseConverter):
    """A path segment that is the id of a row: 1 to 2^63 - 1, in at most 19 digits."""

    regex = "[0-9]{1,19}"

    def to_python(self, value: str) -> int:
        """Return the id; 404 for one that no database can store."""
        number = int(value)
        if number > LARGEST_ID:
            abort(404)
        return number


class NameConverter(BaseConverter):
    """A path segment that is a name: lower-case letters, digits and ``. _ -``."""

    pattern = "[a-z0-9][a-z0-9._-]{0,62}"

    def to_python(self, value: str) -> str:
        """Return the name; for any other text, 404 with the rule for names."""
        if not re.fullmatch(self.pattern, value):
            rule = "1 to 63 characters of a-z, 0-9, '.', '_' and '-', the first a letter or digit"
            abort(404, f"This is not a valid name: a name has {rule}.")
        return value


class Api(flask_smorest.Api):
    """The OpenAPI document, with errors as ``application/problem+json``."""

    ERROR_SCHEMA = ProblemSchema

    def init_app(self, app: Flask, *, spec_kwargs: Mapping[str, Any] | None = None) -> None:
        """Bind to an application: path parameters, responses and security scheme."""
        app.url_map.converters |= {"id": IdConverter, "name": NameConverter}
        super().init_app(app, spec_kwargs=spec_kwargs)
        of_id = {"type": "integer", "format": "int64", "minimum": 1, "maximum": LARGEST_ID}
        of_name = {"type": "string", "pattern": f"^{NameConverter.pattern}$"}
        self.register_converter(IdConverter, lambda _: of_id)
        self.register_converter(NameConverter, lambda _: of_name)
        self.spec.components.security_scheme(
            SECURITY_SCHEME,
            {
                "type": "http",
                "scheme": "bearer",
                "description": "An API key, as `flask keys create` makes it. Each operation "
                "lists scopes; the key needs one of them.",
            },
        )
        # In place of flask-smorest's own, which are application/json.
        for status in http.HTTPStatus:
            if status >= 400:
                self._document_problem(status.name, status, HTTP_STATUS_CODES.get(status, ""))
        self._document_problem("DEFAULT_ERROR", 500, "Any other error, in the same shape.")

    def _document_problem(self, name: str, status: int, description: str) -> None:
        example: dict[str, Any] = {
            "type": "about:blank",
            "title": description,
            "status": status,
            "detail": _EXAMPLES.get(status, description),
            "instance": "/api/v1/…",
            "request_id": "3f0c5b6a0d5e4d1fb0f6f2f9a3c1c7de",
        }
        if status == 422:
            example["errors"] = {"json": {"features": ["has 2 values, expected 3"]}}
        media = {"schema": self.ERROR_SCHEMA, "example": example}
        response = {"description": description, "content": {PROBLEM_CONTENT_TYPE: media}}
        self.spec.components.response(name, response, lazy=True)

    def list_operations(self, app: Flask) -> dict[tuple[str, str], dict[str, Any]]:
        """Return every operation of the document, by endpoint and method."""
        paths, found = self.spec.to_dict()["paths"], {}
        for rule in app.url_map.iter_rules():
            path = re.sub(r"<(?:[^:<>]+:)?([^<>]+)>", r"{\1}", rule.rule)  # as OpenAPI writes it
            for method, operation in paths.get(path, {}).items():
                if method != "parameters":
                    found[rule.endpoint, method.upper()] = operation
        return found

    def list_outcomes(self, app: Flask) -> list[tuple[str, str, str]]:
        """Return URL rule, method and status of all documented answers, and of 500 and 503."""
        operations = self.list_operations(app)
        return [
            (rule.rule, method, status)
            for rule in app.url_map.iter_rules()
            for method in sorted(rule.methods or ())
            if (operation := operations.get((rule.endpoint, method)))
            for status in sorted({*operation["responses"], "500", "503"} - {"default"})
        ]
