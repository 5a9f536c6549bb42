"""What browsers are told: what a page may load, who may read an answer, what may be kept."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

from flask import Flask, Response
from werkzeug.exceptions import SecurityError

from webapp.web.api import current_request

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

Headers: TypeAlias = list[tuple[str, str]]

CSP = "Content-Security-Policy"
CACHING = "Cache-Control"
HSTS = ("Strict-Transport-Security", "max-age=31536000")  # a year; subdomains are not ours

# An answer is data: whatever a browser takes it for, nothing in it may run, load, or be framed.
NOT_A_PAGE = (CSP, "default-src 'none'; frame-ancestors 'none'")
# The pages of `webapp.ui.docs`. Swagger UI's stylesheet has its icons as data URLs.
PAGE: Headers = [
    (
        CSP,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Permissions-Policy", "camera=(), geolocation=(), microphone=()"),
    (CACHING, "no-cache"),
]
EVERYWHERE: Headers = [
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),  # for browsers that know no frame-ancestors
    ("Referrer-Policy", "no-referrer"),
    # Of what is embedded without asking; who asks (CORS) is answered below.
    ("Cross-Origin-Resource-Policy", "same-origin"),
]
# May be kept, by the browser alone, and asked about before each use.
WITH_ETAG = (CACHING, "private, no-cache")
WITHOUT_ETAG = (CACHING, "no-store")

ALLOWED_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE"
ALLOWED_HEADERS = (
    "Authorization, Content-Encoding, Content-Type, Idempotency-Key, If-Match, If-None-Match, "
    "X-Request-ID"
)
EXPOSED_HEADERS = (
    "Content-Disposition, Digest, ETag, Idempotency-Replayed, Link, Location, Retry-After, "
    "WWW-Authenticate, X-Model, X-Model-Stale, X-Pagination, X-Request-ID"
)
PREFLIGHT: Headers = [
    ("Access-Control-Allow-Methods", ALLOWED_METHODS),
    ("Access-Control-Allow-Headers", ALLOWED_HEADERS),
    ("Access-Control-Max-Age", "7200"),  # seconds: browsers take no more
]


def init_app(app: Flask) -> None:
    """Tell browsers with every answer of an application what they need to know.

    To be called before the guard's and the limits': a preflight has no key, and counts for
    nothing; the answers of both are told about too.
    """
    if app.config["TRUSTED_HOSTS"]:
        app.before_request(_refuse_unknown_host)
    if app.config["CORS_ORIGINS"]:
        app.before_request(_answer_preflight)
        app.after_request(_make_sharer(app.config["CORS_ORIGINS"]))
    app.wsgi_app = Framed(app.wsgi_app)  # type: ignore[method-assign] # Flask's documented way


def _refuse_unknown_host() -> None:
    # At once: the guard would ask for a key first.
    fault = current_request().routing_exception
    if isinstance(fault, SecurityError):
        raise fault


def _answer_preflight() -> Response | None:
    """Answer a browser that asks whether a page may send a request, before it sends it."""
    here = current_request()
    if here.method != "OPTIONS" or "HTTP_ACCESS_CONTROL_REQUEST_METHOD" not in here.environ:
        return None
    return Response(status=204, headers=PREFLIGHT)


def _make_sharer(origins: Collection[str]) -> Callable[[Response], Response]:
    """Return what lets pages of these origins read an answer; without cookies: there are none."""

    def share(response: Response) -> Response:
        response.headers.add("Vary", "Origin")
        origin = current_request().environ.get("HTTP_ORIGIN")
        if origin in origins:
            response.headers.add("Access-Control-Allow-Origin", origin)
            response.headers.add("Access-Control-Expose-Headers", EXPOSED_HEADERS)
        return response

    return share


class Framed:
    """An application, to each of whose answers is added what its views have left open.

    Around Flask, not within it: there it would take several times as long.
    """

    def __init__(self, app: WSGIApplication) -> None:
        self._app = app

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request (PEP 3333)."""

        def start(status: str, headers: Headers, *exc_info: Any) -> Callable[[bytes], object]:
            said = {name for name, _ in headers}
            headers = headers + EVERYWHERE
            if CSP not in said:
                headers.append(NOT_A_PAGE)
            if CACHING not in said:
                headers.append(WITH_ETAG if "ETag" in said else WITHOUT_ETAG)
            if environ["wsgi.url_scheme"] == "https":
                headers.append(HSTS)
            return start_response(status, headers, *exc_info)

        return self._app(environ, start)
