"""The log: a line for each record, as JSON for machines or text for people, without secrets.

Of what clients send, only checked values are in it: no query, body or header. Messages of database
drivers can hold rows, and a database's URL its password: both are left out.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sqlite3
import sys
import threading
import time
import traceback
from datetime import UTC, datetime
from typing import TextIO

import orjson
import psycopg2
from flask import has_request_context, request
from sqlalchemy.exc import StatementError

from webapp.observability.observer import Environ, Facts, describe_request

REQUESTS = "webapp.requests"  # the logger that has a line for every request
_SECRETS = (
    (re.compile(r"(://[^\s:/@]*:)\S*@"), r"\1***@"),
    (re.compile(r"\b(password\s*=\s*)('[^']*'|\S+)", re.IGNORECASE), r"\1***"),
    (re.compile(r"\b(bearer|basic)\s+[\w.~+/=-]{8,}", re.IGNORECASE), r"\1 ***"),
)
_log = logging.getLogger(REQUESTS)


def configure(*, level: str, form: str) -> None:
    """Send the records of all loggers to standard error, as ``json`` or ``text``.

    ``level`` is that of the service's own loggers. A root logger that has a handler keeps it.
    """
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(StderrHandler())
    for handler in root.handlers:
        if isinstance(handler, StderrHandler):
            handler.setFormatter(FORMATS[form]())
    # Python would write warnings and errors of threads as lines of its own.
    logging.captureWarnings(True)
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = _log_thread_error
    logging.getLogger("webapp").setLevel(level)
    _log.setLevel(logging.INFO)  # the setting ACCESS_LOG decides
    logging.getLogger("werkzeug").addFilter(_is_no_request_line)


class RequestRecord(logging.LogRecord):
    """The record of an answered request; its message is made of checked values.

    It names no caller and thread: to find them takes 5 of the 75 µs of a prediction.
    """

    def __init__(self, facts: Facts) -> None:
        self.__dict__.update(_TEMPLATE)
        self.created = time.time()
        self.msecs = self.created % 1 * 1000
        self.process = os.getpid()
        self.msg = f"{facts['method']} {facts['route']} {facts['status']}"
        self.facts = facts


_TEMPLATE = vars(logging.LogRecord(REQUESTS, logging.INFO, __file__, 0, "", (), None))
_TEMPLATE |= {"thread": None, "threadName": None, "processName": None}


def log_request(facts: Facts, _environ: Environ) -> None:
    """Log an answered request."""
    if _log.isEnabledFor(logging.INFO):
        _log.handle(RequestRecord(facts))


class StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to whatever standard error is at the time, each line at once."""

    stream = property(lambda _: sys.stderr, lambda *_: None)


class JSONFormatter(logging.Formatter):
    """A record as one JSON object; a traceback is one of its fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        message, facts = _describe(record)
        line = {
            "time": _format_time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": message,
            "process": record.process,
            **facts,
        }
        if record.exc_info and (error := record.exc_info[1]):
            line["exception"] = describe_error(error)
        try:
            return orjson.dumps(line).decode()
        except TypeError:  # a lone surrogate, or an integer of more than 64 bits
            return json.dumps(line, default=repr)


class TextFormatter(logging.Formatter):
    """A record as a line to read; the lines of a traceback below it are marked."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        message, facts = _describe(record)
        if facts:
            message += f" [{' '.join([f'{name}={value}' for name, value in facts.items()])}]"
        text = f"{_format_time(record)} {record.levelname} {record.name}: {_on_one_line(message)}"
        if record.exc_info and (error := record.exc_info[1]):
            for line in describe_error(error).splitlines():
                text += f"\n  | {_on_one_line(line)}"
        return text


FORMATS: dict[str, type[logging.Formatter]] = {"json": JSONFormatter, "text": TextFormatter}


def hide_secrets(text: str) -> str:
    """Return a text without the passwords and tokens that its words give away."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def describe_error(error: BaseException) -> str:
    """Return the traceback of an error and of its causes, the first cause first."""
    chain: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(chain) < 10:  # causes may form a ring
        frames = "".join(traceback.format_tb(cause.__traceback__))
        kind = f"{type(cause).__module__}.{type(cause).__qualname__}"
        message = hide_secrets(_describe_message(cause))
        chain.append(f"Traceback (most recent call last):\n{frames}{kind}: {message}")
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return "\n\nwhich led to:\n\n".join(reversed(chain))


def _describe_message(error: BaseException) -> str:
    """Return an error's message; of a database's errors only what cannot hold rows."""
    if isinstance(error, StatementError):  # its message has the statement and its parameters
        return f"from {type(error.orig).__name__}"
    first_line = str(error).partition("\n")[0]  # PostgreSQL's details are below it
    if isinstance(error, psycopg2.Error):
        # Operational errors are about the server, the connection or the transaction.
        operational = isinstance(error, psycopg2.OperationalError)
        return f"SQLSTATE {error.pgcode or 'unknown'} {first_line if operational else ''}".rstrip()
    return first_line if isinstance(error, sqlite3.Error) else str(error)


def _describe(record: logging.LogRecord) -> tuple[str, Facts]:
    """Return a record's message, and what is known of the request that it is about."""
    if isinstance(record, RequestRecord):
        return record.msg, record.facts
    facts = describe_request(request.environ) if has_request_context() else {}
    return hide_secrets(record.getMessage()), facts


def _format_time(record: logging.LogRecord) -> str:
    created = datetime.fromtimestamp(record.created, UTC)
    return created.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _on_one_line(text: str) -> str:
    """Return a text with what is not printable escaped, line breaks and lone surrogates too."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _log_thread_error(error: threading.ExceptHookArgs) -> None:
    name = error.thread.name if error.thread else "?"
    logging.getLogger(__name__).error("Thread %s failed", name, exc_info=error.exc_value)


def _is_no_request_line(record: logging.LogRecord) -> bool:
    """Drop the request lines of Werkzeug's own server: they hold the query."""
    return " - - [" not in str(record.msg)
