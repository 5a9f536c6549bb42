"""The inputs: what is wrong with each, and where a good answer says so."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Callable

from tests.bad_input.census import Place

DIGITS = "9" * 5000
DEEP = 1000  # nested, and still read

# --- JSON documents -----------------------------------------------------------------------

MALFORMED = {  # each a 400
    "nothing": b"",
    "blank": b" \r\n\t",
    "NUL": b"\x00",
    "an open brace": b"{",
    "an open string": b'{"name": "a',
    "a comma too many": b'{"name": "a",}',
    "a comment": b'/* */ {"name": "a"}',
    "single quotes": b"{'name': 'a'}",
    "bare keys": b'{name: "a"}',
    "undefined": b'{"name": undefined}',
    "two documents": b'{"name": "a"} {"name": "a"}',
    "lines of JSON": b'{"name": "a"}\n{"name": "b"}\n',
    "a form": b"name=a&description=b",
    "XML": b"<name>a</name>",
    "YAML": b"name: a",
    "CSV": b"x1,x2,x3,y\n1,2,3,4\n",
    "MessagePack": b"\x81\xa4name\xa1a",
    "UTF-16": '{"name": "a"}'.encode("utf-16"),
    "UTF-16-LE": '{"name": "a"}'.encode("utf-16-le"),
    "UTF-32": '{"name": "a"}'.encode("utf-32"),
    "Latin-1": '{"name": "é"}'.encode("latin-1"),
    "half a character": b'{"name": "\xe2\x98"}',
    "an overlong NUL": b'{"name": "\xc0\x80"}',
    "a surrogate in UTF-8": b'{"name": "\xed\xa0\x80"}',
    "a lone surrogate": rb'{"name": "\ud800"}',
    "surrogates in the wrong order": rb'{"name": "\udc00\ud800"}',
    "a lone surrogate as a key": rb'{"\udfff": 1}',
    "a lone surrogate beside NaN": rb'{"name": "\ud800", "x": NaN}',
    "a raw line end": b'{"name": "a\nb"}',
    "a raw NUL": b'{"name": "a\x00b"}',
    "a short escape": rb'{"name": "\u12"}',
    "an escape of C": rb'{"name": "\x41"}',
    "a leading zero": b'{"name": 01}',
    "a plus": b'{"name": +1}',
    "a bare point": b'{"name": .5}',
    "a point at the end": b'{"name": 1.}',
    "hexadecimal": b'{"name": 0x10}',
    "underscores": b'{"name": 1_0}',
    "nan": b'{"name": nan}',
    "a bare exponent": b'{"name": 1e}',
    "NaN and an open brace": b'{"name": NaN',
    "5,000 digits and an open brace": b'{"name": ' + DIGITS.encode(),
    "compressed": gzip.compress(b'{"name": "a"}'),
    **{f"{n} open arrays": b"[" * n for n in (1000, 10**5, 10**6)},
    **{f"{n} nested arrays": b"[" * n + b"]" * n for n in (1025, 10**5, 10**6)},
    **{f"{n} nested objects": b'{"a":' * n + b"1" + b"}" * n for n in (1025, 10**5, 10**6)},
    "1e5 nested in a field": b'{"name": ' + b"[" * 10**5 + b"]" * 10**5 + b"}",
    "1e5 nested beside NaN": b'{"x": NaN, "name": ' + b"[" * 10**5 + b"]" * 10**5 + b"}",
}
NO_OBJECTS = {  # each a 422
    "null": b"null",
    "true": b"true",
    "a number": b"1",
    "a string": b'"a"',
    "an array": b"[]",
    "an array of an object": b'[{"name": "a"}]',
    "NaN": b"NaN",
    "1e400": b"1e400",
    "5,000 digits": DIGITS.encode(),
    "minus 5,000 digits": b"-" + DIGITS.encode(),
    "a deep array": b"[" * DEEP + b"]" * DEEP,
}
UNKNOWN_FIELDS = {  # JSON text of a key → the name that the answer gives
    "unknown": "unknown",
    "": "",
    "$ref": "$ref",
    "__proto__": "__proto__",
    "__class__": "__class__",
    r"a\u0000b": "a\0b",
    "☃": "☃",
    "x" * 100_000: None,
}

# --- values of fields, as JSON text -------------------------------------------------------

NESTED = "[" * DEEP + "]" * DEEP
KINDS = {
    "null": ["null"],
    "boolean": ["true", "false"],
    "integer": ["0", "1", "-1", "2147483648", "9223372036854775808", "18446744073709551615"],
    "decimal": ["1.5", "1.0", "-0.0", "1e2", "5e-324", "1e308", "0." + "1" * 5000],
    "huge": ["NaN", "Infinity", "-Infinity", "1e400", "-1e400", DIGITS, "-" + DIGITS],
    "string": ['""', '"1"', '"1_0"', '"true"', '"null"', '"NaN"', r'"\u0000"', '"nobody"'],
    "array": ["[]", "[1]", '["a"]', "[null]", "[[]]", "[{}]", "[NaN]", NESTED],
    "object": ["{}", '{"a": 1}', '{"": null}', '{"a": NaN}', f'{{"a": {NESTED}}}'],
}


def all_but(*kinds: str) -> list[str]:
    """Return values of every kind but those."""
    return [text for kind, texts in KINDS.items() if kind not in kinds for text in texts]


CONTROL = [rf'"a\u{code:04x}b"' for code in (0, 1, 8, 0x1B, 0x7F, 0x85, 0x9F)]
LINE_ENDS = [r'"a\nb"', r'"a\tb"', r'"a\u000bb"']
FLAG = all_but("boolean")
SEED = [*all_but("integer"), "-1", "4294967296", "9223372036854775808"]
NAME = [*all_but("string"), '""', *CONTROL, *LINE_ENDS, f'"{"x" * 256}"', f'"{"🙂" * 256}"']
CELLS = [
    *("true", "false", "null", '""', '"1"', '"1_0"', '"NaN"', r'"\u0000"', "[]", "[1]", "{}"),
    *('{"a": 1}', "NaN", "Infinity", "-Infinity", "1e400", "-1e400", DIGITS, "-" + DIGITS),
]
"""What no cell of a matrix may hold."""

REFUSED_VALUES: dict[str, dict[str, list[str]]] = {
    "NewItem": {
        "name": NAME,
        "description": [
            *(*all_but("string"), *CONTROL, r'"a\u000bb"', r'"a\u000cb"', f'"{"x" * 10_001}"')
        ],
    },
    "TrainingRequest": {
        "X": [*all_but("array"), "[]", "[[]]", "[1]", '["a"]', "[{}]", "[[1], [1, 2]]", NESTED],
        "y": [*all_but("array"), "[]", "[1]", "[1, 2, 3]", "[[1], [2]]", NESTED],
        "estimator": [*all_but(), '"Ridge"', '"ridge "', r'"ridge\u0000"', f'"{"x" * 100_000}"'],
        "params": [
            *(all_but("object")),
            *('{"a": 1}', '{"": null}', '{"a": NaN}', f'{{"a": {NESTED}}}'),
            *('{"__class__": 1}', '{"n_jobs": 1}', '{"fit_intercept": 1}'),
            *('{"fit_intercept": null}', f'{{"{"x" * 100_000}": 1}}'),
        ],
        "scale": FLAG,
        "test_size": [
            *all_but("integer", "decimal"),
            *("-1", "1", "1.0", "1.5", "2147483648", "-5e-324", "1e308"),
        ],
        "random_state": SEED,
        "refit": FLAG,
        "cv": [*all_but("integer"), "-1", "1", "21", "2", "2147483648", "9223372036854775808"],
        "activate": FLAG,
        "feature_names": [
            *(*all_but("array", "null"), "[]", '["a"]', '["a", "b", "c", "d"]'),
            *('["a", "b", "a"]', '["a", "b", ""]', '["a", "b", null]', '["a", "b", 1]'),
            *(r'["a", "b", "\u0000"]', r'["a", "b", "\u202e"]', f'["a", "b", "{"x" * 256}"]'),
            *('["a", "b", ["c"]]', NESTED),
        ],
    },
    "PredictionRequest": {
        "features": [
            *(*all_but("array", "object"), "[]", "[1]", "[1, 2]", "[1, 2, 3, 4]", "{}"),
            *('{"x1": 1, "x2": 2}', '{"x1": 1, "x2": 2, "x4": 3}', '{"X1": 1, "x2": 2, "x3": 3}'),
            *('{"x1": 1, "x2": 2, "x3": 3, "": 4}', "[[1, 2, 3]]", NESTED),
        ],
        "intervals": FLAG,
        "level": [*all_but("decimal"), "1.0", "1.5", "-0.5", "1e308", "-0.0"],
    },
    "BatchRequest": {
        "instances": [
            *(*all_but("array"), "[]", "[[]]", "[{}]", "[1]", "[[1, 2]]", "[[1, 2, 3, 4]]"),
            *('[{"x1": 1, "x2": 2}]', '[[1, 2, 3], {"x1": 1, "x2": 2, "x3": 3}]', NESTED),
        ],
        "intervals": FLAG,
        "for_spreadsheet": FLAG,
        "level": [*all_but("decimal"), "1.0", "1.5", "-0.5", "1e308", "-0.0"],
    },
    "ActivationRequest": {
        "version": [*all_but("integer"), "0", "-1", "2147483648", "9223372036854775808"]
    },
}
"""Values that a field does not take, by schema; each answered 422 with the field named."""
REFUSED_VALUES["ItemChanges"] = REFUSED_VALUES["NewItem"]

SHAPES: list[tuple[str, Place]] = [
    ("[]", ()),
    ("[[], []]", ("0",)),
    ("[[1, 2, 3], [4, 5]]", ("1",)),
    ("[[1, 2, 3], [4, 5, 6, 7]]", ("1",)),
    ("[[1, 2, 3], []]", ("1",)),
    ("[[1, 2, 3], null]", ("1",)),
    ("[[1, 2, 3], 7]", ("1",)),
    ('[[1, 2, 3], "456"]', ("1",)),
    ("[[1, 2, 3], {}]", ("1",)),
    ("[[1, 2, 3], [[4, 5, 6]]]", ("1",)),
    *((f"[[1, 2, 3], [4, {cell}, 6]]", ("1", "1")) for cell in CELLS),
]
"""Matrices that are none, with the place of the fault: row, then column."""
PLACED: dict[tuple[str, str], list[tuple[str, Place]]] = {
    ("TrainingRequest", "X"): SHAPES,
    ("TrainingRequest", "y"): [(f"[1, {cell}]", ("1",)) for cell in CELLS if cell != "null"],
    ("BatchRequest", "instances"): [
        *SHAPES,
        ("[[1, 2], [3, 4]]", ("0",)),
        ('[{"x1": 1, "x2": 2, "x3": 3}, {"x1": 1, "x3": 3}]', ("1", "x2")),
        ('[{"x1": 1, "x2": 2, "x3": 3, "x4": 4}]', ("0", "x4")),
        *((f'[{{"x1": 1, "x2": {cell}, "x3": 3}}]', ("0", "x2")) for cell in CELLS),
    ],
    ("PredictionRequest", "features"): [
        *((f"[1, {cell}, 3]", ("1",)) for cell in CELLS),
        *((f'{{"x1": 1, "x2": {cell}, "x3": 3}}', ("x2",)) for cell in CELLS),
        ('{"x1": 1, "x2": 2}', ("x3",)),
    ],
}

# --- the head of a request ----------------------------------------------------------------

NO_INTEGERS = [
    *("", "1.0", "1e3", " 1", "+1", "0x1", "1_0", "١", "①", "true", "null", "NaN", "1,2", "[1]"),
    *("1\0", "1\n", "\0", DIGITS, "-" + DIGITS, "9223372036854775808", "-1"),
]
NO_NUMBERS = ["", "1_0", "١", "NaN", "inf", "-Infinity", "1e400", "0x1", "1\0", "1,5", DIGITS]
NO_FLAGS = ["", "yes", "1", "0", "True", "null", "\0", '"true"', "[true]", "NaN", "on"]
REFUSED_QUERY = {
    "page": [*NO_INTEGERS, "0", "2147483648"],
    "page_size": [*NO_INTEGERS, "0", "1001", "2147483648"],
    "q": ["\0", "a\0b", "a\nb", "\x7f", "x" * 256],
    "sort": [
        "",
        "ID",
        "id,name",
        "--id",
        "-",
        "nobody",
        "id\0",
        "id;drop",
        "name desc",
        "x" * 5000,
    ],
    "after": ["", "\0", "é", "1", "W10", "WyJpZCJd", "WyJpZCIsMF0", "WyItaWQiLDFd", "A" * 5000],
    "subject": ["\0", "a\0b", "a\nb", "\x7f", "x" * 129],
    "delimiter": ["", ":", ";;", ", ", "\0", "a"],
    "decimal": ["", ";", "..", "\0", "1", "e", ","],
    "n_samples": [*NO_INTEGERS, "0", "100001"],
    "noise": [*NO_NUMBERS, "-1", "1e7"],
    "seed": [*NO_INTEGERS, "4294967296"],
    "estimator": ["", "nobody", "Ridge", "\0", "null", "[]", "x" * 5000],
    "params": ["", "1", "null", "[]", "{", '{"a": 1}', '{"a": NaN}', '"{}"', "[" * 5000, "\0"],
    "scale": NO_FLAGS,
    "test_size": [*NO_NUMBERS, "1", "-1", "true", "null", '"0.5"', "[]"],
    "random_state": [*(set(NO_INTEGERS) - {" 1", "1\n"}), "4294967296"],  # JSON may be padded
    "refit": NO_FLAGS,
    "cv": [*NO_INTEGERS, "1", "21", "4"],
    "activate": NO_FLAGS,
    "target": ["", "nobody", "Y", "y\0", "\0", "x" * 5000],
    "intervals": NO_FLAGS,
    "for_spreadsheet": NO_FLAGS,
    "level": [*NO_NUMBERS, "0", "1", "-1", "true", "null"],
}
"""Values that a query parameter does not take; each answered 422."""
UNKNOWN_QUERIES = ["nobody", "nobody=1", "=1", "%00=1", "a%5B%5D=1", "%2525=1", "☃=1", "a=1;b=2"]
NOT_UTF8 = ["%FF=1", "a=%FF", "%E2%98=1", "a=%C0%80", "a=%ED%A0%80", "%F5%80%80%80"]
"""Queries that decode to no text; each answered 400."""

BAD_IDS = [
    *("-1", "0", "-0", "2147483648", "9223372036854775807", "9223372036854775808", DIGITS),
    *("1.0", "1e3", "abc", "null", "true", "NaN", "%00", "1%00", "1%0A", "%0A1", "1%20", "+1"),
    *("0x1", "1_0", "%D9%A1", "%FF", "%E2%98", "..", "%2E%2E", "1;v=1", "1,2", "*", "1%252F2"),
    *("%5C", "1%5C..", "'", "1'--", "{item_id}", "%", "%zz", "%u0031"),
]
BAD_NAMES = [
    *("..", "%2E%2E", ".", "...", ".git", "-a", "_a", "A", "Default", "defaulT", "a" * 64, DIGITS),
    *("a%00", "%00", "default%00", "default%0A", "%0Adefault", "default%20", "%20", "a%09"),
    *("a%5Cb", "..%5Cdefault", "C:", "c:%5Cdefault", "c:default", "%2E%2E%5C", "~", "~root"),
    *("%FF", "%C3%A9", "☃", "%EF%BC%8E%EF%BC%8E", "d%D0%B5fault", "%ED%A0%80", "a%E2%80%AEb"),
    *("default;v=1", "default,default", "*", "%25", "%", "%zz", "$HOME", "`id`", "{name}", "'"),
    *("default..%2F", "..%2Fdefault", "%2Fdefault", "default%2F..%2Fdefault", "%2e%2e%2fdefault"),
]
"""Path segments that name nothing; each answered 404."""

BAD_FILES = [
    *("/docs/..", "/docs/%00", "/docs/..%2F..%2Fconfig.py", "/docs/C:%5Cx", "/docs/a%0A"),
    *("/docs//etc/passwd", "/static/..%2F__init__.py", "/" + "x" * 100_000, "/" + "/a" * 5000),
]

OTHER_TYPES = [
    *(None, "", " ", "text/plain", "text/json", "application/x-json", "application/jsonp"),
    *("application/x-www-form-urlencoded", "application/vnd.api+json", "application/json-seq"),
    *("application/problem+json", "application/jsonl", "application", "json", "/", "*/*", "*"),
    *("application/*", "text/plain; charset=application/json", "text/plain, application/json"),
    *("application/json, text/csv", "application/json/x", ";application/json", "x" * 5000),
    *("application/octet-stream", "application/xml", "application/pickle", "text/csvx", "\xff"),
    *("multipart/mixed; boundary=x", "multipart/form-datax; boundary=x", "application/zip"),
    *("application/json; charset=utf-16", "application/json; charset=latin-1", "image/png"),
    *("application/x-ndjson", "text/tab-separated-values"),
]
"""Content types that no operation reads; each answered 415."""
TABLE_PARAMETERS = [
    *("text/csv; charset=utf-16", "text/csv; charset=latin-1", "text/csv; header=absent"),
    *('text/csv; charset=utf-8; header="absent"', "TEXT/CSV; HEADER=ABSENT"),
]
"""What would make a table mean something else than what is read; each answered 415."""

BOMB = gzip.compress(b" " * 10**7)
ENCODINGS = {
    "br": b"\x8b\x00\x80{}\x03",
    "zstd": b"(\xb5/\xfd\x04",
    "compress": b"\x1f\x9d",
    "gzip, identity": BOMB,
    "identity, gzip": BOMB,
    "identity, identity": b"{}",
    "x": b"{}",
    "x" * 5000: b"{}",
}
"""Encodings of a body, none of which is read; each answered 415."""
SMALL_GZIP = gzip.compress(b"{}" * 1000)
NOT_PACKED = {
    "nothing": b"",
    "plain JSON": b'{"name": "a"}',
    "random bytes": bytes(range(256)),
    "gzip cut off": SMALL_GZIP[:-9],
    "deflate cut off": zlib.compress(b"{}" * 1000)[:-5],
    "gzip with another sum": SMALL_GZIP[:-8] + b"\0\0\0\0" + SMALL_GZIP[-4:],
    "raw deflate": zlib.compress(b"{}")[2:-4],
}
"""What is neither gzip nor deflate, each whole; answered 400."""

LONG = "x" * 100_000
HEADERS: list[tuple[str, str]] = [
    *(
        ("Accept", value)
        for value in (
            *("", "*", "a", "/", ";", ",,,,", "a/b/c", "*/json", "image/*", "text/csv;q=", LONG),
            *("application/json;q=NaN", "application/json;q=-1", "application/json;q=1e400"),
            *(f"application/json;q={DIGITS}", "*/*;q=0", 'a/b;x="', ",".join(["a/b"] * 5000)),
            *("application/json;q=0.0001;q=2", "\xff/\xff", "application/json\x00"),
        )
    ),
    *(
        (name, value)
        for name in ("If-Match", "If-None-Match")
        for value in (
            *("", '"', '""', "W/", 'W/"', "1", '"-1"', f'"{DIGITS}"', f'"{LONG}"', '"\xb2"', "**"),
            *(
                ",".join(f'"{i}"' for i in range(2, 5000)),
                '"1_0"',
                '"\xff"',
                "W/*",
                '*, "1"',
                ",,,",
            ),
        )
    ),
    *(
        ("Range", value)
        for value in (
            *("bytes=", "bytes=-1", "bytes=9-1", "bytes=0-", f"bytes={DIGITS}-", "rows=0-1"),
            *("bytes=0-0,1-1", "bytes=" + ",".join(["0-0"] * 5000), "bytes=a-b", "bytes=--1"),
        )
    ),
    ("If-Range", '"a"'),
    ("If-Modified-Since", "Thu, 99 Foo 99999 99:99:99 GMT"),
    ("If-Unmodified-Since", DIGITS),
    ("X-Request-ID", LONG),
    ("X-Request-ID", "a b"),
    ("X-HTTP-Method-Override", "DELETE"),
    ("X-Method-Override", "DELETE"),
    ("X-Original-URL", "/api/v1/items/1"),
    ("X-Forwarded-Prefix", "/..//evil"),
    ("X-Forwarded-For", "\xff" * 100),
    ("X-Forwarded-Host", "evil.example, b"),
    ("Forwarded", 'for="_'),
    ("Host", ""),
    ("Host", "a b"),
    ("Host", "[::1"),
    ("Host", "\xff"),
    ("Host", "a" * 5000),
    ("Host", "x:99999999"),
    ("Host", "x:y"),
    ("Host", "../../.."),
    ("Cookie", "session=" + LONG),
    ("Cookie", "=;=;\xff"),
    ("Authorization", "Basic ="),
    ("Authorization", "Bearer " + LONG),
    ("Authorization", "Digest x"),
    ("Authorization", "Basic \xff"),
    ("Accept-Charset", "utf-16"),
    ("Accept-Encoding", "gzip;q=NaN, \xff"),
    ("Accept-Language", ";;;" + LONG),
    ("Expect", "the impossible"),
    ("Upgrade", "h2c"),
    ("Content-Length", "0"),
    ("Content-MD5", "x"),
    ("Digest", "sha-256=x"),
    ("Date", "yesterday"),
    ("Idempotency-Key", LONG),
    ("Idempotency-Key", ""),
    ("Idempotency-Key", "\xff"),
    ("Prefer", "return=nothing"),
    ("Origin", "null"),
    ("Traceparent", "00-" + "0" * 5000),
]
NOT_THIS_STATE = re.compile(r'^"[^"]*"|^\d{2}')
"""Those `If-Match` that hold for certain no tag of an item's first state."""
METHODS = ["TRACE", "CONNECT", "BREW", "PROPFIND", "get", "Post", "PATCHX", "SEARCH", "x" * 100]

# --- tables ---------------------------------------------------------------------------------

NO_CSV_CELLS = [
    *("", " ", "abc", "true", "1_0", "0x10", "NaN", "nan", "inf", "-Infinity", "1e400", DIGITS),
    *("null", "NULL", "N/A", "-", "1;2", '"1,5"', "=1+1", "١", "1\0", "\0", "1e", "1.2.3", "+-1"),
    *("1 000", "$1", "50%", "2020-01-01", "☃", "[1]", "{}"),
]
"""Text in a cell of a CSV table that is no number; the answer names column and row."""


def _lines(table: bytes) -> list[bytes]:
    return table.splitlines(keepends=True)


NO_CSV: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda table: b"",
    "blank lines": lambda table: b"\n\n\r\n",
    "a BOM alone": lambda table: b"\xef\xbb\xbf",
    "a header alone": lambda table: _lines(table)[0],
    "a header without a line end": lambda table: _lines(table)[0].rstrip(),
    "no header": lambda table: b"".join(_lines(table)[1:]),
    "semicolons": lambda table: table.replace(b",", b";"),
    "tabs": lambda table: table.replace(b",", b"\t"),
    "UTF-16": lambda table: table.decode().encode("utf-16"),
    "UTF-16-LE": lambda table: table.decode().encode("utf-16-le"),
    "a header in Latin-1": lambda table: table.replace(b"x2", b"\xe92", 1),
    "NUL in the header": lambda table: table.replace(b"x2", b"x\x002", 1),
    "upper case": lambda table: table.upper(),
    "a name twice": lambda table: table.replace(b"x2", b"x1", 1),
    "a name missing": lambda table: table.replace(b"x2", b"", 1),
    "a quote that does not end": lambda table: table.replace(b"x2", b'"x2', 1),
    "a quoted cell that does not end": lambda table: table + b'"1',
    "a row too short": lambda table: table + b"1\n",
    "a row too long": lambda table: table + b"1," * 10 + b"1\n",
    "1,001 columns more": lambda table: b"".join(
        line.rstrip(b"\n")
        + b"".join(b",c%d" % i if n == 0 else b",%d" % i for i in range(1001))
        + b"\n"
        for n, line in enumerate(_lines(table))
    ),
    "a header of 100,000 names": lambda table: b",".join(b"c%d" % i for i in range(100_000)),
    "a name of a megabyte": lambda table: table.replace(b"x2", b"x" * 2**20, 1),
    "a line of a megabyte": lambda table: b"x" * 2**20,
    "JSON": lambda table: json.dumps({"X": [[1, 2, 3]], "y": [1]}).encode(),
    "HTML": lambda table: b"<table><tr><td>1</td></tr></table>",
    "compressed": gzip.compress,
    "NULs": lambda table: bytes(len(table)),
    "noise": lambda table: bytes(range(256)) * 4,
}
"""What may become of a CSV table on its way, so that it is none any more."""

BOUNDARIES = [
    *("multipart/form-data", "multipart/form-data; boundary=", 'multipart/form-data; boundary=""'),
    *("multipart/form-data; boundary=other", f"multipart/form-data; boundary={'x' * 5000}"),
    *("multipart/form-data; boundary=\xff", "multipart/form-data; boundary=a\x00b"),
    'multipart/form-data; boundary="0123456789abcdef',
]
FILENAMES = [
    *(
        "../../../../etc/passwd",
        "..\\..\\boot.ini",
        "C:\\autoexec.bat",
        "/etc/passwd",
        "a.csv.exe",
    ),
    *(
        "a.csv\0.exe",
        "\0",
        "rows",
        ".csv",
        "csv",
        "rows.xlsx",
        "rows.csv.gz",
        "rows.tsv",
        "x" * 5000,
    ),
    *("rows.c\u200bsv", "ro\u202evsc.exe", "NUL", "CON.pkl", "rows.csv;", "rows.csv ", "☃"),
]
"""Names of files that say nothing of a format that is read."""
