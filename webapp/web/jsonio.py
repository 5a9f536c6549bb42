"""JSON in and out.

The reader's rules, the same at every size: UTF-8, with or without a byte order mark; at most
1,024 nested levels; the last one of repeated keys counts; lone surrogates are refused. Written
JSON never holds NaN or Infinity.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import orjson
from flask import Response
from flask.json.provider import DefaultJSONProvider
from werkzeug.datastructures import Headers

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

JSON = "application/json"
_WRITE = orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY
# Possessive, and its end may be missing: linear in the length of any bytes.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)


class MalformedJSON(ValueError):
    """Bytes that are not a JSON document; ``str()`` says what is wrong and where."""


def loads(data: bytes) -> Any:
    """Return the value of a JSON document.

    Also reads NaN, Infinity and numbers beyond float64, as floats that are not finite: the field
    that refuses them can say where they are, where a parser only says "unexpected character".

    Raises MalformedJSON.
    """
    data = data.removeprefix(codecs.BOM_UTF8)  # which Windows puts before it
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        if "infinity" in error.msg or b"NaN" in data or b"Infinity" in data:
            with suppress(ValueError, TypeError, RecursionError):
                value = json.loads(data.decode(), parse_int=_parse_int)
                orjson.dumps(value)  # raises for lone surrogates, which json accepts
                return value
        place = f"line {error.lineno}, column {error.colno}"
        raise MalformedJSON(f"{error.msg} ({place})") from None


def _parse_int(literal: str) -> int | float:
    number = float(literal)
    return int(literal) if abs(number) < 2**63 else number


def count_values(data: bytes) -> int:
    """Return how many values a JSON document holds at most, nested ones too, without decoding it.

    Each but the first follows a comma or an opening bracket.
    """
    bare = _STRING.sub(b"", data)
    return 1 + bare.count(b",") + bare.count(b"[") + bare.count(b"{")


class JSONResponse(Response):
    """A JSON answer that is sent as it is.

    Werkzeug would copy the headers and look for what it must correct: 10 of a prediction's 100 µs.
    """

    def __init__(self, body: bytes) -> None:
        headers = Headers([("Content-Type", JSON), ("Content-Length", str(len(body)))])
        super().__init__([body], 200, headers)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Send the answer (PEP 3333)."""
        if self.status_code != 200 or environ["REQUEST_METHOD"] == "HEAD":
            return super().__call__(environ, start_response)
        start_response(self.status, self.headers.to_wsgi_list())
        return cast(list[bytes], self.response)


def answer(value: Any) -> JSONResponse:
    """Return a JSON answer: NumPy arrays of any layout as lists, non-finite floats as null."""
    return JSONResponse(orjson.dumps(value, option=_WRITE, default=_convert_array))


def _convert_array(value: Any) -> Any:
    """Return an array that orjson refuses as one that it takes, or as a list.

    orjson takes only C-contiguous arrays of numbers. Raises TypeError for other types.
    """
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{type(value).__name__} has no JSON form")
    return value.tolist() if value.flags.c_contiguous else value.copy()


class OrjsonProvider(DefaultJSONProvider):
    """Flask's JSON interface, with answers written by orjson."""

    sort_keys = False

    def response(self, *args: Any, **kwargs: Any) -> JSONResponse:
        """Return a JSON answer of one value, or of keyword arguments, as ``jsonify`` does."""
        return answer(args[0] if args else kwargs)
