"""Bad requests: bodies, fields, queries, paths, content types, headers, methods."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from urllib.parse import urlencode

from tests.bad_input import catalogue
from tests.bad_input.census import (
    CSV,
    FORM,
    JSON,
    MULTIPART,
    PATH_VALUES,
    VALID,
    Census,
    Operation,
    Place,
    form,
    json_object,
    make_table,
    part,
)
from tests.faults import on_sqlite
from tests.tables import to_csv
from webapp import API_PREFIX
from webapp.web.parsing import SMALL_BODY

pytestmark = on_sqlite

ITEMS = f"{API_PREFIX}/items"


def with_body(census: Census) -> list[tuple[Operation, str]]:
    """Return every operation that takes a body, with each media type that it takes."""
    return [(op, media_type) for op in census.operations for media_type in op.bodies]


def with_json(census: Census) -> list[Operation]:
    return [operation for operation in census.operations if JSON in operation.bodies]


def send_fields(
    census: Census,
    operation: Operation,
    fields: Mapping[str, str] | list[tuple[str, str]],
    note: object,
    place: Place | None,
) -> None:
    """Send a JSON object that must be refused for one of its fields."""
    request = {"data": json_object(fields), "content_type": JSON, "place": place}
    census.send(operation, note, 422, **request)


def test_every_operation_that_takes_a_body_takes_a_good_one(census: Census) -> None:
    taken = with_body(census)

    assert len(taken) > 30
    for operation, media_type in taken:
        request = operation.valid_body(media_type, census.artifact)
        census.send(operation, f"good {media_type}", {200, 201}, **request)
        census.inputs -= 1  # a good one does not count

    census.conclude()


def test_bodies(census: Census) -> None:
    census.begin()

    for operation in with_json(census):
        for note, data in catalogue.MALFORMED.items():
            too_large = len(data) > SMALL_BODY and not operation.takes_table
            status = 413 if too_large else 400
            census.send(operation, note, status, data=data, content_type=JSON)
        for note, data in catalogue.NO_OBJECTS.items():
            census.send(operation, note, 422, place=("json",), data=data, content_type=JSON)
    for operation in census.operations:
        if not operation.bodies and not operation.is_probe:
            headers = {"Content-Type": JSON}
            census.send(operation, "a body", 422, data=b'{"a": 1}', headers=headers)

    census.conclude()


def test_fields(census: Census) -> None:
    census.begin()

    for operation in with_json(census):
        schema = operation.bodies[JSON]
        valid, refused = VALID[schema], catalogue.REFUSED_VALUES[schema]
        assert set(refused) == census.fields_of(schema), f"{schema}: what does a field refuse?"

        for field in census.fields_of(schema, only_required=True):
            others = {name: text for name, text in valid.items() if name != field}
            send_fields(census, operation, others, f"no {field}", ("json", field))
        for key, name in catalogue.UNKNOWN_FIELDS.items():
            place = None if name is None else ("json", name)
            send_fields(census, operation, {**valid, key: "1"}, f"field {key}", place)
        for field, values in refused.items():
            placed = catalogue.PLACED.get((schema, field), [])
            for value, place in [*((value, ()) for value in values), *placed]:
                note, where = f"{field}: {value}", ("json", field, *place)
                send_fields(census, operation, {**valid, field: value}, note, where)
            for value in ('"\\ud800"', '["\\udfff"]', '{"\\ud800": 1}'):
                data = json_object({**valid, field: value})
                census.send(operation, f"{field} {value}", 400, data=data, content_type=JSON)
            # Of a repeated key the last one counts, at every size.
            for padding in ("", " " * 300_000):
                twice = [*valid.items(), (field, padding + values[0])]
                send_fields(census, operation, twice, f"{field} twice", ("json",))
    census.conclude()


def test_floods(census: Census) -> None:
    census.begin()

    million = range(10**6)
    floods = {
        "a million fields": b"{" + b",".join(b'"%d":0' % i for i in million) + b"}",
        "a million times one key": b"{" + b",".join([b'"a":0'] * len(million)) + b"}",
    }
    for operation in [op for op in with_json(census) if op.takes_table][:1]:
        for note, data in floods.items():
            census.send(operation, note, 422, data=data, content_type=JSON)
    for count in (1000, 50_000):
        query = "&".join(f"a{i}=1" for i in range(count))
        census.send(f"GET {ITEMS}", f"{count} parameters", 422, query_string=query)
        query = "&".join(["page=1"] * count)
        census.send(f"GET {ITEMS}", f"{count} times a parameter", 422, query_string=query)

    census.conclude()


def test_queries(census: Census) -> None:
    census.begin()

    for operation in census.operations:
        request = {}
        if operation.takes_table:
            request = {"data": to_csv(make_table(operation.columns)), "content_type": CSV}
        for name in operation.query:
            for value in catalogue.REFUSED_QUERY[name]:
                query = urlencode({**operation.options, name: value})
                # Those three are found wrong only once the table is read.
                place = None if name in ("target", "params", "cv") else ("query", name)
                note = f"{name}={value}"
                census.send(operation, note, 422, place=place, query_string=query, **request)
            query = urlencode({**operation.options}) + f"&{name}=1&{name}=1"
            place = ("query", name)
            census.send(
                operation, f"{name} twice", 422, place=place, query_string=query, **request
            )
        if operation.is_probe:
            for query in [*catalogue.UNKNOWN_QUERIES, *catalogue.NOT_UTF8]:
                census.send(operation, query, 200, query_string=query)
            continue
        for query in catalogue.UNKNOWN_QUERIES:
            census.send(operation, query, 422, place=("query",), query_string=query, **request)
        for query in catalogue.NOT_UTF8:
            census.send(operation, query, 400, query_string=query, **request)
    census.conclude()


def test_paths(census: Census) -> None:
    census.begin()

    values = {"item_id": catalogue.BAD_IDS, "number": catalogue.BAD_IDS}
    values["name"] = catalogue.BAD_NAMES
    for operation in census.operations:
        for parameter in operation.parameters:
            for value in values[parameter]:
                path = operation.template.format(**{**PATH_VALUES, parameter: value})
                media_type = next(iter(operation.bodies), None)
                request = operation.valid_body(media_type, b"") if media_type else {}
                census.send(operation, f"{parameter}={value}", 404, path=path, **request)
        for path in (
            f"{operation.path}/..",
            f"{operation.path}/nothing/here",
            f"/{operation.path}",
            f"{operation.path}//",
            f"{operation.path}%00",
            f"{operation.path}%2F%2F",
            f"/..{operation.path}",
            operation.path.upper(),
            operation.path.replace("/api", "/api/..") if "api" in operation.path else "/..",
        ):
            census.send(operation, path, {404, 405}, path=path)
    for path in catalogue.BAD_FILES:
        census.send(f"GET {path}", path, 404)

    census.conclude()


def test_content_types(census: Census) -> None:
    census.begin()

    for operation, media_type in with_body(census):
        request = operation.valid_body(media_type, census.artifact)
        for content_type in catalogue.OTHER_TYPES:
            sent = {"data": request["data"], "content_type": content_type}
            census.send(operation, f"{media_type} as {content_type}", 415, **sent)
        for encoding, data in catalogue.ENCODINGS.items():
            headers = {"Content-Encoding": encoding}
            sent = {**request, "data": data, "headers": headers}
            census.send(operation, f"{media_type} in {encoding!r}", 415, **sent)
        for encoding in ("gzip", "deflate"):
            for note, data in catalogue.NOT_PACKED.items():
                headers = {"Content-Encoding": encoding}
                sent = {**request, "data": data, "headers": headers}
                census.send(operation, f"{media_type}: {note} as {encoding}", 400, **sent)
        chunked = {
            "headers": {"Transfer-Encoding": "chunked"},
            "environ_overrides": {"CONTENT_LENGTH": ""},
        }
        census.send(operation, f"{media_type} chunked", 411, **request, **chunked)
        for length in ("9" * 30, str(2**63)):
            overrides = {"CONTENT_LENGTH": length}
            sent = {**request, "environ_overrides": overrides}
            census.send(operation, f"{media_type} of {length}", 413, **sent)
        if media_type == CSV:
            for content_type in catalogue.TABLE_PARAMETERS:
                sent = {**request, "content_type": content_type}
                census.send(operation, content_type, 415, **sent)

    census.app.config["MAX_CONTENT_LENGTH"] = 1000
    for operation, media_type in with_body(census):
        request = operation.valid_body(media_type, census.artifact)
        for size in (1001, 10**6):
            sent = {**request, "data": request["data"].ljust(size)}
            census.send(operation, f"{media_type} of {size} bytes", 413, **sent)
    census.conclude()


def test_headers(census: Census) -> None:
    census.begin()

    # At what does not exist, so that nothing comes of a header that is rightly ignored.
    nobody = {"item_id": "999", "name": "nobody", "number": "999"}
    for operation in census.operations:
        path = operation.template.format(**nobody)
        if operation.method == "GET":
            expected = {200, 304, 400, 404, 406}
        else:
            expected = {400, 404, 409, 412, 415, 422}
        for name, value in catalogue.HEADERS:
            call = f"{operation.method} {path}"
            census.send(call, f"{name}: {value}", expected, headers={name: value})
    for name, value in catalogue.HEADERS:
        if name == "If-Match" and catalogue.NOT_THIS_STATE.search(value):
            for method in ("PUT", "PATCH", "DELETE", "GET", "HEAD"):
                json = {"name": "x"} if method[0] == "P" else None
                call = f"{method} {ITEMS}/1"
                census.send(call, f"{name}: {value}", 412, headers={name: value}, json=json)
        if name == "Accept":
            body = {"instances": [[1, 2, 3]]}
            call = f"POST {API_PREFIX}/ml/predict/batch"
            census.send(call, f"{name}: {value}", {200, 406}, headers={name: value}, json=body)
        for path in ("/", "/docs", "/docs/swagger-ui.css", "/openapi.json", "/static/x.css"):
            expected = {200, 206, 304, 400, 404, 412, 416}
            census.send(f"GET {path}", f"{name}: {value}", expected, headers={name: value}).close()
    census.conclude()


def test_methods(census: Census) -> None:
    census.begin()

    known = {(operation.method, operation.path) for operation in census.operations}
    for path in sorted({path for _, path in known}):
        for method in [*catalogue.METHODS, "GET", "POST", "PUT", "PATCH", "DELETE"]:
            if (method.upper(), path) not in known:
                response = census.send(f"{method} {path}", "", 405)
                if not response.headers.get("Allow"):
                    census.complaints.append(f"{method} {path}: no Allow")
        census.send(f"OPTIONS {path}", "", 200)
    census.conclude()


def test_a_compressed_part_is_unpacked_by_its_name_alone(census: Census) -> None:
    census.begin()

    for operation in census.operations:
        if MULTIPART in operation.bodies and operation.takes_table:
            packed = gzip.compress(to_csv(make_table(operation.columns)))
            for lines in (["Content-Encoding: gzip"], ["Content-Transfer-Encoding: base64"], []):
                data = form(part("file", packed, "rows.csv", *lines))
                query = urlencode(operation.options)
                request = {"data": data, "content_type": FORM, "query_string": query}
                census.send(operation, lines, 422, **request)
    census.conclude()
