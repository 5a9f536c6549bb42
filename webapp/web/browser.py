"""What browsers need to know: security headers, caching, other origins (CORS)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

from flask import Flask, Response, current_app, request
from werkzeug.exceptions import SecurityError

from webapp.web.request import find_request_id

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

Headers: TypeAlias = list[tuple[str, str]]

CSP = "Content-Security-Policy"
CACHING = "Cache-Control"
HSTS = ("Strict-Transport-Security", "max-age=31536000")  # a year; subdomains are not ours

# An answer of the API is data: nothing in it may run, load, or be framed.
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
    ("X-Frame-Options", "DENY"),  # for browsers that do not know frame-ancestors
    ("Referrer-Policy", "no-referrer"),
    # For what pages embed without CORS, such as images.
    ("Cross-Origin-Resource-Policy", "same-origin"),
]
# A browser may store it, and must ask before each use; shared caches may not.
WITH_ETAG = (CACHING, "private, no-cache")
WITHOUT_ETAG = (CACHING, "no-store")

ALLOWED_HEADERS = (
    "Authorization, Content-Encoding, Content-Type, Idempotency-Key, If-Match, If-None-Match, "
    "X-Request-ID, X-Traffic-Key"
)
EXPOSED_HEADERS = (
    "Content-Disposition, Digest, ETag, Idempotency-Replayed, Link, Location, Retry-After, "
    "WWW-Authenticate, X-Model, X-Model-Stale, X-Pagination, X-Request-ID, X-Warnings"
)
PREFLIGHT: Headers = [
    ("Access-Control-Allow-Methods", "GET, HEAD, POST, PUT, PATCH, DELETE"),
    ("Access-Control-Allow-Headers", ALLOWED_HEADERS),
    ("Access-Control-Max-Age", "7200"),  # seconds: browsers use no more
]


def init_app(app: Flask) -> None:
    """Add these headers to every answer of an application.

    To be called before the guard and the limits: a preflight has no API key and does not count,
    and their answers get the headers too.
    """
    if app.config["CORS_ORIGINS"]:
        app.before_request(_answer_preflight)
        app.after_request(_add_cors_headers)
    app.wsgi_app = _add_headers(app.wsgi_app)  # type: ignore[assignment,method-assign] # Flask's way


def _answer_preflight() -> Response | None:
    """Answer a browser that asks whether a page may send a request, before it sends it."""
    if request.method != "OPTIONS" or "HTTP_ACCESS_CONTROL_REQUEST_METHOD" not in request.environ:
        return None
    if isinstance(request.routing_exception, SecurityError):  # an untrusted host
        raise request.routing_exception
    return Response(status=204, headers=PREFLIGHT)


def _add_cors_headers(response: Response) -> Response:
    """Let pages of the listed origins read an answer; the service has no cookies."""
    response.headers.add("Vary", "Origin")
    origin = request.environ.get("HTTP_ORIGIN")
    if origin in current_app.config["CORS_ORIGINS"]:
        response.headers.add("Access-Control-Allow-Origin", origin)
        response.headers.add("Access-Control-Expose-Headers", EXPOSED_HEADERS)
    return response


def _add_headers(app: WSGIApplication) -> WSGIApplication:
    """Add the request's id, and the headers that no view has set, to the answers of ``app``.

    Around Flask rather than in an ``after_request`` function, which takes several times as long.
    """

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        def start(status: str, headers: Headers, *exc_info: Any) -> Callable[[bytes], object]:
            present = {name for name, _ in headers}
            headers = [*headers, ("X-Request-ID", find_request_id(environ)), *EVERYWHERE]
            if CSP not in present:
                headers.append(NOT_A_PAGE)
            if CACHING not in present:
                headers.append(WITH_ETAG if "ETag" in present else WITHOUT_ETAG)
            if environ["wsgi.url_scheme"] == "https":
                headers.append(HSTS)
            return start_response(status, headers, *exc_info)

        return app(environ, start)

    return answer
