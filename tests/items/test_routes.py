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
    {"name": "名前 ☃ " + "🙂" * 250, "description": "line one\nline two\ttabbed\r\n"},
    {"name": "  a\u200db  ", "description": " "},
]
# Of a new item, whose revision is 1: its own state or any, and the tags of others.
PRESENT = ['"1"', '"7", "1"', "*"]
FOREIGN = ['"2"', 'W/"1"', '"V", ""', ""]


def create(client: FlaskClient, name: str = "Test Item", description: str = "") -> TestResponse:
    response = client.post(ITEMS, json={"name": name, "description": description})
    assert response.status_code == 201, response.text
    return response


@pytest.mark.parametrize("body", BODIES)
def test_a_created_item_is_read_at_its_location(client: FlaskClient, body: dict[str, str]) -> None:
    created = client.post(ITEMS, json=body)

    read = client.get(created.headers["Location"])
    assert created.status_code == 201
    assert read.json == created.json == {"description": "", **created.json, **body}
    assert client.get(f"{created.headers['Location']}/").json == created.json
    assert read.headers["ETag"] == created.headers["ETag"]
    assert read.json["created_at"].endswith("+00:00")


@pytest.mark.parametrize("verb", ["put", "patch"])
def test_a_change_keeps_what_is_not_sent(client: FlaskClient, verb: str) -> None:
    created = create(client, "before", "kept")
    location = created.headers["Location"]

    known = {"If-None-Match": created.headers["ETag"]}
    unchanged = client.get(location, headers=known)

    changed = getattr(client, verb)(location, json={"name": "after"})
    same = getattr(client, verb)(location, json={})

    assert (changed.json["name"], changed.json["description"]) == ("after", "kept")
    assert changed.json["updated_at"] > changed.json["created_at"] == created.json["created_at"]
    assert same.headers["ETag"] == changed.headers["ETag"] != created.headers["ETag"]
    assert (unchanged.status_code, unchanged.data) == (304, b"")
    assert client.get(location, headers=known).json == same.json == changed.json


@pytest.mark.parametrize("tags", PRESENT)
@pytest.mark.parametrize("verb", ["put", "patch", "delete"])
def test_if_match_protects_another_state(client: FlaskClient, verb: str, tags: str) -> None:
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


def test_a_deleted_item_is_gone_and_its_id_is_not_given_again(client: FlaskClient) -> None:
    created = create(client)
    location = created.headers["Location"]

    assert client.delete(location).status_code == 204

    assert client.get(location).status_code == 404
    assert client.delete(location).status_code == 404
    assert client.put(location, json={}).status_code == 404
    assert create(client).json["id"] > created.json["id"]


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
