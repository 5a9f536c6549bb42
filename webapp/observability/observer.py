"""What can be said of a request once it is answered, and who is told of each one.

What only a view knows, it notes in the environment of its request: whoever is told of the request
finds it there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from flask import request

from webapp.errors import ServiceError, Unavailable
from webapp.web.request import IDENTITY_KEY, find_request_id

Environ: TypeAlias = dict[str, Any]
Tell: TypeAlias = Callable[[Environ, int, float], object]
"""Is given the environment of a request, the status of its answer, and the seconds it took."""

UNMATCHED = "unmatched"  # the route of a request whose URL or method no view has
OUTCOMES = ("done", "refused", "failed")
"""How a training may end."""
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
TRACE_ID = "webapp.trace_id"  # in the environment of the request, where it is traced
_ROUTE = "webapp.route"  # the same
_PREDICTION = "webapp.prediction"  # the same
_TRAINING = "webapp.training"  # the same


class Prediction(NamedTuple):  # quicker to make than a frozen dataclass
    """What answered a prediction, and for how many rows; stale as in ``ServedVersion``."""

    model: str
    version: int
    rows: int
    stale: bool


@dataclass(frozen=True, slots=True)
class Training:
    """How a training ended: ``done``, ``refused`` for what was sent, or ``failed``; in seconds."""

    outcome: str
    seconds: float


def note_prediction(prediction: Prediction) -> None:
    """Keep what answered the prediction of this request."""
    request.environ[_PREDICTION] = prediction


@contextmanager
def training_noted() -> Iterator[None]:
    """Keep how the training in this block ended, and how long it took."""
    started, outcome = time.perf_counter(), "failed"
    try:
        yield
        outcome = "done"
    except ServiceError as error:
        outcome = "failed" if isinstance(error, Unavailable) else "refused"
        raise
    finally:
        request.environ[_TRAINING] = Training(outcome, time.perf_counter() - started)


def find_prediction(environ: Environ) -> Prediction | None:
    """Return what answered a request's prediction; None where none was made."""
    return environ.get(_PREDICTION)


def find_training(environ: Environ) -> Training | None:
    """Return how a request's training ended; None where there was none."""
    return environ.get(_TRAINING)


def find_route(environ: Environ) -> str:
    """Return the URL rule of a request: never its path, which a client may make up."""
    route: str | None = environ.get(_ROUTE)
    if route is None:
        found = environ.get("werkzeug.request")  # which Flask takes away at the end
        rule = None if found is None else found.url_rule
        route = environ[_ROUTE] = UNMATCHED if rule is None else str(rule.rule)
    return route


def find_method(environ: Environ) -> str:
    """Return the method of a request; ``other`` for one that nobody has heard of."""
    method = str(environ.get("REQUEST_METHOD"))
    return method if method in _METHODS else "other"


def describe_request(environ: Environ) -> dict[str, Any]:
    """Return what a line of the log says of a request: no query, body or header."""
    described: dict[str, Any] = {
        "request_id": find_request_id(environ),
        "method": find_method(environ),
        "route": find_route(environ),
        "client": environ.get("REMOTE_ADDR") or None,
    }
    if trace_id := environ.get(TRACE_ID):
        described["trace_id"] = trace_id
    if identity := environ.get(IDENTITY_KEY):
        described["key"] = identity.name
    if prediction := find_prediction(environ):
        described |= {"model": prediction.model, "version": prediction.version}
    return described


class Observer:
    """A WSGI application around another, that tells of each request once it is answered."""

    def __init__(self, wsgi_app: Callable[..., Iterable[bytes]], tell: Sequence[Tell]) -> None:
        self._wsgi_app = wsgi_app
        self._tell = tell

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer a request; who is told of it knows before the client has the answer."""
        started, answered = time.perf_counter(), "500"

        def note_status(status: str, *rest: Any) -> Any:
            nonlocal answered
            answered = status
            find_route(environ)
            return start_response(status, *rest)

        try:
            return self._wsgi_app(environ, note_status)
        finally:
            seconds = time.perf_counter() - started
            for tell in self._tell:
                tell(environ, int(answered[:3]), seconds)
