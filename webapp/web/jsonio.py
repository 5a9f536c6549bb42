"""The one JSON reader and writer of the application.

Rules, the same at every size: UTF-8, after a byte order mark or not; nesting up to 1,024 levels;
of a repeated key the last one counts; lone surrogates are refused. Answers never hold NaN
or Infinity.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
from flask import Response
from flask.json.provider import JSONProvider
from werkzeug.datastructures import Headers

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

_WRITE = orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY
# Possessive, and its end may be missing: linear in the length of any bytes.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_BOM = b"\xef\xbb\xbf"  # what Windows puts before UTF-8
_NON_FINITE_TOKENS = (b"NaN", b"Infinity")


class MalformedJSON(ValueError):
    """Bytes that are not a JSON document; ``str()`` says what is wrong and where."""


def loads(data: bytes | bytearray) -> Any:
    """Return the value of a JSON document.

    A document that is JSON but for NaN, Infinity or numbers beyond float64 is read as well,
    with floats that are not finite in their places: the field that refuses such a float can
    say where it stands, which a parser's "unexpected character" cannot.

    Raises MalformedJSON.
    """
    if data.startswith(_BOM):
        data = data[len(_BOM) :]
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        beyond_float = "infinity" in error.msg
        if beyond_float or any(token in data for token in _NON_FINITE_TOKENS):
            try:
                return _loads_with_non_finite(data)
            except (ValueError, TypeError, RecursionError):
                pass
        place = f"line {error.lineno}, column {error.colno}"
        raise MalformedJSON(f"{error.msg} ({place})") from None


def _loads_with_non_finite(data: bytes | bytearray) -> Any:
    value = json.loads(data.decode(), parse_int=_parse_int)
    orjson.dumps(value)  # refuses lone surrogates, which the standard parser lets through
    return value


def _parse_int(literal: str) -> int | float:
    number = float(literal)
    return int(literal) if abs(number) < 2**63 else number


def count_values(data: bytes | bytearray) -> int:
    """Return how many values a JSON document holds at most, nested ones too, without decoding it.

    Each but the first stands behind a comma or an opening bracket.
    """
    bare = _STRING.sub(b"", data)
    return 1 + bare.count(b",") + bare.count(b"[") + bare.count(b"{")


class JSONResponse(Response):
    """A JSON answer whose body is there, and goes out as it is.

    Of any response, Werkzeug copies the headers, and looks for what it must correct in them.
    """

    def __init__(self, body: bytes) -> None:
        headers = Headers()
        headers.add("Content-Type", "application/json")
        headers.add("Content-Length", str(len(body)))
        super().__init__([body], 200, headers)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Send the answer (PEP 3333)."""
        as_it_is = self._status_code == 200 and not self._on_close
        if not as_it_is or environ["REQUEST_METHOD"] == "HEAD":
            return super().__call__(environ, start_response)
        start_response(self._status, self.headers.to_wsgi_list())
        return self.response  # type: ignore[return-value] # bytes, as they were given


def answer(value: Any) -> JSONResponse:
    """Return a JSON answer: NumPy arrays of any layout as lists, non-finite floats as null."""
    return JSONResponse(orjson.dumps(value, option=_WRITE, default=_convert_array))


def _convert_array(value: Any) -> Any:
    """Return an array that orjson does not take as one that it does, or as a list.

    orjson writes numbers from the array's own memory, which must be C-contiguous, and no
    strings. Raises TypeError for what is no array.
    """
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{type(value).__name__} has no JSON form")
    return value.tolist() if value.flags.c_contiguous else value.copy()


class OrjsonProvider(JSONProvider):
    """Flask's JSON interface on orjson."""

    def dumps(self, obj: Any, **kwargs: Any) -> str:
        """Return the JSON text of an object; ``indent`` is the only argument heeded."""
        option = orjson.OPT_NON_STR_KEYS | (orjson.OPT_INDENT_2 if kwargs.get("indent") else 0)
        return orjson.dumps(obj, option=option).decode()

    def loads(self, s: str | bytes, **kwargs: Any) -> Any:
        """Return the value of a JSON document; raises MalformedJSON."""
        return loads(s.encode() if isinstance(s, str) else s)

    def response(self, *args: Any, **kwargs: Any) -> JSONResponse:
        """Return a JSON answer made of the arguments, as ``jsonify`` takes them."""
        return answer(self._prepare_response_obj(args, kwargs))
