"""Items over HTTP, one at a time: created, read, changed and deleted, on conditions too."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

ITEMS = "/api/v1/items"
BODIES = [
    {"name": "Test Item"},
    {"name": "Test Item", "description": "Just testing"},
    {"name": "名前 ☃ " + "🙂" * 250, "description": "line one\nline two\ttabbed\r\n"},
    {"name": "  a\u200db  ", "description": " "},
]
# Of a new item, whose revision is 1: its own state, any, and the tags of nobody.
PRESENT = ['"1"', '"7", "1"', "*"]
FOREIGN = ['"2"', '"999"', '"V"', 'W/"1"', '"' + "9" * 5000 + '"', '""', '"V", ""', ""]


def create(client: FlaskClient, name: str = "Test Item", description: str = "") -> TestResponse:
    response = client.post(ITEMS, json={"name": name, "description": description})
    assert response.status_code == 201, response.text
    return response


@pytest.mark.parametrize("body", BODIES)
def test_a_created_item_is_read_back_at_its_location(
    client: FlaskClient, body: dict[str, str]
) -> None:
    created = client.post(ITEMS, json=body)

    read = client.get(created.headers["Location"])
    assert created.status_code == 201
    assert read.json == created.json == {"description": "", **created.json, **body}
    assert read.headers["ETag"] == created.headers["ETag"]
    assert read.json["created_at"].endswith("+00:00")


def test_a_trailing_slash_makes_no_difference(client: FlaskClient) -> None:
    created = client.post(f"{ITEMS}/", json={"name": "a"})

    assert client.get(f"{ITEMS}/").json == [created.json]
    assert client.get(f"{created.headers['Location']}/").json == created.json


@pytest.mark.parametrize("verb", ["put", "patch"])
def test_a_change_keeps_what_is_not_sent_and_gives_a_new_state(
    client: FlaskClient, verb: str
) -> None:
    created = create(client, "before", "kept")
    location = created.headers["Location"]

    changed = getattr(client, verb)(location, json={"name": "after"})
    same = getattr(client, verb)(location, json={})

    assert (changed.json["name"], changed.json["description"]) == ("after", "kept")
    assert changed.json["updated_at"] > changed.json["created_at"] == created.json["created_at"]
    assert same.headers["ETag"] == changed.headers["ETag"] != created.headers["ETag"]
    assert client.get(location).json == same.json == changed.json


def test_a_client_that_has_the_state_is_told_so(client: FlaskClient) -> None:
    created = create(client)
    location, headers = created.headers["Location"], {"If-None-Match": created.headers["ETag"]}

    unchanged = client.get(location, headers=headers)
    client.put(location, json={"name": "after"})
    changed = client.get(location, headers=headers)

    assert (unchanged.status_code, unchanged.data) == (304, b"")
    assert changed.status_code == 200


@pytest.mark.parametrize("tags", PRESENT)
@pytest.mark.parametrize("verb", ["put", "patch", "delete"])
def test_if_match_lets_only_a_named_state_be_changed(
    client: FlaskClient, verb: str, tags: str
) -> None:
    created = create(client)
    location = created.headers["Location"]

    def send(tags: str) -> int:
        body = {} if verb == "delete" else {"json": {"name": "mine"}}
        answer = getattr(client, verb)(location, headers={"If-Match": tags}, **body)
        return int(answer.status_code)

    assert {foreign: send(foreign) for foreign in FOREIGN} == dict.fromkeys(FOREIGN, 412)
    assert client.get(location).json == created.json
    assert send(tags) == (204 if verb == "delete" else 200)
    assert send('"1"') == (404 if verb == "delete" else 412)


def test_a_read_on_a_condition_that_does_not_hold_is_refused_in_the_one_shape(
    client: FlaskClient,
) -> None:
    location = create(client).headers["Location"]

    for path in (location, "/docs/swagger-ui.css"):
        with client.get(path, headers={"If-Match": '"999"'}) as refused:
            assert refused.status_code == 412
            assert refused.content_type == "application/problem+json"
            assert refused.get_json(force=True)["status"] == 412
            assert refused.headers["X-Request-ID"]


def test_a_deleted_item_is_gone_and_its_id_is_not_given_again(client: FlaskClient) -> None:
    created = create(client)
    location = created.headers["Location"]

    assert client.delete(location).status_code == 204

    assert client.get(location).status_code == 404
    assert client.delete(location).status_code == 404
    assert client.put(location, json={}).status_code == 404
    assert create(client).json["id"] > created.json["id"]


@pytest.mark.parametrize("item_id", ["0", "1", "2147483648", str(2**63 - 1), str(2**63)])
def test_an_id_that_names_no_item_is_not_found(client: FlaskClient, item_id: str) -> None:
    assert client.get(f"{ITEMS}/{item_id}").status_code == 404


@pytest.mark.parametrize(
    ("headers", "statuses"), [({"If-Match": '"1"'}, [200] + [412] * 49), ({}, [200] * 50)]
)
def test_of_fifty_changes_at_once_each_or_the_first_succeeds(
    app: Flask, client: FlaskClient, headers: dict[str, str], statuses: list[int]
) -> None:
    location = create(client).headers["Location"]

    def put(number: int) -> int:
        body = {"name": f"writer {number}"}
        return app.test_client().put(location, json=body, headers=headers).status_code

    with ThreadPoolExecutor(10) as pool:
        assert sorted(pool.map(put, range(50))) == statuses

    assert client.get(location).headers["ETag"] == f'"{1 + statuses.count(200)}"'
