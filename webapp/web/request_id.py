"""One id per request, in the answer's `X-Request-ID`, in every error and in the log."""

from __future__ import annotations

import random
import re
from typing import Any

from flask import Flask, Response, request

HEADER = "X-Request-ID"
_KEY = "webapp.web.request_id"  # in the environment of the request
_WELL_FORMED = re.compile(r"[A-Za-z0-9._-]{1,128}")


def request_id() -> str:
    """Return this request's id: the caller's own where it is well-formed, else a new one."""
    return find_request_id(request.environ)


def find_request_id(environ: dict[str, Any]) -> str:
    """Return the id of the request that has this environment."""
    found = environ.get(_KEY)
    if found is None:
        given = environ.get("HTTP_X_REQUEST_ID", "")
        found = given if _WELL_FORMED.fullmatch(given) else _make_id()
        environ[_KEY] = found
    return str(found)


def _make_id() -> str:
    # Unlikely to come twice is enough, and each worker draws from a seed of its own; the system's
    # secret numbers would cost a switch of threads.
    return f"{random.getrandbits(128):032x}"


def _name_response(response: Response) -> Response:
    response.headers.add(HEADER, request_id())
    return response


def init_app(app: Flask) -> None:
    """Return the id with every answer of an application."""
    app.after_request(_name_response)
