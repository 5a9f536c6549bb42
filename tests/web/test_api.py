"""Strictness over HTTP: what is refused, with which status, always in the one shape."""

from __future__ import annotations

import errno
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


def post(client: FlaskClient, data: bytes, **options: Any) -> TestResponse:
    return client.post(ITEMS, data=data, **{"content_type": JSON, **options})


def assert_nothing_was_kept(client: FlaskClient) -> None:
    assert client.get(ITEMS).json == []


def test_a_body_that_is_sent_as_json_is_read(client: FlaskClient) -> None:
    for content_type in (
        JSON,
        "application/json; charset=utf-8",
        "application/json;charset=UTF-8",
        "application/json; charset=utf8",
        'application/json; charset="UTF_8"',
        "Application/JSON",
    ):
        response = post(client, '{"name": "naïve ☃"}'.encode(), content_type=content_type)
        assert response.status_code == 201, content_type
        assert client.get(response.headers["Location"]).json["name"] == "naïve ☃"


def test_a_body_that_says_it_is_not_compressed_is_read(client: FlaskClient) -> None:
    response = post(client, b'{"name": "a"}', headers={"Content-Encoding": "Identity"})

    assert response.status_code == 201


def test_a_body_whose_end_nobody_knows_is_refused(client: FlaskClient) -> None:
    response = post(
        client,
        b'{"name": "a"}',
        headers={"Transfer-Encoding": "chunked"},
        environ_overrides={"CONTENT_LENGTH": ""},
    )

    assert "Content-Length" in assert_problem(response, 411)["detail"]
    assert_nothing_was_kept(client)


def test_a_body_that_is_too_large_is_refused(own_app: Flask) -> None:
    body = b'{"name": "a", "description": "' + b"x" * 1000 + b'"}'
    own_app.config["MAX_CONTENT_LENGTH"] = len(body)
    client = own_app.test_client()

    largest = post(client, body)
    too_large = post(client, body + b" ")

    assert largest.status_code == 201
    assert_problem(too_large, 413)
    assert len(client.get(ITEMS).json) == 1


def test_a_length_beyond_all_bounds_is_refused(client: FlaskClient) -> None:
    response = post(client, b"{}", environ_overrides={"CONTENT_LENGTH": "9" * 30})

    assert_problem(response, 413)


def test_a_body_that_is_not_json_is_refused(client: FlaskClient) -> None:
    for data in (
        b"",
        b"{",
        b'{"name": "a",}',
        b'{"name": "a"} {}',
        b"name=a",
        b'{"name": "\xff"}',
        b'{"name": "\\ud800"}',
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"name": "a", "x": NaN',
    ):
        detail = assert_problem(post(client, data), 400)["detail"]
        assert re.search(r"line \d+, column \d+", detail), data[:20]

    assert_nothing_was_kept(client)


def test_of_a_repeated_key_the_last_counts(client: FlaskClient) -> None:
    response = post(client, b'{"name": "first", "name": "last"}')

    assert client.get(response.headers["Location"]).json["name"] == "last"


def test_a_name_that_is_no_unicode_is_the_clients_fault(client: FlaskClient) -> None:
    trained = client.post(f"{ML}/train", json={"X": [[0], [1]], "y": [0, 1]})
    assert trained.status_code == 201

    for path, body in (
        ("/items", rb'{"name": "a", "\ud800": NaN}'),
        ("/items", rb'{"name": "\ud800", "x": 1e400}'),
        ("/ml/train", rb'{"X": [[1]], "y": [1], "params": {"\ud800": NaN}}'),
        ("/ml/train", rb'{"X": [[1]], "y": [1], "estimator": "\ud800", "x": NaN}'),
        ("/ml/predict", rb'{"features": {"\ud800": NaN}}'),
        ("/ml/predict/batch", rb'{"instances": [{"\ud800": NaN}]}'),
    ):
        response = client.post(API_PREFIX + path, data=body, content_type=JSON)
        assert_problem(response, 400)


def test_an_unknown_query_parameter_is_refused_in_the_slash_form_and_in_head_too(
    client: FlaskClient,
) -> None:
    assert_problem(client.get(f"{ITEMS}/?nobody=1"), 422)
    assert client.head(f"{ITEMS}?nobody=1").status_code == 422
    assert client.head(f"{ITEMS}?page=1").status_code == 200


def test_a_query_parameter_is_known_by_its_exact_name(client: FlaskClient) -> None:
    for query in ("nobody", "nobody=", "=1", "%00=1", "PAGE=1", "page[]=1"):
        problem = assert_problem(client.get(f"{ITEMS}?{query}"), 422)
        assert list(problem["errors"]) == ["query"], query


def test_a_query_that_is_no_text_is_refused_and_not_searched_for(client: FlaskClient) -> None:
    client.post(ITEMS, json={"name": "%FF"})

    for query in ("q=%FF", "q=%ED%A0%80", "%FF=1"):
        assert "UTF-8" in assert_problem(client.get(f"{ITEMS}?{query}"), 400)["detail"]
    assert len(client.get(f"{ITEMS}?q=%25FF").json) == 1


def test_a_body_that_nobody_reads_is_refused(client: FlaskClient) -> None:
    location = client.post(ITEMS, json={"name": "a"}).headers["Location"]

    for method, path in (
        ("GET", ITEMS),
        ("DELETE", location),
        ("POST", f"{ML}/models/default/rollback"),
    ):
        problem = assert_problem(client.open(path, method=method, json={"version": 1}), 422)
        assert problem["errors"] == {"body": ["must be empty: this operation takes no body"]}
    assert client.get(location).status_code == 200


def test_a_body_that_ends_early_is_refused_whatever_the_server_says(client: FlaskClient) -> None:
    for path, content_type, data in (
        (ITEMS, JSON, b'{"name": "a"}'),
        (f"{ML}/train?target=y", "text/csv", b"x,y\n1,2\n3,4\n"),
    ):
        # As gunicorn sets it, for a body of which it has not seen the end.
        environ = {"CONTENT_LENGTH": str(len(data) + 9), "wsgi.input_terminated": True}
        response = client.post(
            path, data=data, content_type=content_type, environ_overrides=environ
        )
        assert_problem(response, 400)

    assert_nothing_was_kept(client)
    assert client.get(f"{ML}/model-info").json["trained"] is False


def test_of_a_flood_of_unknown_fields_the_first_few_are_named(client: FlaskClient) -> None:
    flood = {f"f{number}": 1 for number in range(10_000)}

    problem = assert_problem(client.post(ITEMS, json={"name": "a", **flood}), 422)

    assert list(problem["errors"]["json"]) == [f"f{number}" for number in range(10)]


def test_a_query_parameter_that_is_given_twice_is_refused(client: FlaskClient) -> None:
    problem = assert_problem(client.get(f"{ITEMS}?page=1&page=1"), 422)

    assert problem["errors"] == {"query": {"page": ["Given more than once."]}}


def test_what_does_not_exist_is_not_found(client: FlaskClient) -> None:
    for path in ("/nothing", API_PREFIX, f"{ITEMS}/1", f"{ITEMS}/x", f"{ITEMS}/1/2", "/docs/x"):
        assert_problem(client.get(path), 404)


def test_a_method_that_is_not_there_is_refused_with_those_that_are(client: FlaskClient) -> None:
    for method, path, allowed in (
        ("DELETE", ITEMS, "GET, HEAD, OPTIONS, POST"),
        ("POST", f"{ITEMS}/1", "DELETE, GET, HEAD, OPTIONS, PATCH, PUT"),
        ("GET", f"{ML}/train", "OPTIONS, POST"),
        ("POST", f"{ML}/sample-data", "GET, HEAD, OPTIONS"),
        ("TRACE", f"{ML}/model-info", "GET, HEAD, OPTIONS"),
        ("BREW", "/health/live", "GET, HEAD, OPTIONS"),
    ):
        response = client.open(path, method=method)
        assert_problem(response, 405)
        assert response.allow.as_set(preserve_casing=True) == set(allowed.split(", ")), path


def test_a_state_that_does_not_allow_it_is_a_conflict(client: FlaskClient) -> None:
    assert_problem(client.post(f"{ML}/predict", json={"features": [1]}), 409)


def test_a_condition_that_does_not_hold_is_refused(client: FlaskClient) -> None:
    location = client.post(ITEMS, json={"name": "a"}).headers["Location"]

    assert_problem(client.delete(location, headers={"If-Match": '"999"'}), 412)


def test_an_outage_asks_to_come_back_later(own_app: Flask) -> None:
    def fail() -> str:
        raise DatabaseUnavailable

    own_app.add_url_rule("/away", view_func=fail)

    response = own_app.test_client().get("/away")

    assert_problem(response, 503)
    assert int(response.headers["Retry-After"]) > 0


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE])
def test_a_process_without_descriptors_asks_to_come_back_later(own_app: Flask, code: int) -> None:
    def fail() -> str:
        raise OSError(code, "Too many open files")

    own_app.add_url_rule("/full", view_func=fail)

    response = own_app.test_client().get("/full")

    assert "open" in assert_problem(response, 503)["detail"]
    assert int(response.headers["Retry-After"]) > 0


def test_a_fault_of_ours_gives_nothing_of_the_inside_away(
    own_app: Flask, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> str:
        raise RuntimeError("the combination is 12345")

    own_app.add_url_rule("/broken", view_func=fail)

    response = own_app.test_client().get("/broken")

    problem = assert_problem(response, 500)
    assert "RuntimeError" not in response.text
    assert "12345" not in response.text
    assert problem["request_id"] in caplog.text
    assert "the combination is 12345" in caplog.text


def test_a_well_formed_request_id_is_echoed(client: FlaskClient) -> None:
    for path in ("/health/live", ITEMS, "/docs", "/openapi.json", "/nothing"):
        for given in ("a", "3f0c5b6a-0d5e_4D1F.b0", "x" * 128):
            response = client.get(path, headers={"X-Request-ID": given})
            assert response.headers.getlist("X-Request-ID") == [given], path


def test_a_request_id_that_is_not_well_formed_is_replaced(client: FlaskClient) -> None:
    ids = set()

    for given in (None, "", "x" * 129, "a b", "a,b", "a;b", "<script>", "a\tb", "é", "a/b"):
        headers = {} if given is None else {"X-Request-ID": given}
        response = client.get("/nothing", headers=headers)
        ids.add(assert_problem(response, 404)["request_id"])

    assert len(ids) == 10
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


def test_options_names_the_methods_of_every_route(app: Flask, client: FlaskClient) -> None:
    methods: dict[str, set[str]] = {}
    for method, path in api_calls(app):
        methods.setdefault(path, set()).add(method)

    for path, expected in methods.items():
        response = client.options(path)
        assert response.status_code == 200
        assert response.allow.as_set(preserve_casing=True) == expected, path
