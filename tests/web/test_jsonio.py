"""JSON in and out: the reader's rules at every size, and answers that are always JSON."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from flask import Flask

from webapp.web.jsonio import MalformedJSON, OrjsonProvider, count_values, loads

DEEPEST = 1024
LONG = "9" * 5000


def nested(depth: int, inner: bytes = b"1") -> bytes:
    return b"[" * depth + inner + b"]" * depth


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b"\xef\xbb\xbf{}", {}),
        (b" [1, 2.5, -0.0, true, null]\n", [1, 2.5, -0.0, True, None]),
        (b'["\xe2\x98\x83", "\\u2603", "\\ud83d\\ude00"]', ["☃", "☃", "😀"]),
        (rb'"a\u0000b"', "a\0b"),
        (b"[9223372036854775808, 1e308, 1e-400, 1E+2]", [2**63, 1e308, 0.0, 100.0]),
        (b"[18446744073709551616, 0." + b"3" * 5000 + b"]", [2.0**64, 1 / 3]),
        (b"1e-" + b"0" * 4000 + b"5", 1e-5),
        (b"1" * 100 + b"e-99", float("1" * 100 + "e-99")),
        (b'"NaN, Infinity"', "NaN, Infinity"),
        (b'{"a": 1, "a": 2}', {"a": 2}),
        (b'{"a": NaN, "a": 2}', {"a": 2}),  # which the other reader reads
    ],
)
def test_a_document_is_read(text: bytes, value: object) -> None:
    assert loads(text) == value


MALFORMED = [
    *(b"", b" \n", b"{", b'{"a": 1', b'{"a": 1,}', b"[1, 2", b"[1 2]", b'"a', b"tru", b"{} {}"),
    *(b"{a: 1}", b"{'a': 1}", b"[01]", b"[+1]", b"[.5]", b"[1.]", b"[0x10]", b"[1_0]", b"[nan]"),
    *(b'"a\nb"', b'"a\x00b"', b"/* none */ {}", b"\xef\xbb\xbf\xef\xbb\xbf{}"),
    *(b'"\xff"', b'"\xed\xa0\x80"', b'"\xc0\x80"', "{}".encode("utf-16")),
    *(rb'"\ud800"', rb'"\udc00\ud800"', rb'"a\ud83d"', rb'{"\ud800": 1}'),
    *(nested(DEEPEST + 1), nested(10**6), b'{"a":' * 10**5, b"[" * 10**6),
]


@pytest.mark.parametrize("beside", [b"", b"NaN", b"1e400"])
def test_bytes_that_are_no_document_are_refused(beside: bytes) -> None:
    for text in MALFORMED:
        with pytest.raises(MalformedJSON, match=r"line \d+, column \d+"):
            loads(b"[" + beside + b", " + text + b"]" if beside else text)
    with pytest.raises(MalformedJSON, match=r"\(line 3, column 3\)"):
        loads(b'{\n  "a": 1,\n  b: 2\n}')


def test_nesting_is_read_down_to_the_deepest_level() -> None:
    value = loads(nested(DEEPEST))
    for _ in range(DEEPEST):
        (value,) = value
    assert value == 1


@pytest.mark.parametrize("literal", ["Infinity", "1e400", LONG, "-Infinity", "-1e400", "-" + LONG])
def test_a_number_beyond_float64_is_read_as_a_float_that_is_not_finite(literal: str) -> None:
    found = loads(f'{{"a": [1, {literal}, NaN]}}'.encode())["a"]

    expected = -math.inf if literal.startswith("-") else math.inf
    assert found[0] == 1
    assert (type(found[1]), found[1]) == (float, expected)
    assert math.isnan(found[2])


def write(value: object) -> bytes:
    """Return the body of a JSON answer."""
    response = OrjsonProvider(Flask(__name__)).response(value)
    assert response.content_type == "application/json"
    assert response.content_length == len(response.get_data())
    return response.get_data()


def test_an_answer_holds_null_where_a_number_is_not_finite() -> None:
    values = [math.nan, math.inf, -math.inf, 1.5]

    for given in (values, np.array(values), [np.float64(value) for value in values]):
        assert write({"values": given}) == b'{"values":[null,null,null,1.5]}\n'


ARRAYS = {
    "column": np.arange(6.0).reshape(3, 2)[:, 0],
    "transposed": np.arange(6.0).reshape(3, 2).T,
    "reversed": np.arange(6)[::-2],
    "booleans": np.array([True, False, True])[::2],
    "text": np.array(["a", "b", "c"]),
    "objects": np.array([["a", "b"], ["c", "d"]], dtype=object)[:, 1],
    "empty": np.array([], dtype=float),
    "one": np.array(1.5),
    "many": np.random.RandomState(42).randn(1000) * 10.0 ** np.arange(-150, 150, 0.3),
}


@pytest.mark.parametrize("layout", ARRAYS)
def test_an_array_of_any_layout_is_written_with_every_bit(layout: str) -> None:
    array = ARRAYS[layout]

    assert json.loads(write({"values": array})) == {"values": array.tolist()}


def values_in(value: object) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(values_in, inner))


def test_no_document_holds_more_values_than_are_counted() -> None:
    for value in (
        *(1, "a,b", [], {}, [[1, 2], [3, 4]], [[[[[]]]]]),
        {"X": [[1.5, -2]], "y": ["a, b", 'say "[1,2]"', "\\", "é,"]},
        [{"a": 1, "b,c": [None, True]}, {}, [[], []]],
    ):
        text = json.dumps(value)
        empty = text.count("[]") + text.count("{}")
        assert values_in(value) <= count_values(text.encode()) <= values_in(value) + empty
    # Bytes that are no JSON: in linear time, or this would take for ever.
    for data in (b"", b'"', b'"a', b'"\\', b'\\"' * 200_000, b'"\\' * 200_000):
        assert count_values(data) == 1
