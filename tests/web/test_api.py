"""Strictness over HTTP: what is refused, with which status, always in the one shape."""

from __future__ import annotations

import errno
import keyword
import re
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.faults import on_sqlite
from webapp import API_PREFIX
from webapp.errors import DatabaseUnavailable
from webapp.web.openapi import ProblemSchema

pytestmark = on_sqlite

ITEMS = f"{API_PREFIX}/items"
ML = f"{API_PREFIX}/ml"
JSON = "application/json"


def assert_problem(response: TestResponse, status: int) -> dict[str, Any]:
    """Check that an answer has the one shape of errors, to the last key; return its body."""
    assert response.status_code == status, response.text
    assert response.content_type == "application/problem+json"
    problem = response.get_json(force=True)
    keys = set(ProblemSchema().fields)
    assert set(problem) == (keys if status == 422 else keys - {"errors"})
    assert ProblemSchema().validate(problem) == {}
    assert problem["status"] == status
    assert problem["title"]
    assert problem["detail"]
    assert problem["instance"] == response.request.path
    assert problem["request_id"] == response.headers["X-Request-ID"]
    return problem


def api_calls(app: Flask) -> Iterator[tuple[str, str]]:
    """Return the method and a path of everything that can be called under /api and /health."""
    urls = app.url_map.bind("localhost")
    for rule in app.url_map.iter_rules():
        if rule.rule.startswith((API_PREFIX, "/health")):
            for method in sorted(rule.methods or ()):
                values = {**dict.fromkeys(rule.arguments, 1), **(rule.defaults or {})}
                yield method, urls.build(rule.endpoint, values, method=method)


def answers_to(app: Flask, errors: list[Exception]) -> list[TestResponse]:
    """Return the answers of a view that raises these errors."""

    def fail(number: int) -> str:
        raise errors[number]

    app.add_url_rule("/broken/<int:number>", view_func=fail)
    return [app.test_client().get(f"/broken/{number}") for number in range(len(errors))]


def post(client: FlaskClient, data: bytes, **options: Any) -> TestResponse:
    return client.post(ITEMS, data=data, **{"content_type": JSON, **options})


def test_a_body_that_is_sent_as_json_is_read(client: FlaskClient) -> None:
    for content_type in (
        "application/json; charset=utf-8",
        'Application/JSON;charset="UTF_8"',
        "application/json; charset=utf8",
    ):
        response = post(client, '{"name": "naïve ☃"}'.encode(), content_type=content_type)
        assert response.status_code == 201, content_type
        assert client.get(response.headers["Location"]).json["name"] == "naïve ☃"
    assert (
        post(client, b'{"name": "a"}', headers={"Content-Encoding": "Identity"}).status_code == 201
    )


def test_a_body_that_ends_early_is_refused_whatever_the_server_says(client: FlaskClient) -> None:
    for path, content_type, data in (
        (ITEMS, JSON, b'{"name": "a"}'),
        (f"{ML}/train?target=y", "text/csv", b"x,y\n1,2\n3,4\n"),
    ):
        # As gunicorn sets it, for a body of which it has not seen the end.
        environ = {"CONTENT_LENGTH": str(len(data) + 9), "wsgi.input_terminated": True}
        options = {"content_type": content_type, "environ_overrides": environ}
        assert_problem(client.post(path, data=data, **options), 400)

    assert client.get(ITEMS).json == []
    assert client.get(f"{ML}/model-info").json["trained"] is False


def test_what_is_wrong_is_told_in_words_that_say_what_to_do(client: FlaskClient) -> None:
    location = client.post(ITEMS, json={"name": "a"}).headers["Location"]
    chunked = {"headers": {"Transfer-Encoding": "chunked"}, "data": b"{}", "content_type": JSON}
    for method, path, request, status, detail in (
        ("POST", ITEMS, {"data": b'{"name": }', "content_type": JSON}, 400, "line 1, column 10"),
        ("GET", f"{ITEMS}?q=%ED%A0%80", {}, 400, "The query is not percent-encoded UTF-8."),
        ("GET", f"{ITEMS}/2", {}, 404, "There is no item 2."),
        ("GET", "/nothing", {}, 404, "There is nothing at this URL."),
        ("GET", f"{ML}/models/My_Model", {}, 404, "1 to 63 characters of a-z, 0-9"),
        ("POST", f"{ML}/predict", {"json": {"features": [1]}}, 409, "has no active version"),
        ("POST", ITEMS, chunked, 411, "Content-Length"),
        ("DELETE", location, {"headers": {"If-Match": '"9"'}}, 412, "read it again"),
        ("POST", ITEMS, {"data": "{}"}, 415, "application/json, in UTF-8"),
        ("GET", location, {"json": {"version": 1}}, 422, "body: must be empty"),
        ("POST", ITEMS, {"json": []}, 422, 'such as {"name": …}'),
        ("POST", f"{ML}/train", {"json": [1]}, 422, 'such as {"X": […], "y": […]}'),
        ("POST", f"{ML}/predict/batch", {"json": 1}, 422, 'such as {"instances": […]}'),
        ("GET", f"{ITEMS}/?nobody=1", {}, 422, "query.nobody: Unknown field."),
        ("GET", f"{ITEMS}?page=1&page=1", {}, 422, "query.page: Given more than once."),
    ):
        response = client.open(path, method=method, **request)
        assert detail in assert_problem(response, status)["detail"], path
    assert client.head(f"{ITEMS}?nobody=1").status_code == 422


def test_what_the_service_lacks_for_a_while_is_told_with_a_time_to_retry(own_app: Flask) -> None:
    lacks: list[tuple[Exception, int, str]] = [
        (DatabaseUnavailable(), 503, "database"),
        (OSError(errno.EMFILE, "Too many open files"), 503, "open"),
        (OSError(errno.ENFILE, "Too many open files"), 503, "open"),
        (OSError(errno.ENOSPC, "No space left on device"), 507, "room"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), 507, "room"),
        (FileNotFoundError(errno.ENOENT, "No usable temporary directory found"), 507, "room"),
        (MemoryError(), 503, "memory"),
    ]
    answers = answers_to(own_app, [error for error, _, _ in lacks])
    for response, (_, status, word) in zip(answers, lacks, strict=True):
        assert word in assert_problem(response, status)["detail"]
        assert int(response.headers["Retry-After"]) > 0


def test_a_fault_of_ours_gives_nothing_of_the_inside_away(
    own_app: Flask, caplog: pytest.LogCaptureFixture
) -> None:
    message = "the combination is 12345"
    faults = [RuntimeError(message), FileNotFoundError(2, message)]
    for response, error in zip(answers_to(own_app, faults), faults, strict=True):
        problem = assert_problem(response, 500)
        assert type(error).__name__ not in response.text
        assert "12345" not in response.text
        assert problem["request_id"] in caplog.text
    assert caplog.text.count(message) >= len(faults)


def test_a_well_formed_request_id_is_echoed_and_any_other_replaced(client: FlaskClient) -> None:
    for path in ("/health/live", ITEMS, "/docs", "/openapi.json", "/nothing"):
        for given in ("a", "3f0c5b6a-0d5e_4D1F.b0", "x" * 128):
            response = client.get(path, headers={"X-Request-ID": given})
            assert response.headers.getlist("X-Request-ID") == [given], path
    ids = set()
    for given in ("", "x" * 129, "a b", "a,b", "a;b", "<script>", "a\tb", "é", "a/b"):
        response = client.get("/nothing", headers={"X-Request-ID": given})
        ids.add(assert_problem(response, 404)["request_id"])
    assert len(ids) == 9
    assert all(re.fullmatch("[0-9a-f]{32}", request_id) for request_id in ids)


def test_head_answers_as_get_does_but_without_a_body(app: Flask, client: FlaskClient) -> None:
    client.post(ITEMS, json={"name": "a"})
    paths = [path for method, path in api_calls(app) if method == "HEAD"]

    assert len(paths) > 3
    for path in paths:
        get, head = client.get(path), client.head(path)
        assert head.data == b""
        assert head.status_code == get.status_code
        for name in ("Content-Type", "Content-Length", "ETag", "Link", "X-Pagination"):
            assert head.headers.get(name) == get.headers.get(name), path


def test_every_operation_has_a_name_of_its_own(client: FlaskClient) -> None:
    operations = {
        (operation["operationId"], method.upper(), path)
        for path, item in client.get("/openapi.json").json["paths"].items()
        for method, operation in item.items()
        if method != "parameters"
    }
    names = {name for name, _, _ in operations}

    assert len(names) == len(operations)
    for name in names:
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", name)
        assert not keyword.iskeyword(name)
    assert operations >= {
        ("create_item", "POST", ITEMS),
        ("put_item", "PUT", f"{ITEMS}/{{item_id}}"),
        ("update_item", "PATCH", f"{ITEMS}/{{item_id}}"),
        ("predict", "POST", f"{ML}/models/{{name}}/predict"),
        ("check_liveness", "GET", "/health/live"),
    }
