"""The inputs: what is wrong with each, and where a good answer says so.

Which bytes are no JSON and which values no field takes is tested in ``tests/web``, which bytes are
no table or model in ``tests/ml/core``; here, a few of each kind are sent to every operation.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable

from tests.bad_input.census import Place

DIGITS = "9" * 5000
DEEP = 1000  # nested levels that are still read
NESTED = "[" * DEEP + "]" * DEEP

# --- JSON documents -----------------------------------------------------------------------

MALFORMED = [  # each a 400
    *(b"", b"{", b'{"name": "a",}', b'{"name": "a"}\n{"name": "b"}\n', b"name=a&description=b"),
    *('{"name": "a"}'.encode("utf-16"), '{"name": "é"}'.encode("latin-1")),
    *(rb'{"name": "\ud800"}', rb'{"name": "\ud800", "x": NaN}', b'{"name": NaN'),
    *(gzip.compress(b'{"name": "a"}'), b'{"name": ' + DIGITS.encode()),
    *(b"[" * n + b"]" * n for n in (1025, 10**6)),
    b'{"x": NaN, "name": ' + b"[" * 10**5 + b"]" * 10**5 + b"}",
]
NO_OBJECTS = ["null", "true", "1", '"a"', "[]", '[{"name": "a"}]', "NaN", "1e400", DIGITS, NESTED]
"""Each a 422."""
UNKNOWN_FIELDS = {"unknown": "unknown", "": "", r"a\u0000b": "a\0b", "x" * 100_000: None}
"""JSON text of a key → the name that the answer gives."""

# --- values of fields, as JSON text -------------------------------------------------------

KINDS = {
    "null": ["null"],
    "boolean": ["true", "false"],
    "integer": ["0", "-1", "9223372036854775808"],
    "decimal": ["1.5", "1.0", "1e2", "5e-324"],
    "huge": ["NaN", "-Infinity", "1e400", DIGITS],
    "string": ['""', '"1"', '"true"', r'"\u0000"', '"nobody"'],
    "array": ["[]", "[1]", '["a"]', "[null]", "[[]]", "[{}]", NESTED],
    "object": ["{}", '{"a": 1}', f'{{"a": {NESTED}}}'],
}


def all_but(*kinds: str) -> list[str]:
    """Return values of every kind but those."""
    return [text for kind, texts in KINDS.items() if kind not in kinds for text in texts]


FLAG = all_but("boolean")
CELLS = ["true", "null", '"1"', "[1]", "{}", "NaN", "1e400", DIGITS]
"""What no cell of a matrix may hold."""

NAME_LISTS = [
    *("[]", '["a"]', '["a", "b", "a"]', '["a", "b", ""]', '["a", "b", null]', '["a", "b", 1]'),
    *(r'["a", "b", "\u0000"]', NESTED),
]
"""What does not name three features."""
REFUSED_VALUES: dict[str, list[str]] = {
    "name": [*all_but("string"), '""', r'"a\u001bb"', r'"a\nb"', f'"{"🙂" * 256}"'],
    "description": [*all_but("string"), r'"a\u000bb"', f'"{"x" * 10_001}"'],
    "X": [*all_but("array"), "[]", "[[]]", "[1]", "[[1], [1, 2]]", NESTED],
    "y": [*all_but("array"), "[]", "[1]", "[1, 2, 3]", "[[1], [2]]", NESTED],
    "estimator": [*all_but("null"), '"Ridge"', f'"{"x" * 100_000}"'],
    "params": [*all_but("object"), '{"a": 1}', '{"n_jobs": 1}', f'{{"{"x" * 100_000}": 1}}'],
    "scale": all_but("boolean", "null"),
    "task": [*all_but("null"), '"Regression"'],
    "columns": [*all_but("object"), '{"x1": "colour"}', '{"x9": "number"}', '{"x1": 1}'],
    "exclude": [*all_but("array"), '["x1", "x2", "x3"]', "[1]", "[null]", "[[]]", '["x9"]'],
    "time_budget": [*all_but("integer"), "0", "3601"],
    "test_size": [*all_but("integer", "decimal"), "-1", "1", "1.5", "-5e-324"],
    "random_state": [*all_but("integer"), "-1", "4294967296"],
    "refit": FLAG,
    "cv": [*all_but("integer"), "-1", "1", "3", "21"],
    "stratify": FLAG,
    "activate": FLAG,
    "metric": [*all_but("null"), '"r2"', '"f1"'],
    "grid": [
        *(*all_but(), '{"alpha": []}', '{"alpha": [1, -1]}', '{"alpha": 1}', '{"depth": [1]}'),
        *(f'{{"alpha": [{NESTED}]}}', f'[{{"alpha": [{DIGITS}]}}]', '[{"alpha": [1]}, {}]'),
    ],
    "distributions": all_but("null"),  # which goes with no grid
    "iterations": [*all_but(), "1001"],
    "feature_names": [*all_but("array", "null"), *NAME_LISTS],
    "features": [
        *(*all_but("array", "object"), "[]", "[1, 2]", "[1, 2, 3, 4]", "{}", "[[1, 2, 3]]"),
        *('{"x1": 1, "x2": 2, "x4": 3}', NESTED),
    ],
    "instances": [
        *(*all_but("array"), "[]", "[[]]", "[{}]", "[1]", "[[1, 2]]", "[[1, 2, 3, 4]]"),
        *('[[1, 2, 3], {"x1": 1, "x2": 2, "x3": 3}]', NESTED),
    ],
    "intervals": FLAG,
    "explain": FLAG,
    "for_spreadsheet": FLAG,
    "level": [*all_but("decimal"), "1.0", "1.5", "-0.5"],
    "version": [*all_but("integer"), "0", "-1", "9223372036854775808"],
    "shares": [
        *(*all_but(), '{"1": 99}', '{"1": 101}', '{"1": "100"}', '{"1": 100.0}', '{"1": null}'),
        *('{"0": 100}', '{"-1": 100}', '{"01": 100}', '{"1.0": 100}', '{"": 100}', '{"1": true}'),
        *('{"1": 100, "2": 0}', '{"1": 101, "2": -1}', f'{{"{DIGITS}": 100}}', '{"1": [100]}'),
        "{" + ", ".join(f'"{n}": {10 - (n > 9) * 5}' for n in range(1, 12)) + "}",
    ],
    "shadow": [*all_but("integer", "null"), "0", "-1", "1", "9223372036854775808"],
    "data": [*all_but("array"), *KINDS["array"]],
    "extra": [*all_but(), '"Ignore"'],
    "passthrough": [*all_but("array"), "[1]", "[null]", '["x9"]', '["prediction"]'],
    "target": all_but("null"),
    # Of files, which are refused beside X and y, and how they are read.
    "source": [*all_but(), '"a.csv"', '"../a.csv"', '"/etc/passwd"', f'"{"x" * 256}"'],
    "delimiter": [*all_but(), '":"', '";"'],
    "decimal": [*all_but(), '";"', '","'],
    "notes": [*all_but("string"), r'"a\u000bb"', f'"{"x" * 2_001}"'],
    "tags": [
        *(*all_but("object"), '{"A": "b"}', '{"": "b"}', '{"a b": "c"}', '{"a": 1}', '{"a": []}'),
        *(r'{"a": "\u0000"}', f'{{"a": "{"x" * 256}"}}', f'{{"{"x" * 64}": "a"}}'),
        *('{"a": {"b": "c"}}', "{" + ", ".join(f'"{n}": ""' for n in range(51)) + "}"),
    ],
}
"""Values that a field does not take; each answered 422 with the field named."""

SHAPES: list[tuple[str, Place]] = [
    ("[[], []]", ("0",)),
    *((f"[[1, 2, 3], {row}]", ("1",)) for row in ("[4, 5]", "[]", "null", "7", '"456"', "{}")),
    *((f"[[1, 2, 3], [4, {cell}, 6]]", ("1", "1")) for cell in CELLS),
]
"""Matrices that are none, with the place of the fault: row, then column."""
PLACED: dict[str, list[tuple[str, Place]]] = {
    "X": [(text, place) for text, place in SHAPES if text != "[[1, 2, 3], [4, null, 6]]"],
    "y": [(f"[1, {cell}]", ("1",)) for cell in CELLS if cell != "null"],
    "instances": [
        *SHAPES,
        ('[{"x1": 1, "x2": 2, "x3": 3}, {"x1": 1, "x3": 3}]', ("1", "x2")),
        ('[{"x1": 1, "x2": 2, "x3": 3, "x4": 4}]', ("0", "x4")),
        *((f'[{{"x1": 1, "x2": {cell}, "x3": 3}}]', ("0", "x2")) for cell in CELLS),
    ],
    "data": [
        *((f'[{{"a": 1}}, {{"a": {cell}}}]', ("1", "a")) for cell in CELLS if cell != "null"),
        ('[{"a": "x"}, {"a": null}, {"a": true}]', ("2", "a")),
    ],
    "features": [
        *((f"[1, {cell}, 3]", ("1",)) for cell in CELLS),
        *((f'{{"x1": 1, "x2": {cell}, "x3": 3}}', ("x2",)) for cell in CELLS),
        ('{"x1": 1, "x2": 2}', ("x3",)),
    ],
}

# --- the head of a request ----------------------------------------------------------------

NO_INTEGERS = ["", "1.0", "+1", "1_0", "١", "true", "NaN", "1\0", DIGITS, "-1"]
NO_NUMBERS = ["", "1_0", "١", "NaN", "inf", "1e400", "1\0", "1,5", DIGITS]
NO_FLAGS = ["", "yes", "1", "True", "null", "\0", '"true"', "NaN"]
NO_TEXT = ["\0", "a\nb", "\x7f", "x" * 256]
REFUSED_QUERY = {
    "page": [*NO_INTEGERS, "0", "2147483648"],
    "page_size": [*NO_INTEGERS, "0", "1001"],
    "q": NO_TEXT,
    "sort": [
        *("", "ID", "id,name", "--id", "nobody", "id\0", "id;drop", "x" * 5000, "metrics."),
        *('metrics.a"', "metrics.a\\", "metrics.a\0", "metrics.é", "--version", "version,id"),
    ],
    "tag": ["", "a", ":", ":a", "A:a", "a b:c", "a:\0", "a:\n", "x" * 64 + ":a", "a:" + "x" * 256],
    "versions": [
        *("", "ALL", "1", "all,all", "all\0", "null", "1,1", "1,", ",1", "0,1", "1, 2", "1,2\n"),
        *("1,١", "1,-2", "1,2.0", f"1,{DIGITS}", ",".join(map(str, range(1, 12)))),
    ],
    "after": ["", "\0", "é", "1", "W10", "WyJpZCIsMF0", "WyItaWQiLDFd", "A" * 5000],
    "subject": NO_TEXT,
    "status": ["", "Queued", "queued,running", "\0", "x" * 5000],
    "delimiter": ["", ":", ";;", "\0", "a"],
    "decimal": ["", ";", "..", "\0", "1", ","],
    "n_samples": [*NO_INTEGERS, "0", "100001"],
    "noise": [*NO_NUMBERS, "-1", "1e7"],
    "seed": [*NO_INTEGERS, "4294967296"],
    "estimator": ["", "no body", "\0", "x" * 5000],
    "params": ["", "1", "null", "[]", "{", '{"a": 1}', '{"a": NaN}', "[" * 5000, "\0"],
    "scale": [flag for flag in NO_FLAGS if flag != "null"],
    "task": ["", "Regression", "\0", "1"],
    "columns": ["", "1", "[]", "{", '{"x1": "colour"}', '{"x9": "number"}', "\0"],
    "exclude": ["x9", "x1,x9", "x1,x2,x3", "\0", "[1]"],
    "extra": ["", "Ignore", "1", "\0"],
    "passthrough": ["x9", "\0", "prediction", "[1]"],
    "time_budget": [*NO_INTEGERS, "0", "3601"],
    "test_size": [*NO_NUMBERS, "1", "-1", "true", "null", '"0.5"'],
    "random_state": [*NO_INTEGERS, "4294967296"],
    "refit": NO_FLAGS,
    "cv": [*NO_INTEGERS, "1", "21", "4"],
    "stratify": NO_FLAGS,
    "activate": [*NO_FLAGS, "if_better", "better"],
    "metric": ["", "1", "r2", "\0", "rmse,mae", "f1"],
    "grid": [
        *("", "1", "null", "[]", "{}", "{", '{"alpha": []}', '{"alpha": [-1]}', '{"a": [1]}'),
        *("[" * 5000, "\0", "alpha=1", f'{{"alpha": [{NESTED}]}}'),
    ],
    "distributions": ["", "1", "{}", "[]", "{", '{"alpha": [1]}', "\0"],
    "iterations": [*NO_INTEGERS, "0", "1001"],
    "target": ["", "nobody", "Y", "y\0", "x" * 5000],
    "intervals": NO_FLAGS,
    "explain": NO_FLAGS,
    "for_spreadsheet": NO_FLAGS,
    "level": [*NO_NUMBERS, "0", "1", "-1", "true", "null"],
}
"""Values that a query parameter does not take; each answered 422."""
UNKNOWN_QUERIES = ["nobody", "nobody=1", "=1", "%00=1", "a%5B%5D=1", "☃=1", "a=1;b=2"]
NOT_UTF8 = ["%FF=1", "a=%FF", "%E2%98=1", "a=%C0%80", "a=%ED%A0%80"]
"""Queries that decode to no text; each answered 400."""

BAD_IDS = [
    *("-1", "0", "9223372036854775807", "9223372036854775808", DIGITS, "1.0", "abc", "%00"),
    *("1%00", "1%0A", "+1", "1_0", "%D9%A1", "%FF", "..", "%2E%2E", "1;v=1", "1%252F2", "%", "'"),
]
BAD_NAMES = [
    *("..", "%2E%2E", ".git", "-a", "Default", "a" * 64, DIGITS, "a%00", "default%0A", "%20"),
    *("a%5Cb", "..%5Cdefault", "C:", "~root", "%FF", "☃", "d%D0%B5fault", "%ED%A0%80", "a;v=1"),
    *("*", "%", "$HOME", "{name}", "'", "..%2Fdefault", "default%2F..%2Fdefault"),
]
"""Path segments that name nothing; each answered 404."""
BAD_FILES = [
    *("/docs/..", "/docs/%00", "/docs/..%2F..%2Fconfig.py", "/docs/C:%5Cx", "/docs//etc/passwd"),
    *("/static/..%2F__init__.py", "/" + "x" * 100_000, "/" + "/a" * 5000),
]

OTHER_TYPES = [
    *(None, "", "text/plain", "application/jsonp", "application/x-www-form-urlencoded", "json"),
    *("application/vnd.api+json", "application/problem+json", "*/*", "application/json, text/csv"),
    *("application/json; charset=utf-16", "application/octet-stream", "\xff"),
    *("multipart/mixed; boundary=x", "multipart/form-datax; boundary=x", "x" * 5000),
]
"""Content types that no operation reads; each answered 415."""
TABLE_PARAMETERS = [
    *("text/csv; charset=utf-16", "text/csv; charset=latin-1", "TEXT/CSV; HEADER=ABSENT"),
    'text/csv; charset=utf-8; header="absent"',
]
"""What would make a table mean something else than what is read; each answered 415."""

ENCODINGS = ["br", "zstd", "compress", "gzip, identity", "identity, identity", "x" * 5000]
"""Encodings of a body, none of which is read; each answered 415."""

LONG = "x" * 100_000
OTHER_STATES = ['"-1"', f'"{DIGITS}"', f'"{LONG}"', '"\xb2"', '"1_0"', '"\xff"', '""']
"""What `If-Match` may name, and is no state of an item that has never changed."""
HEADERS: dict[str, list[str]] = {
    "Accept": [
        *("", "*", "a", ";", ",,,,", "a/b/c", "image/*", "application/json;q=NaN", "*/*;q=0"),
        *(LONG, f"application/json;q={DIGITS}", 'a/b;x="', "a/b," * 5000, "\xff/\xff"),
    ],
    "If-Match": [*OTHER_STATES, "", '"', "W/", "1", "**", ",,,"],
    "If-None-Match": [*OTHER_STATES, "", '"', "W/*", '*, "1"'],
    "Range": ["bytes=", "bytes=9-1", f"bytes={DIGITS}-", "bytes=" + ",".join(["0-0"] * 5000)],
    "If-Modified-Since": ["Thu, 99 Foo 99999 99:99:99 GMT"],
    "X-Request-ID": [LONG, "a b"],
    "X-Traffic-Key": [LONG, "", "\xff"],
    "X-HTTP-Method-Override": ["DELETE"],
    "X-Forwarded-For": ["\xff" * 100],
    "X-Forwarded-Host": ["evil.example, b"],
    "Host": ["", "a b", "[::1", "\xff", "a" * 5000, "x:99999999", "../../.."],
    "Cookie": ["session=" + LONG, "=;=;\xff"],
    "Authorization": ["Basic =", "Bearer " + LONG, "Basic \xff"],
    "Accept-Encoding": ["gzip;q=NaN, \xff"],
    "Idempotency-Key": [LONG, "", "\xff"],
    "Origin": ["null"],
    "Traceparent": ["00-" + "0" * 5000],
}
METHODS = ["TRACE", "CONNECT", "BREW", "get", "PATCHX", "x" * 100]

# --- tables ---------------------------------------------------------------------------------

NO_CSV_CELLS = [
    *("", " ", "abc", "1_0", "0x10", "NaN", "inf", "1e400", DIGITS, "N/A", "1;2", '"1,5"', "=1+1"),
    *("١", "1\0", "1e", "1 000", "2020-01-01", "[1]"),
]
"""Text in a cell of a CSV table that is no number; the answer names column and row."""


NO_CSV: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda table: b"",
    "a BOM alone": lambda table: b"\xef\xbb\xbf",
    "a header alone": lambda table: table.partition(b"\n")[0],
    "no header": lambda table: table.partition(b"\n")[2],
    "semicolons": lambda table: table.replace(b",", b";"),
    "UTF-16": lambda table: table.decode().encode("utf-16"),
    "a header in Latin-1": lambda table: table.replace(b"x2", b"\xe92", 1),
    "NUL in the header": lambda table: table.replace(b"x2", b"x\x002", 1),
    "a name twice": lambda table: table.replace(b"x2", b"x1", 1),
    "a name missing": lambda table: table.replace(b"x2", b"", 1),
    "a quote that does not end": lambda table: table.replace(b"x2", b'"x2', 1),
    "a header of 100,000 names": lambda table: b",".join(b"c%d" % i for i in range(100_000)),
    "a name of a megabyte": lambda table: table.replace(b"x2", b"x" * 2**20, 1),
    "compressed": gzip.compress,
    "noise": lambda table: bytes(range(256)) * 4,
}
"""What may become of a CSV table on its way, so that it is none any more."""

BOUNDARIES = [
    *(f"multipart/form-data{end}" for end in ("", "; boundary=", "; boundary=other")),
    *(f"multipart/form-data; boundary={text}" for text in ("x" * 5000, "\xff", "a\x00b")),
]
FILENAMES = [
    *("../../../../etc/passwd", "a.csv.exe", "a.csv\0.exe", "\0", "rows", ".csv", "rows.csv.gz"),
    *("x" * 5000, "ro\u202evsc.exe", "CON.pkl", "☃"),
]
"""Names of files that say nothing of a format that is read."""

REFUSED_UPLOAD_FIELDS = {
    "feature_names": ["", "1", "a", "{}", '["a", "b", NaN]', r'["a", "b", "\ud800"]', *NAME_LISTS],
    "metrics": [
        *("", "1", "[]", "null", "x", '{"a": NaN}', '{"a": 1e400}', '{"a": ', '{"a": 1} {}'),
        *(r'{"\ud800": 1}', f'{{"a": {DIGITS}}}', f'{{"a": {NESTED}}}', "[" * 10**5),
    ],
    "activate": [*NO_FLAGS, "better"],
    "metric": ["", "1", "r2", "rmse"],  # which needs activate=if_better, as the next ones do
    "table": ["", "a,b", "null"],
    "target": ["y", "\0"],
    "extra": ["", "Ignore", "null"],
    "delimiter": ["", ";", ","],
    "decimal": ["", "."],
    "format": ["", "pickle", "1", "SKOPS"],
    "signature": [
        *("", "1", "[]", "x", "{}", '{"columns": []}', '{"columns": [1]}', f'{{"a": {NESTED}}}'),
        *('{"columns": [{"name": 1}]}', '{"columns": [{"name": "a", "kind": "fish"}]}'),
        *('{"columns": [{"name": "a", "kind": "category"}]}', '{"columns": [{"name": ""}]}'),
        *('{"columns": [{"name": "a", "kind": "datetime", "parts": ["hour", "days"]}]}',),
    ],
    "sample": ["[[1, 2, 3]]"],  # without what is expected
    "expected": ["[1]", "1", "x", "[[[1]]]"],
    "nobody": ["1"],
}
