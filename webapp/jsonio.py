"""The one JSON reader and writer of the application.

Rules, the same at every size: UTF-8 without a byte order mark; nesting up to 1,024 levels;
of a repeated key the last one counts; lone surrogates are refused. Answers never hold NaN
or Infinity.
"""

from __future__ import annotations

import json
from typing import Any

import orjson
from flask import Response
from flask.json.provider import JSONProvider

_NON_FINITE_TOKENS = (b"NaN", b"Infinity")


class MalformedJSON(ValueError):
    """Bytes that are not a JSON document; ``str()`` says what is wrong and where."""


def loads(data: bytes) -> Any:
    """Return the value of a JSON document.

    A document that is JSON but for NaN, Infinity or numbers beyond float64 is read as well,
    with floats that are not finite in their places: the field that refuses such a float can
    say where it stands, which a parser's "unexpected character" cannot.

    Raises MalformedJSON.
    """
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


def _loads_with_non_finite(data: bytes) -> Any:
    value = json.loads(data.decode(), parse_int=_parse_int)
    orjson.dumps(value)  # refuses lone surrogates, which the standard parser lets through
    return value


def _parse_int(literal: str) -> int | float:
    number = float(literal)
    return int(literal) if abs(number) < 2**63 else number


class OrjsonProvider(JSONProvider):
    """Flask's JSON interface on orjson: arrays as they are, non-finite floats as null."""

    _WRITE = orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY

    def dumps(self, obj: Any, **kwargs: Any) -> str:
        """Return the JSON text of an object; ``indent`` is the only argument heeded."""
        option = orjson.OPT_NON_STR_KEYS | (orjson.OPT_INDENT_2 if kwargs.get("indent") else 0)
        return orjson.dumps(obj, option=option).decode()

    def loads(self, s: str | bytes, **kwargs: Any) -> Any:
        """Return the value of a JSON document; raises MalformedJSON."""
        return loads(s.encode() if isinstance(s, str) else s)

    def response(self, *args: Any, **kwargs: Any) -> Response:
        """Return a JSON answer made of the arguments, as ``jsonify`` takes them."""
        body = orjson.dumps(self._prepare_response_obj(args, kwargs), option=self._WRITE)
        return Response(body, content_type="application/json")
