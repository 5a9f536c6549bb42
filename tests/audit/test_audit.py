"""The audit: every deed, in the transaction that did it, with who and from where."""

from __future__ import annotations

import json
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.access.holders import bearer, make_holder
from webapp.extensions import db
from webapp.items import service
from webapp.items.errors import ItemNotFound
from webapp.scopes import Scope

ROWS = {"X": [[1], [2], [3]], "y": [1, 2, 3]}


def read(client: FlaskClient, query: str = "", **arguments: Any) -> list[dict[str, Any]]:
    answer = client.get(f"/api/v1/audit?page_size=1000{query}", **arguments)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json
    return found


def test_every_deed_is_told_with_who_did_it_and_from_where(guarded: Flask) -> None:
    client = guarded.test_client()
    ann = bearer(make_holder(guarded, "ann", *Scope))

    def do(method: str, path: str, **arguments: Any) -> None:
        headers = {**ann, "X-Request-ID": f"my-{method}"}
        answer = client.open(f"/api/v1{path}", method=method, headers=headers, **arguments)
        assert answer.status_code < 300, answer.text

    do("POST", "/items", json={"name": "secret plan"})
    do("PUT", "/items/1", json={"description": "changed"})
    do("DELETE", "/items/1")
    do("POST", "/ml/train", json=ROWS)
    do("POST", "/ml/train", json=ROWS)
    do("PUT", "/ml/models/default/active", json={"version": 1})
    do("POST", "/ml/models/default/rollback")
    do("DELETE", "/ml/models/default/versions/1")

    entries = read(client, headers=ann)[::-1][1:]  # the first one made the key
    assert [(e["action"], e["subject"], e["actor"]) for e in entries] == [
        ("item.create", "item 1", "ann"),
        ("item.change", "item 1", "ann"),
        ("item.delete", "item 1", "ann"),
        ("version.train", "model default", "ann"),
        ("version.train", "model default", "ann"),
        ("version.activate", "model default", "ann"),
        ("model.rollback", "model default", "ann"),
        ("version.delete", "model default", "ann"),
    ]
    assert {e["address"] for e in entries} == {"127.0.0.1"}
    assert entries[0]["request_id"] == "my-POST"
    assert entries[1]["details"] == {"fields": ["description"]}
    assert entries[3]["details"] == {"version": 1, "activated": True}
    assert "secret plan" not in json.dumps(entries)


def test_a_model_says_which_key_trained_and_activated_it(guarded: Flask) -> None:
    client = guarded.test_client()
    ann = bearer(make_holder(guarded, "ann", *Scope))
    client.post("/api/v1/ml/train", json=ROWS, headers=ann)

    version = client.get("/api/v1/ml/models/default/versions/1", headers=ann).json
    (activation,) = client.get("/api/v1/ml/models/default/activations", headers=ann).json

    assert version["created_by"] == "ann"
    assert activation["activated_by"] == "ann"


def test_what_is_not_done_is_not_told(client: FlaskClient, app: Flask) -> None:
    client.delete("/api/v1/items/99")
    client.post("/api/v1/items", json={})
    client.post("/api/v1/ml/models/default/rollback")

    def fail(_item: object) -> None:
        raise ItemNotFound(0)

    with app.app_context(), pytest.raises(ItemNotFound):
        service.create_item(db.session(), name="x", description="", before_commit=fail)

    assert read(client) == []


def test_the_history_of_one_subject_can_be_asked_for(client: FlaskClient) -> None:
    for name in ("one", "two"):
        client.post("/api/v1/items", json={"name": name})
    client.delete("/api/v1/items/2")

    found = read(client, "&subject=item 2")

    assert [entry["action"] for entry in found] == ["item.delete", "item.create"]


def test_pages_of_the_audit_follow_one_another(client: FlaskClient) -> None:
    for number in range(5):
        client.post("/api/v1/items", json={"name": f"{number}"})

    first = client.get("/api/v1/audit?page_size=2")
    last = client.get("/api/v1/audit?page_size=2&page=3")

    assert [entry["subject"] for entry in first.json] == ["item 5", "item 4"]
    assert 'rel="next"' in first.headers["Link"]
    assert [entry["subject"] for entry in last.json] == ["item 1"]
    assert 'rel="next"' not in last.headers["Link"]


def test_commands_act_as_their_user(app: Flask, client: FlaskClient) -> None:
    runner = app.test_cli_runner()

    assert runner.invoke(args=["seed", "--items", "2"]).exit_code == 0

    items, model = read(client)[::-1]
    assert (items["action"], items["details"]) == ("items.seed", {"count": 2})
    assert (model["action"], model["subject"]) == ("version.train", "model default")
    assert items["actor"].startswith("cli:")
    shown = runner.invoke(args=["audit", "--last", "1"]).output
    assert "version.train  model default" in shown
    told = json.loads(runner.invoke(args=["audit", "--json"]).output)
    assert [entry["action"] for entry in told] == ["items.seed", "version.train"]
