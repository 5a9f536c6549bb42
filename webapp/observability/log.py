"""The log: one line for each thing said, JSON for machines or text for people, without secrets.

Nothing that a client sent is in it but what has been checked: no query, body or header. What a
database driver says can hold rows, and an address of a database its password: both are left out.
"""

from __future__ import annotations

import json
import logging
import re
import sqlite3
import sys
import threading
import traceback
from datetime import UTC, datetime
from typing import Any

import orjson
import psycopg2
from flask import has_request_context, request
from sqlalchemy.exc import StatementError

from webapp.observability.observer import Environ, describe_request

REQUESTS = "webapp.requests"
"""The logger that has a line for every request."""

_SECRETS = (
    (re.compile(r"(://[^\s:/@]*:)\S*@"), r"\1***@"),
    (re.compile(r"\b(password\s*=\s*)('[^']*'|\S+)", re.IGNORECASE), r"\1***"),
    (re.compile(r"\b(bearer|basic)\s+[\w.~+/=-]{8,}", re.IGNORECASE), r"\1 ***"),
)
# The classes of SQLSTATE whose messages speak of server, connection or transaction; those of the
# others may quote what was to be written.
_HARMLESS = ("08", "25", "28", "3D", "40", "53", "55", "57", "58", "XX001", "XX002")
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}
_CONTROLS |= {0x2028: "\\u2028", 0x2029: "\\u2029"}
_log = logging.getLogger(REQUESTS)


def configure(*, level: str, form: str) -> None:
    """Send what all loggers say to standard error, in a form: ``json`` or ``text``.

    ``level`` is the least severe one that the service's own loggers say. Where somebody else has
    given the root logger a handler, that one is left alone.
    """
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(StderrHandler())
    for handler in root.handlers:
        if isinstance(handler, StderrHandler):
            handler.setFormatter(FORMATS[form]())
    logging.captureWarnings(True)  # which Python else writes as lines of its own
    if threading.excepthook is threading.__excepthook__:  # the same
        threading.excepthook = _log_thread_error
    logging.getLogger("webapp").setLevel(level)
    _log.setLevel(logging.INFO)  # whether they are said is a setting of its own
    logging.getLogger("werkzeug").addFilter(_is_no_request_line)


def tell_request(environ: Environ, status: int, seconds: float) -> None:
    """Say that a request was answered."""
    said = describe_request(environ)
    said |= {"status": status, "duration_ms": round(seconds * 1000, 3)}
    _log.info("%s %s %d", said["method"], said["route"], status, extra={"said": said})


class StderrHandler(logging.Handler):
    """Writes to whatever standard error is at the time, each line in one go."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except Exception:
            self.handleError(record)


class JSONFormatter(logging.Formatter):
    """A line as one JSON object; a traceback is one of its fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = {
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": _message(record),
            "process": record.process,
            **_context(record),
        }
        if error := _find_error(record):
            line["exception"] = describe_error(error)
        try:
            return orjson.dumps(line).decode()
        except TypeError:  # text that is no Unicode, or a number of more than 64 bits
            return json.dumps(line, default=repr)


class TextFormatter(logging.Formatter):
    """A line to read; a traceback stands below it, and can be taken for no other line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        said = " ".join(f"{name}={value}" for name, value in _context(record).items())
        message = f"{_message(record)}{said and f' [{said}]'}"
        text = f"{_time(record)} {record.levelname} {record.name}: {_on_one_line(message)}"
        if error := _find_error(record):
            lines = describe_error(error).splitlines()
            text += "".join(f"\n  | {_on_one_line(line)}" for line in lines)
        return text.encode(errors="backslashreplace").decode()


FORMATS: dict[str, type[logging.Formatter]] = {"json": JSONFormatter, "text": TextFormatter}


def hide_secrets(text: str) -> str:
    """Return a text without the passwords and tokens that can be told by what is around them."""
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


def describe_error(error: BaseException) -> str:
    """Return the traceback of an error and of those that it came from, the first one first."""
    chain: list[str] = []
    found: BaseException | None = error
    while found is not None and len(chain) < 10:  # nobody keeps a chain from being a ring
        frames = "".join(traceback.format_tb(found.__traceback__))
        kind = f"{type(found).__module__}.{type(found).__qualname__}"
        message = hide_secrets(_message_of(found))
        chain.append(f"Traceback (most recent call last):\n{frames}{kind}: {message}")
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)
    return "\n\nwhich led to:\n\n".join(reversed(chain))


def _message_of(error: BaseException) -> str:
    if isinstance(error, StatementError):
        # Its own words hold the statement and its parameters.
        return f"of {type(error.orig).__name__}" if error.orig else "of a statement"
    if isinstance(error, psycopg2.Error):
        code = error.pgcode or ""
        connecting = not code and isinstance(error, psycopg2.OperationalError)
        if connecting or code.startswith(_HARMLESS):
            return f"{code} {_first_line(error)}".strip()
        return f"SQLSTATE {code or 'unknown'}"
    if isinstance(error, sqlite3.Error):
        return _first_line(error)
    return str(error)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "")


def _find_error(record: logging.LogRecord) -> BaseException | None:
    return record.exc_info[1] if record.exc_info else None


def _context(record: logging.LogRecord) -> dict[str, Any]:
    said: dict[str, Any] | None = getattr(record, "said", None)
    if said is None:
        said = describe_request(request.environ) if has_request_context() else {}
    return said


def _message(record: logging.LogRecord) -> str:
    message = record.getMessage()
    # What is said of each request is made of what has been checked.
    return message if record.name == REQUESTS else hide_secrets(message)


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return f"{moment.isoformat(timespec='milliseconds')[: -len('+00:00')]}Z"


def _on_one_line(text: str) -> str:
    return text.translate(_CONTROLS)


def _log_thread_error(error: threading.ExceptHookArgs) -> None:
    name = error.thread.name if error.thread else "?"
    logging.getLogger(__name__).error("The thread %s failed", name, exc_info=error.exc_value)


def _is_no_request_line(record: logging.LogRecord) -> bool:
    """Drop the lines of Werkzeug's own server about requests: they hold the query."""
    return " - - [" not in str(record.msg)
