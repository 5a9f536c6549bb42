"""JSON in and out: the loader's rules at every size, and answers that are always JSON."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from flask import Flask

from webapp.web.jsonio import MalformedJSON, OrjsonProvider, count_values, loads

DEEPEST = 1024


@pytest.fixture
def provider() -> OrjsonProvider:
    """Return the JSON interface of an application."""
    return OrjsonProvider(Flask(__name__))


def nested(depth: int, inner: bytes = b"1") -> bytes:
    return b"[" * depth + inner + b"]" * depth


def innermost(value: object) -> object:
    while isinstance(value, list):
        (value,) = value
    return value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b"{}", {}),
        (b"\xef\xbb\xbf{}", {}),
        (b" [1, 2.5, -0.0, true, null]\n", [1, 2.5, -0.0, True, None]),
        (b'"\xe2\x98\x83"', "☃"),
        (b'"\\u2603"', "☃"),
        (b'"\\ud83d\\ude00"', "😀"),
        (b'"a\\u0000b"', "a\x00b"),
        (b"9223372036854775808", 2**63),
        (b"1e308", 1e308),
        (b"1e-400", 0.0),
        (b'"NaN, Infinity"', "NaN, Infinity"),
    ],
)
def test_a_document_is_read(text: bytes, value: object) -> None:
    assert loads(text) == value


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b" \n",
        b"{",
        b'{"a": 1',
        b'{"a": 1,}',
        b"[1, 2",
        b"[1 2]",
        b'"a',
        b"tru",
        b"{} {}",
        b"{a: 1}",
        b"{'a': 1}",
        b"[01]",
        b"[+1]",
        b"[.5]",
        b"[1.]",
        b"[0x10]",
        b"[1_0]",
        b"[nan]",
        b"[inf]",
        b'"a\nb"',
        b'"a\x00b"',
        b"/* none */ {}",
        b"\xef\xbb\xbf\xef\xbb\xbf{}",
        b"\xff\xfe{\x00}\x00",
        b'"\xff"',
        b'"\xed\xa0\x80"',
        b'"\xc0\x80"',
        "{}".encode("utf-16"),
    ],
)
@pytest.mark.parametrize("wrapped", ["alone", "beside NaN"])
def test_bytes_that_are_no_document_are_refused(text: bytes, wrapped: str) -> None:
    data = text if wrapped == "alone" else b"[NaN, " + text + b"]"

    with pytest.raises(MalformedJSON, match=r"line \d+, column \d+"):
        loads(data)


def test_a_complaint_says_where_it_stands() -> None:
    with pytest.raises(MalformedJSON, match=r"\(line 3, column 3\)"):
        loads(b'{\n  "a": 1,\n  b: 2\n}')


@pytest.mark.parametrize("padding", [0, 1_000_000])
@pytest.mark.parametrize("first", ["1", "NaN"])
def test_of_a_repeated_key_the_last_counts_at_every_size(padding: int, first: str) -> None:
    text = f'{{"a": {first}, "padding": "{"x" * padding}", "a": 2}}'.encode()

    assert loads(text)["a"] == 2


@pytest.mark.parametrize("depth", [1, 900, 1000, DEEPEST])
def test_nesting_is_read_down_to_the_deepest_level(depth: int) -> None:
    assert innermost(loads(nested(depth, b"1"))) == 1


@pytest.mark.parametrize("inner", [b"1", b"NaN"])
@pytest.mark.parametrize("depth", [DEEPEST + 1, 10**5, 10**6])
def test_nesting_beyond_the_deepest_level_is_refused(depth: int, inner: bytes) -> None:
    with pytest.raises(MalformedJSON):
        loads(nested(depth, inner))


@pytest.mark.parametrize("depth", [10**5, 10**6])
def test_nesting_that_never_ends_is_refused(depth: int) -> None:
    with pytest.raises(MalformedJSON):
        loads(b'{"a":' * depth)
    with pytest.raises(MalformedJSON):
        loads(b"[NaN," * depth)


@pytest.mark.parametrize(
    ("literal", "value"),
    [
        ("Infinity", math.inf),
        ("-Infinity", -math.inf),
        ("1e400", math.inf),
        ("-1e400", -math.inf),
        ("9" * 310, math.inf),
        ("-" + "9" * 310, -math.inf),
        ("9" * 5000, math.inf),
        ("-" + "9" * 5000, -math.inf),
        ("9" * 100_000, math.inf),
    ],
    ids=lambda value: str(value)[:12],
)
def test_a_number_beyond_float64_is_read_as_a_float_that_is_not_finite(
    literal: str, value: float
) -> None:
    found = loads(f'{{"a": [1, {literal}]}}'.encode())["a"]

    assert found[0] == 1
    assert (type(found[1]), found[1]) == (float, value)


def test_nan_is_read_as_a_float_that_is_not_finite() -> None:
    assert math.isnan(loads(b'{"a": [1, NaN]}')["a"][1])


@pytest.mark.parametrize(
    "text", [b'"\\ud800"', b'"\\udc00"', b'"\\udc00\\ud800"', b'"a\\ud83d"', b'{"\\ud800": 1}']
)
@pytest.mark.parametrize("beside", ["1", "NaN", "1e400"])
def test_a_lone_surrogate_is_refused_whatever_stands_beside_it(text: bytes, beside: str) -> None:
    with pytest.raises(MalformedJSON):
        loads(b"[" + beside.encode() + b", " + text + b"]")


@pytest.mark.parametrize(
    "value",
    [
        [math.nan, math.inf, -math.inf, 1.5],
        np.array([math.nan, math.inf, -math.inf, 1.5]),
        [np.float64(math.nan), np.float64(math.inf), np.float64(-math.inf), np.float64(1.5)],
    ],
    ids=["list", "array", "scalars"],
)
def test_an_answer_holds_null_where_a_number_is_not_finite(
    provider: OrjsonProvider, value: object
) -> None:
    response = provider.response({"values": value})

    assert response.get_data() == b'{"values":[null,null,null,1.5]}\n'
    assert response.mimetype == "application/json"


def test_a_matrix_in_an_answer_holds_null_too(provider: OrjsonProvider) -> None:
    response = provider.response(X=np.array([[1.0, math.nan], [-math.inf, 2.0]]))

    assert response.get_data() == b'{"X":[[1.0,null],[null,2.0]]}\n'


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(3, 2)[:, 0],
        np.arange(6.0).reshape(3, 2).T,
        np.arange(6)[::-2],
        np.array([True, False, True])[::2],
        np.array(["a", "b", "c"]),
        np.array([["a", "b"], ["c", "d"]], dtype=object)[:, 1],
        np.array([], dtype=float),
        np.array(1.5),
    ],
    ids=["column", "transposed", "reversed", "booleans", "text", "objects", "empty", "number"],
)
def test_an_array_of_any_layout_is_written(provider: OrjsonProvider, array: np.ndarray) -> None:
    response = provider.response({"values": array})

    assert json.loads(response.get_data()) == {"values": array.tolist()}


def test_text_that_is_not_finite_is_written_as_null(provider: OrjsonProvider) -> None:
    assert provider.dumps({"values": [math.nan, math.inf, 1.5]}) == '{"values":[null,null,1.5]}'


def test_an_array_in_an_answer_keeps_every_bit(provider: OrjsonProvider) -> None:
    values = np.random.RandomState(42).randn(1000) * 10.0 ** np.arange(-150, 150, 0.3)

    read = json.loads(provider.response(values).get_data())

    assert np.array_equal(np.array(read), values)


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"name": "naïve ☃ 🙂", "none": None, "flags": [True, False]},
        [0.1, 1e-308, 1.7976931348623157e308, 2**63, -(2**63)],
        {"deep": {"a": [{"b": [[]]}]}},
        "a\x00b\n",
    ],
)
def test_what_is_written_is_read_back(provider: OrjsonProvider, value: object) -> None:
    assert provider.loads(provider.dumps(value)) == value
    assert provider.loads(provider.dumps(value, indent=2).encode()) == value


def test_the_interface_reads_by_the_same_rules(provider: OrjsonProvider) -> None:
    with pytest.raises(MalformedJSON):
        provider.loads("\ufeff")
    with pytest.raises(MalformedJSON):
        provider.loads('{"a": 1')


def values_in(value: object) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(values_in, inner))


@pytest.mark.parametrize(
    "value",
    [
        1,
        "a,b",
        [],
        {},
        [[1, 2], [3, 4]],
        {"X": [[1.5, -2]], "y": ["a, b", 'say "[1,2]"', "\\", "é,"]},
        [{"a": 1, "b,c": [None, True]}, {}, [[], []]],
        [[[[[]]]]],
    ],
)
def test_no_document_holds_more_values_than_are_counted(value: object) -> None:
    found = count_values(json.dumps(value).encode())

    empty = json.dumps(value).count("[]") + json.dumps(value).count("{}")
    assert values_in(value) <= found <= values_in(value) + empty


@pytest.mark.parametrize("data", [b"", b'"', b'"a', b'"\\', b'\\"' * 200_000, b'"\\' * 200_000])
def test_values_of_bytes_that_are_no_json_are_counted_in_linear_time(data: bytes) -> None:
    assert count_values(data) == 1
