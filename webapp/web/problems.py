"""How errors become answers: a status for each domain error, and one shape (RFC 9457)."""

from __future__ import annotations

import errno
import logging
from collections.abc import Mapping
from typing import Any

import orjson
from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException, InternalServerError, NotFound
from werkzeug.http import HTTP_STATUS_CODES

from webapp import errors
from webapp.db.outages import driver_message, find_outage
from webapp.web.openapi import PROBLEM_CONTENT_TYPE
from webapp.web.request import request_id

STATUS: dict[type, int] = {
    errors.InvalidInput: 422,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.PreconditionFailed: 412,
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.TooManyRequests: 429,
    errors.Unavailable: 503,
    errors.StorageFull: 507,
}
# Where the input of a request is, when the code that refuses it does not know.
_SOURCES = {"application/json": "json", "multipart/form-data": "form"}

log = logging.getLogger(__name__)


def render_problem(
    status: int,
    detail: str,
    *,
    faults: errors.Faults | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return an error in the one shape that every error of the service has."""
    problem: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTP_STATUS_CODES[status],
        "status": status,
        "detail": detail,
        "instance": request.path,
        "request_id": request_id(),
    }
    if faults:
        problem["errors"] = faults
    response = Response(
        orjson.dumps(problem, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS),
        status,
        content_type=PROBLEM_CONTENT_TYPE,
    )
    response.headers.extend(headers or {})
    return response


def status_of(kind: type[errors.ServiceError]) -> int:
    """Return the status of a class of errors: its own, or that of its nearest ancestor."""
    return next(STATUS[ancestor] for ancestor in kind.__mro__ if ancestor in STATUS)


def describe_problem(error: BaseException) -> dict[str, Any]:
    """Return an error as JSON, for work that no request waits for: title, status, detail, errors.

    What is not raised on purpose gets the text of any 500, which says nothing of its cause.
    """
    if not isinstance(error, errors.ServiceError):
        title, detail = HTTP_STATUS_CODES[500], InternalServerError.description or ""
        return {"title": title, "status": 500, "detail": detail}
    status = status_of(type(error))
    problem = {"title": HTTP_STATUS_CODES[status], "status": status, "detail": str(error)}
    if isinstance(error, errors.InvalidInput):
        problem["errors"] = {error.source or "request": error.faults}
    return problem


def _handle_service_error(error: errors.ServiceError) -> Response:
    status = status_of(type(error))
    if status >= 500:
        log.error("%s %s [request %s]", error, driver_message(error), request_id())
    headers = {}
    if error.challenge is not None:
        parameters = {"realm": "webapp", **error.challenge}
        listed = ", ".join(f'{name}="{value}"' for name, value in parameters.items())
        headers["WWW-Authenticate"] = f"Bearer {listed}"
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, errors.InvalidInput):
        faults = {error.source or _SOURCES.get(request.mimetype, "request"): error.faults}
        return render_problem(status, errors.describe_faults(faults), faults=faults)
    return render_problem(status, str(error), headers=headers)


def _handle_http_error(error: HTTPException) -> Response:
    headers = {
        name: value for name, value in error.get_headers() if name.lower() != "content-type"
    }
    detail = error.description or error.name
    if detail == NotFound.description:
        detail = "There is nothing at this URL."
    return render_problem(error.code or 500, detail, headers=headers)


def _shape_failed_condition(response: Response) -> Response:
    """Give a 412 the shape of errors; Werkzeug makes it of a good answer, and keeps its body."""
    if response.status_code != 412 or response.content_type == PROBLEM_CONTENT_TYPE:
        return response
    response.close()
    return render_problem(412, "The resource has changed: its ETag does not match `If-Match`.")


def _handle_unexpected(error: Exception) -> Response:
    lack: errors.ServiceError | None = find_outage(error)
    if isinstance(error, MemoryError):
        lack = errors.OutOfMemory()
    elif isinstance(error, OSError):
        # `tempfile` says so where all folders for large uploads are full or read-only.
        no_folder = str(error.strerror).startswith("No usable temporary directory")
        if error.errno in (errno.EMFILE, errno.ENFILE):
            lack = errors.OutOfDescriptors()
        elif no_folder or error.errno in (errno.ENOSPC, errno.EDQUOT):
            lack = errors.StorageFull()
    if lack is not None:
        lack.__cause__ = error
        return _handle_service_error(lack)
    log.error("Unexpected error [request %s]", request_id(), exc_info=error)
    return render_problem(500, InternalServerError.description or "")


def init_app(app: Flask) -> None:
    """Answer every error of an application in the one shape."""
    app.register_error_handler(errors.ServiceError, _handle_service_error)
    app.register_error_handler(HTTPException, _handle_http_error)
    app.register_error_handler(Exception, _handle_unexpected)
    app.after_request(_shape_failed_condition)
