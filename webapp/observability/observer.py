"""The facts of an answered request, and the middleware that gives them to log, metrics, traces."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

from flask import request

from webapp.web.request import IDENTITY_KEY, find_request_id

Environ: TypeAlias = dict[str, Any]
Facts: TypeAlias = dict[str, Any]
"""What the log says of a request (`describe_request`), and of an answered one more."""
Observe: TypeAlias = Callable[[Facts, Environ], object]
"""Is called with each answered request; its facts then have a status, and duration_ms."""

UNMATCHED = "unmatched"  # the route of a request whose URL or method no view has
# Keys of the environ, where there is such a thing:
TRACE_ID = "webapp.trace_id"
PREDICTION = "webapp.prediction"  # model, version, number of rows, whether it may be stale
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def note_prediction(model: str, version: int, n_rows: int, stale: bool) -> None:
    """Note which version answered this request's prediction, for how many rows."""
    request.environ[PREDICTION] = (model, version, n_rows, stale)


def describe_request(environ: Environ) -> Facts:
    """Return what the log says of a request: checked values only, no query, body or header.

    The route is the URL rule, never the path, which a client can make up.
    """
    method = environ.get("REQUEST_METHOD")
    found = environ.get("werkzeug.request")
    rule = None if found is None else found.url_rule
    facts: Facts = {
        "request_id": find_request_id(environ),
        "method": method if method in _METHODS else "other",
        "route": UNMATCHED if rule is None else rule.rule,
        "client": environ.get("REMOTE_ADDR") or None,
    }
    if trace_id := environ.get(TRACE_ID):
        facts["trace_id"] = trace_id
    if identity := environ.get(IDENTITY_KEY):
        facts["key"] = identity.name
    if PREDICTION in environ:
        facts["model"], facts["version"], *_ = environ[PREDICTION]
    return facts


class Observer:
    """WSGI middleware that has some functions observe each request once it is answered."""

    def __init__(
        self, wsgi_app: Callable[..., Iterable[bytes]], observers: Sequence[Observe]
    ) -> None:
        self._wsgi_app = wsgi_app
        self._observers = observers

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer a request; the observers are called before the client has the answer."""
        started = time.perf_counter()
        facts: Facts = {}

        def note_status(status: str, *rest: Any) -> Any:
            nonlocal facts
            # Now: Flask removes its request from the environ before it returns the answer.
            facts = describe_request(environ)
            facts["status"] = int(status[:3])
            return start_response(status, *rest)

        try:
            return self._wsgi_app(environ, note_status)
        finally:
            if not facts:  # the application raised an error
                facts = {**describe_request(environ), "status": 500}
            facts["duration_ms"] = round((time.perf_counter() - started) * 1000, 3)
            for observe in self._observers:
                observe(facts, environ)
