"""This service's dialect of flask-smorest: strict parsing, one error shape, own paging.

Strictness lives here once, for every endpoint: what counts as a JSON body, how large it may
be, and that a query parameter which nobody declared is refused.
"""

from __future__ import annotations

import http
import re
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from itertools import islice
from typing import Any, NoReturn, TypeVar, cast
from urllib.parse import unquote_to_bytes

import flask.views
import flask_smorest
import marshmallow as ma
from flask import Flask, Request, abort, request
from flask_smorest.utils import resolve_schema_instance
from marshmallow import fields
from webargs.flaskparser import FlaskParser
from werkzeug.http import HTTP_STATUS_CODES
from werkzeug.routing import BaseConverter

from webapp.errors import MOST_FAULTS, InvalidInput
from webapp.web import jsonio
from webapp.web.application import WholeRequest
from webapp.web.body import MalformedBody

View = TypeVar("View", bound=Callable[..., Any])

OPENAPI_VERSION = "3.1.0"
JSON = "application/json"
PROBLEM_CONTENT_TYPE = "application/problem+json"
LARGEST_ID = 2**63 - 1
SMALL_BODY = 1024 * 1024
"""Most bytes of a JSON body, unless a view takes rows or files: up to MAX_CONTENT_LENGTH then.

A row of a thousand features with names of 100 characters is an eighth of it. 120 MB of JSON took
4.4 GB of memory to parse.
"""
SECURITY_SCHEME = "ApiKey"


_EXAMPLE_DETAILS = {
    400: "The body is not valid JSON: unexpected end of data (line 1, column 9).",
    401: "An API key is needed: send it as `Authorization: Bearer KEY`.",
    403: "The API key lacks the scope ml:train.",
    404: "There is no item 7.",
    409: "The model 'default' is not trained: train it before predicting.",
    411: "The body must be sent with a Content-Length.",
    413: "The body is larger than 1,048,576 bytes (unpacked), the most that is taken here.",
    412: "Item 7 has changed: read it again, then repeat the request.",
    415: "The body must be sent as Content-Type: application/json.",
    422: "json.features: has 2 values, expected 3",
    503: "The database is not available.",
}


class ProblemSchema(ma.Schema):
    """The one shape of every error (RFC 9457)."""

    type = fields.String(required=True)
    title = fields.String(required=True)
    status = fields.Integer(required=True)
    detail = fields.String(
        required=True, metadata={"description": "What is wrong, in one sentence."}
    )
    instance = fields.String(required=True, metadata={"description": "Path of the request."})
    request_id = fields.String(
        required=True,
        metadata={"description": "The id to quote to an operator; also in `X-Request-ID`."},
    )
    errors = fields.Dict(
        keys=fields.String(),
        metadata={
            "description": "What is wrong where: a place in the request, down to row and column, "
            "mapped to messages."
        },
    )


class MethodView(flask.views.MethodView):
    """A view that is made once, and calls the method of a request without a detour.

    Flask would look at each step whether what it calls is a coroutine.
    """

    init_every_request = False

    @classmethod
    def as_view(cls, name: str, *args: Any, **kwargs: Any) -> Any:
        """Return the view as a function, for a URL rule."""
        described = super().as_view(name, *args, **kwargs)
        made = cls(*args, **kwargs)
        methods = {method: getattr(made, method.lower()) for method in cls.methods or ()}
        methods.setdefault("HEAD", methods.get("GET"))

        @wraps(described)
        def view(**kwargs: Any) -> Any:
            return methods[current_request().method](**kwargs)

        return view


class StrictParser(FlaskParser):
    """Reads JSON bodies by the rules of ``webapp.web.jsonio`` and refuses everything else."""

    def parse(
        self,
        argmap: Any,
        req: Request | None = None,
        *,
        location: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Return the checked arguments of a view.

        Of a JSON body or a query, without webargs' further steps.
        """
        req = req or current_request()
        if location == "json":
            req.max_content_length = min(SMALL_BODY, req.max_content_length or SMALL_BODY)
            found = self.load_json(req, argmap)
        elif location == "query":
            # What is unknown, or given twice, is refused before the view, for all views alike.
            found = {name: req.args[name] for name in argmap.fields if name in req.args}
        else:
            return super().parse(argmap, req, location=location, **kwargs)
        return load(argmap, found, source=location)

    def get_default_request(self) -> Request:
        """Return the request to read."""
        return current_request()

    def load_json(self, req: Request, schema: ma.Schema) -> Any:
        """Return the object in the JSON body; raises InvalidInput, or 400, 411, 413 or 415."""
        if req.environ.get("CONTENT_TYPE") != JSON and not _is_json(req):
            abort(415, "The body must be sent as Content-Type: application/json, in UTF-8.")
        try:
            value = jsonio.loads(self.read_json(req))
        except jsonio.MalformedJSON as error:
            raise MalformedBody(f"The body is not valid JSON: {error}.") from None
        if not isinstance(value, dict):
            raise InvalidInput([f"must be an object such as {_show_form(schema)}"], source="json")
        if len(value) > len(schema.fields) + MOST_FAULTS:
            # At once: marshmallow would first write a message for each of a million.
            unknown = (name for name in value if name not in schema.fields)
            first = islice(unknown, MOST_FAULTS)
            raise InvalidInput({name: ["Unknown field."] for name in first})
        return value

    def read_json(self, req: Request) -> bytes | bytearray:
        """Return the JSON body before it is decoded."""
        return cast(WholeRequest, req).read_body()

    def handle_error(self, error: ma.ValidationError, *args: Any, **kwargs: Any) -> NoReturn:
        """Turn a schema's complaint into the domain's error for unacceptable input."""
        # webargs has put the messages under the part of the request that they speak of.
        ((source, faults),) = error.normalized_messages().items()  # type: ignore[no-untyped-call]
        raise InvalidInput(faults, source=source) from None


def current_request() -> Request:
    """Return the request itself: through Flask's proxy, each look at it costs another search."""
    return request._get_current_object()  # type: ignore[attr-defined,no-any-return]


def load(schema: ma.Schema, found: Any, *, source: str) -> Any:
    """Return the checked values of what was found in a part of a request; raises InvalidInput."""
    try:
        return schema.load(found)
    except ma.ValidationError as error:
        raise InvalidInput(error.normalized_messages(), source=source) from None  # type: ignore[no-untyped-call]


def is_utf8(charset: str) -> bool:
    """Say whether a charset parameter names UTF-8, in any of the ways that are in use."""
    return charset.lower().replace("_", "-") in ("utf-8", "utf8", "us-ascii", "ascii")


def _is_json(req: Request) -> bool:
    return req.mimetype == JSON and is_utf8(req.mimetype_params.get("charset", "utf-8"))


def _show_form(schema: ma.Schema) -> str:
    """Return how an object of a schema looks, such as ``{"instances": […]}``."""
    needed = {name: field for name, field in schema.fields.items() if field.required}
    plain = (fields.String, fields.Integer)
    shown = (
        f'"{name}": {"…" if isinstance(field, plain) else "[…]"}'
        for name, field in (needed or schema.fields).items()
    )
    return f"{{{', '.join(shown)}}}"


class IdConverter(BaseConverter):
    """A path segment that is the id of a row: 1 to 2^63 - 1, in at most 19 digits."""

    regex = "[0-9]{1,19}"

    def to_python(self, value: str) -> int:
        """Return the id; one beyond the databases' range names no row."""
        number = int(value)
        if number > LARGEST_ID:
            abort(404)
        return number


class NameConverter(BaseConverter):
    """A path segment that is a name: lower-case letters, digits and ``. _ -``."""

    pattern = "[a-z0-9][a-z0-9._-]{0,62}"
    _name = re.compile(pattern)

    def to_python(self, value: str) -> str:
        """Return the name; where it is none, say what a name is (404)."""
        if not self._name.fullmatch(value):
            abort(
                404,
                "This is not a valid name: a name has 1 to 63 characters of a-z, 0-9, '.', '_' "
                "and '-', and begins with a letter or a digit.",
            )
        return value


class Blueprint(flask_smorest.Blueprint):
    """A flask-smorest blueprint that is strict, and that documents errors in one line.

    It refuses query parameters and bodies that a view has not declared; with
    ``ignores_undeclared`` it passes over them, as probes need it.
    """

    ARGUMENTS_PARSER = StrictParser()

    def __init__(self, *args: Any, ignores_undeclared: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.allowed: dict[tuple[str, str], frozenset[Any]] = {}
        self.statuses: dict[tuple[str, str], list[str]] = {}
        self._query_names: dict[tuple[str, str], frozenset[str]] = {}
        self._takes_body: set[tuple[str, str]] = set()
        self._ignores_undeclared = ignores_undeclared
        if not ignores_undeclared:
            self.before_request(self._refuse_what_is_not_declared)

    def add_url_rule(self, rule: str, *args: Any, **options: Any) -> None:
        """Register a route; ``get="list_items"`` and the like name its operations by method.

        A name is what generated clients call the operation. Raises KeyError where one is missing.
        """
        methods = [method.lower() for method in self.HTTP_METHODS]
        names = {method: options.pop(method) for method in methods if method in options}
        super().add_url_rule(rule, *args, **options)
        for method, doc in self._docs[self._endpoints[-1]].items():
            if method != "parameters":
                manual = doc.get("manual_doc", {})
                doc["manual_doc"] = {**manual, "operationId": names[method]}

    def arguments(self, schema: Any, *, location: str = "json", **kwargs: Any) -> Any:
        """Declare what a view takes; the schema is built once, not per request.

        flask-smorest's and webargs' decorators would wrap the view twice.
        """
        schema = resolve_schema_instance(schema)
        document = super().arguments(schema, location=location, **kwargs)
        parse = self.ARGUMENTS_PARSER.parse

        def decorate(view: View) -> View:
            @wraps(view)
            def parse_and_view(*args: Any, **kwargs: Any) -> Any:
                return view(*args, parse(schema, location=location), **kwargs)

            parse_and_view._apidoc = document(view)._apidoc  # type: ignore[attr-defined] # smorest's own
            if location in self.DEFAULT_LOCATION_CONTENT_TYPE_MAPPING:
                return cast(View, self.problems(400, 411, 413, 415)(parse_and_view))
            return cast(View, parse_and_view)

        return decorate

    def problems(self, *codes: int) -> Callable[[View], View]:
        """Document the errors that a view may answer with."""

        def decorate(view: View) -> View:
            for code in codes:
                view = self.alt_response(code, http.HTTPStatus(code).name)(view)
            return view

        return decorate

    def allow(self, *scopes: str) -> Callable[[View], View]:
        """Let a view be called by those whose key has one of these scopes; by all without any.

        To stand above all other decorators of the view. Which scopes each endpoint and method
        asks for is then in ``allowed``.
        """
        document = self.doc(security=[{SECURITY_SCHEME: [scope]} for scope in scopes])

        def decorate(view: View) -> View:
            if scopes:
                view = self.problems(401, 403)(view)
            view._apidoc = {**document(view)._apidoc, "allowed": frozenset(scopes)}  # type: ignore[attr-defined] # smorest's own
            return view

        return decorate

    def alt_response(self, *args: Any, **kwargs: Any) -> Callable[[View], View]:
        """Document another answer of a view.

        flask-smorest's decorator also wraps the view, once for each answer, only to call it.
        """
        document = super().alt_response(*args, **kwargs)

        def decorate(view: View) -> View:
            view._apidoc = document(view)._apidoc  # type: ignore[attr-defined] # smorest's own
            return view

        return decorate

    def _store_endpoint_docs(
        self, endpoint: str, obj: Any, parameters: Any, tags: Any, **options: Any
    ) -> None:
        super()._store_endpoint_docs(endpoint, obj, parameters, tags, **options)
        for method, doc in self._docs[endpoint].items():
            if method == "parameters":
                continue
            if not self._ignores_undeclared:
                responses = doc.setdefault("response", {}).setdefault("responses", {})
                responses.setdefault(422, [http.HTTPStatus.UNPROCESSABLE_ENTITY.name])
            declared = doc.get("arguments", {}).get("parameters", [])
            call = (f"{self.name}.{endpoint}", method.upper())
            documented = doc.get("response", {}).get("responses", {})
            self.statuses[call] = [
                str(int(status)) for status in documented if status != "default"
            ]
            allowed = doc.pop("allowed", None)
            if allowed is not None:
                self.allowed[call] = allowed
            self._query_names[call] = frozenset(
                name for parameter in declared for name in self.query_names(parameter)
            )
            if any(p["in"] in self.DEFAULT_LOCATION_CONTENT_TYPE_MAPPING for p in declared):
                self._takes_body.add(call)

    def query_names(self, parameter: Mapping[str, Any]) -> Iterable[str]:
        """Return the query parameters that a declared argument of a view allows."""
        return parameter["schema"].fields if parameter["in"] == "query" else ()

    def _refuse_what_is_not_declared(self) -> None:
        here = current_request()
        method = "GET" if here.method == "HEAD" else here.method
        if method == "OPTIONS":
            return
        call = (str(here.endpoint), method)
        if here.query_string:
            self._refuse_unknown_query(call)
        if call not in self._takes_body:
            _refuse_body(here)

    def _refuse_unknown_query(self, call: tuple[str, str]) -> None:
        _check_query_is_text(request.query_string)
        known = self._query_names.get(call, frozenset())
        faults: dict[str, list[str]] = {
            name: ["Unknown field."] for name in request.args if name not in known
        }
        for name, values in request.args.lists():
            if name in known and len(values) > 1:
                faults[name] = ["Given more than once."]
        if faults:
            raise InvalidInput(faults, source="query")


def list_outcomes(app: Flask) -> list[tuple[str, str, str]]:
    """Return URL rule, method and status of what views document, and of what may befall any."""
    statuses = {
        call: {*found, "500", "503"}
        for blueprint in app.blueprints.values()
        if isinstance(blueprint, Blueprint)
        for call, found in blueprint.statuses.items()
    }
    return [
        (str(rule.rule), method, status)
        for rule in app.url_map.iter_rules()
        for method in sorted(rule.methods or ())
        for status in sorted(statuses.get((rule.endpoint, method), ()))
    ]


def _refuse_body(req: Request) -> None:
    """Refuse a body where none is read: what it asks for would not happen."""
    if req.content_length or "Transfer-Encoding" in req.headers:
        raise InvalidInput(["is not taken here"], source="body")


def _check_query_is_text(query: bytes) -> None:
    # Werkzeug would leave the escapes of other bytes as they are: a search would look for them.
    try:
        unquote_to_bytes(query).decode()
    except UnicodeDecodeError:
        abort(400, "The query is not percent-encoded UTF-8.")


class Api(flask_smorest.Api):
    """The OpenAPI document, with errors as ``application/problem+json``."""

    ERROR_SCHEMA = ProblemSchema

    def init_app(self, app: Flask, *, spec_kwargs: Mapping[str, Any] | None = None) -> None:
        """Bind to an application: title, converters and document."""
        app.url_map.converters["id"] = IdConverter
        app.url_map.converters["name"] = NameConverter
        super().init_app(app, spec_kwargs=spec_kwargs)
        self.register_converter(
            IdConverter,
            lambda _: {"type": "integer", "format": "int64", "minimum": 1, "maximum": LARGEST_ID},
        )

        self.register_converter(
            NameConverter, lambda _: {"type": "string", "pattern": f"^{NameConverter.pattern}$"}
        )

    def _register_error_handlers(self) -> None:
        """Leave errors to ``webapp.web.problems``."""

    def _register_responses(self) -> None:
        for status in http.HTTPStatus:
            if status >= 400:
                self._register_problem(status.name, status, HTTP_STATUS_CODES.get(status, ""))
        self.spec.components.security_scheme(
            SECURITY_SCHEME,
            {
                "type": "http",
                "scheme": "bearer",
                "description": "An API key, as `flask keys create` makes it. Each call names the "
                "scopes one of which the key needs.",
            },
        )
        self._register_problem("DEFAULT_ERROR", 500, "Any other error, in the same shape")

    def _register_problem(self, name: str, status: int, description: str) -> None:
        example: dict[str, Any] = {
            "type": "about:blank",
            "title": HTTP_STATUS_CODES.get(status, description),
            "status": status,
            "detail": _EXAMPLE_DETAILS.get(status, description),
            "instance": "/api/v1/…",
            "request_id": "3f0c5b6a0d5e4d1fb0f6f2f9a3c1c7de",
        }
        if status == http.HTTPStatus.UNPROCESSABLE_ENTITY:
            example["errors"] = {"json": {"features": ["has 2 values, expected 3"]}}
        media = {"schema": self.ERROR_SCHEMA, "example": example}
        response = {"description": description, "content": {PROBLEM_CONTENT_TYPE: media}}
        self.spec.components.response(name, response, lazy=True)

    def _register_etag_headers(self) -> None:
        """Leave out what flask-smorest would document of ETags: ours are documented by hand."""

    def _register_pagination_header(self) -> None:
        """Leave out what flask-smorest would document of pages; see ``webapp.web.paging``."""
