"""The audit: every action, in its own transaction, with who did it and from where."""

from __future__ import annotations

import json
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient, FlaskCliRunner

from tests.access.holders import bearer, make_holder
from webapp.extensions import db
from webapp.items import service
from webapp.items.service import ItemNotFound
from webapp.scopes import Scope

ROWS = {"X": [[1], [2], [3]], "y": [1, 2, 3]}


def read(client: FlaskClient, query: str = "", **arguments: Any) -> list[dict[str, Any]]:
    answer = client.get(f"/api/v1/audit?page_size=1000{query}", **arguments)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json
    return found


def test_every_action_is_told_with_who_did_it_and_from_where(guarded: Flask) -> None:
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
    version = client.get("/api/v1/ml/models/default/versions/2", headers=ann).json
    activations = client.get("/api/v1/ml/models/default/activations", headers=ann).json
    assert {version["created_by"], *(a["activated_by"] for a in activations)} == {"ann"}


def test_what_is_not_done_is_not_told(client: FlaskClient, app: Flask) -> None:
    client.delete("/api/v1/items/99")
    client.post("/api/v1/items", json={})
    client.post("/api/v1/ml/models/default/rollback")

    def fail(_item: object) -> None:
        raise ItemNotFound(0)

    with app.app_context(), pytest.raises(ItemNotFound):
        service.create_item(db.session(), name="x", description="", before_commit=fail)

    assert read(client) == []


def test_entries_are_listed_by_page_and_by_subject(client: FlaskClient) -> None:
    for number in range(5):
        client.post("/api/v1/items", json={"name": f"{number}"})
    client.delete("/api/v1/items/2")

    first, last = (client.get(f"/api/v1/audit?page_size=4&page={n}") for n in (1, 2))

    assert [e["subject"] for e in first.json] == ["item 2", "item 5", "item 4", "item 3"]
    assert [e["subject"] for e in last.json] == ["item 2", "item 1"]
    assert 'rel="next"' in first.headers["Link"]
    assert 'rel="next"' not in last.headers["Link"]
    of_one = read(client, "&subject=item 2")
    assert [entry["action"] for entry in of_one] == ["item.delete", "item.create"]


def test_commands_name_who_runs_them(runner: FlaskCliRunner, client: FlaskClient) -> None:
    create = ["keys", "create", "--name", "robot", "--scope", "ml:train"]
    assert runner.invoke(args=["seed", "--items", "2"]).exit_code == 0
    assert runner.invoke(args=[*create, "--as", "ann@example.com"]).exit_code == 0

    items, model, key = read(client)[::-1]

    assert (items["action"], items["details"]) == ("items.seed", {"count": 2})
    assert (model["action"], model["subject"]) == ("version.train", "model default")
    assert items["actor"] == model["actor"]
    assert items["actor"].startswith("cli:")
    assert key["actor"] == "cli:ann@example.com"
    shown = runner.invoke(args=["audit", "--last", "1"]).output
    assert f"cli:ann@example.com  -  key.create  {key['subject']}" in shown
    told = json.loads(runner.invoke(args=["audit", "--json"]).output)
    assert [entry["id"] for entry in told] == [items["id"], model["id"], key["id"]]
