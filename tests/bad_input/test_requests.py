"""Bad requests to every operation: bodies, fields, queries, paths, content types, headers."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from tests.bad_input import catalogue
from tests.bad_input.census import (
    CSV,
    JSON,
    PATH_VALUES,
    VALID,
    Census,
    Place,
    json_object,
    make_table,
)
from tests.faults import on_sqlite
from tests.tables import to_csv
from webapp import API_PREFIX
from webapp.web.parsing import SMALL_BODY

pytestmark = on_sqlite

ITEMS = f"{API_PREFIX}/items"
CHUNKED = {"Transfer-Encoding": "chunked"}


def test_every_operation_that_takes_a_body_takes_a_good_one(census: Census) -> None:
    assert len(census.with_body) > 30
    for operation, media_type in census.with_body:
        request = operation.valid_body(media_type, census.artifact)
        census.send(operation, f"good {media_type}", {200, 201}, **request)


def test_bodies(fruitless: Census) -> None:
    for operation in fruitless.with_json:
        for data in catalogue.MALFORMED:
            too_large = len(data) > SMALL_BODY and not operation.takes_table
            status = 413 if too_large else 400
            fruitless.send(operation, data[:50], status, data=data, content_type=JSON)
        for text in catalogue.NO_OBJECTS:
            fruitless.send(operation, text, 422, place=("json",), data=text, content_type=JSON)
    for operation in fruitless.operations:
        if not operation.bodies and not operation.is_probe:
            request = {"json": {"a": 1}, "place": ("body",)}
            fruitless.send(operation, "a body", 422, **request)


def test_fields(fruitless: Census) -> None:
    for operation in fruitless.with_json:
        schema = operation.bodies[JSON]
        valid = VALID[schema]
        tries: list[tuple[Any, Place | None]] = [
            ({name: text for name, text in valid.items() if name != field}, ("json", field))
            for field in fruitless.fields_of(schema, only_required=True)
        ]
        for key, name in catalogue.UNKNOWN_FIELDS.items():
            tries.append(({**valid, key: "1"}, None if name is None else ("json", name)))
        for field in fruitless.fields_of(schema):
            values = catalogue.REFUSED_VALUES[field]
            placed: list[tuple[str, Place]] = [(value, ()) for value in values]
            # Beside X, data are refused as such; and those are two rows, too few for folds.
            if "X" not in valid or not (field == "data" or "cv" in valid):
                placed += catalogue.PLACED.get(field, [])
            tries += [({**valid, field: v}, ("json", field, *place)) for v, place in placed]
            # Of a repeated key the last one counts.
            tries.append(([*valid.items(), (field, values[0])], ("json",)))
            data = json_object({**valid, field: '["\\ud800"]'})
            fruitless.send(operation, f"{field} \\ud800", 400, data=data, content_type=JSON)
        for fields, place in tries:
            request = {"data": json_object(fields), "content_type": JSON, "place": place}
            fruitless.send(operation, request["data"], 422, **request)


def test_floods(fruitless: Census) -> None:
    million = range(10**6)
    train = next(operation for operation in fruitless.with_json if operation.takes_table)
    for note, data in {
        "a million fields": b"{" + b",".join(b'"%d":0' % i for i in million) + b"}",
        "a million times one key": b"{" + b",".join([b'"a":0'] * len(million)) + b"}",
    }.items():
        fruitless.send(train, note, 422, data=data, content_type=JSON)
    for query in ("&".join(f"a{i}=1" for i in range(50_000)), "&".join(["page=1"] * 50_000)):
        fruitless.send(f"GET {ITEMS}", query[:20], 422, query_string=query)


# What is found wrong only once the table is read.
FOUND_LATER = ("activate", "target", "params", "cv", "columns", "exclude", "passthrough")
FOUND_LATER += ("metric", "grid", "distributions")


def test_queries(fruitless: Census) -> None:
    for operation in fruitless.operations:
        request = {}
        if operation.takes_table:
            request = {"data": to_csv(make_table(operation.columns)), "content_type": CSV}
        for name in operation.query:
            for value in catalogue.REFUSED_QUERY[name]:
                sent = {**request, "query_string": {**operation.options, name: value}}
                place = None if name in FOUND_LATER else ("query", name)
                fruitless.send(operation, f"{name}={value}", 422, place=place, **sent)
            twice = {**operation.options, name: ["1", "1"]}
            sent = {**request, "query_string": twice, "place": ("query", name)}
            fruitless.send(operation, f"{name} twice", 422, **sent)
        for query in catalogue.UNKNOWN_QUERIES:
            place = None if operation.is_probe else ("query",)
            status = 200 if operation.is_probe else 422
            fruitless.send(operation, query, status, place=place, query_string=query, **request)
        for query in catalogue.NOT_UTF8:
            status = 200 if operation.is_probe else 400
            fruitless.send(operation, query, status, query_string=query, **request)


def test_paths(fruitless: Census) -> None:
    values = {"item_id": catalogue.BAD_IDS, "number": catalogue.BAD_IDS}
    values["job"] = values["number"]
    values["name"] = values["alias"] = values["plot"] = catalogue.BAD_NAMES
    for operation in fruitless.operations:
        media_type = next(iter(operation.bodies), None)
        request = operation.valid_body(media_type, b"") if media_type else {}
        for parameter in operation.parameters:
            for value in values[parameter]:
                path = operation.template.format(**{**PATH_VALUES, parameter: value})
                fruitless.send(operation, f"{parameter}={value}", 404, path=path, **request)
        for path in (
            *(operation.path + end for end in ("/..", "/nothing/here", "//", "%00", "%2F%2F")),
            *(f"/{operation.path}", f"/..{operation.path}", operation.path.upper()),
        ):
            fruitless.send(operation, path, {404, 405}, path=path)
    for path in catalogue.BAD_FILES:
        fruitless.send(f"GET {path}", path, 404)


def test_content_types(fruitless: Census) -> None:
    for operation, media_type in fruitless.with_body:
        good = operation.valid_body(media_type, fruitless.artifact)

        changes: list[tuple[int, dict[str, Any]]] = [
            *((415, {"content_type": kind, "query_string": {}}) for kind in catalogue.OTHER_TYPES),
            *((415, {"headers": {"Content-Encoding": name}}) for name in catalogue.ENCODINGS),
            (400, {"headers": {"Content-Encoding": "gzip"}}),
            (411, {"headers": CHUNKED, "environ_overrides": {"CONTENT_LENGTH": ""}}),
            (413, {"environ_overrides": {"CONTENT_LENGTH": str(2**63)}}),
        ]
        if media_type == CSV:
            changes += [(415, {"content_type": kind}) for kind in catalogue.TABLE_PARAMETERS]
        for status, change in changes:
            fruitless.send(operation, f"{media_type}, {change}", status, **{**good, **change})
        fruitless.app.config["MAX_CONTENT_LENGTH"] = 1000
        good["data"] = good["data"].ljust(1001)
        fruitless.send(operation, f"{media_type}, 1,001 bytes", 413, **good)
        fruitless.app.config["MAX_CONTENT_LENGTH"] = 2**28


def test_headers(fruitless: Census) -> None:
    # At what does not exist, so that nothing comes of a header that is rightly ignored.
    nobody = {"item_id": "999", "number": "999", "job": "999"}
    nobody |= {"name": "nobody", "alias": "nobody", "plot": "none"}
    calls = []
    for op in fruitless.operations:
        query = f"?{urlencode(op.options)}" if op.method == "GET" and op.options else ""
        calls.append((op.method, op.template.format(**nobody) + query))
    pages = ("/", "/docs", "/docs/swagger-ui.css", "/openapi.json", "/static/x.css")
    calls += [("GET", path) for path in pages]
    for name, values in catalogue.HEADERS.items():
        for value in values:
            for method, path in calls:
                expected = {200, 206, 304, 400, 404, 406, 412, 416}
                if method != "GET":
                    expected = {400, 404, 409, 412, 415, 422}
                request = {"headers": {name: value}}
                fruitless.send(f"{method} {path}", f"{name}: {value}", expected, **request).close()
    for value in catalogue.OTHER_STATES:
        for method in ("PUT", "PATCH", "DELETE", "GET", "HEAD"):
            request = {"headers": {"If-Match": value}}
            request |= {"json": {"name": "x"}} if method[0] == "P" else {}
            fruitless.send(f"{method} {ITEMS}/1", f"If-Match: {value}", 412, **request)
    for value in catalogue.HEADERS["Accept"]:
        request = {"headers": {"Accept": value}, "json": {"instances": [[1, 2, 3]]}}
        fruitless.send(f"POST {API_PREFIX}/ml/predict/batch", value, {200, 406}, **request)


def test_methods(fruitless: Census) -> None:
    known = {(operation.method, operation.path) for operation in fruitless.operations}
    for path in sorted({path for _, path in known}):
        for method in [*catalogue.METHODS, "GET", "POST", "PUT", "PATCH", "DELETE"]:
            if (method.upper(), path) not in known:
                response = fruitless.send(f"{method} {path}", "", 405)
                assert response.headers["Allow"], f"{method} {path}"
        fruitless.send(f"OPTIONS {path}", "", 200)
