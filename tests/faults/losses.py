"""Whether what clients were told holds: in the service's own answers, and in its database."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from tests.faults.load import ITEMS, ML, Answer, Client, Ledger, predict
from webapp.ml.core import artifacts


def find_unclear(refused: Iterable[Answer], words: str) -> list[str]:
    """Return the refusals that are no problem document with these words and a time to wait."""
    return [
        f"{answer.status} {answer.body}"
        for answer in refused
        if answer.headers["Content-Type"] != "application/problem+json"
        or int(answer.headers.get("Retry-After", 0)) < 1
        or answer.body["status"] != answer.status
        or words not in answer.body["detail"]
    ]


def find_lost(url: str, ledger: Ledger) -> list[str]:
    """Read again all that was acknowledged; return what is not there, or not what it was."""
    client = Client(url)
    lost = []
    for item, name in ledger.items.items():
        answer = client.call("GET", f"{ITEMS}/{item}")
        if answer.status != 200 or answer.body["name"] != name:
            lost.append(f"item {item}: {answer.body}")
    for (model, number), constant in ledger.versions.items():
        # A prediction with that very version reads its artifact.
        answer = predict(client, f"{ML}/models/{model}/versions/{number}")
        if answer.status != 200 or abs(answer.body["prediction"] - constant) > 1e-9:
            lost.append(f"version {number} of {model}: {answer.body}")
    client.close()
    return lost + ledger.faults


def find_differences(ledger: Ledger, engine: sa.Engine) -> list[str]:
    """Return where the database and the ledger differ, and what is only half there.

    All that was acknowledged must be there, and nothing else: a refusal says "nothing was kept".
    """
    with engine.connect() as connection:

        def rows(statement: str) -> list[Any]:
            return list(connection.exec_driver_sql(statement))

        items = dict(map(tuple, rows("SELECT id, name FROM item")))
        versions = rows(
            "SELECT name, number, artifact_digest FROM model_version "
            "JOIN model ON model.id = model_id WHERE name <> 'default'"
        )
        stored = dict(map(tuple, rows("SELECT digest, data FROM artifact")))
        used = {row[0] for row in rows("SELECT artifact_digest FROM model_version")}
        active = rows(
            "SELECT name, version_number, last_version FROM model "
            "LEFT JOIN activation ON model.id = model_id AND ended_at IS NULL"
        )
        damaged: list[Any] = []
        if engine.dialect.name == "sqlite":
            damaged = [row[0] for row in rows("PRAGMA integrity_check") if row[0] != "ok"]
            damaged += rows("PRAGMA foreign_key_check")
    wrong = [
        f"{name} {number} does not predict {expected}"
        for (name, number, digest) in versions
        if (expected := ledger.versions.get((name, number))) is not None
        and abs(artifacts.loads(bytes(stored[digest]), digest).predict([[0.5]])[0] - expected)
        > 1e-9
    ]
    numbered = {(row[0], row[1]) for row in versions}
    differences = {
        "items lost": ledger.items.keys() - items.keys(),
        "items never acknowledged": items.keys() - ledger.items.keys(),
        "items changed": {key for key, name in ledger.items.items() if items.get(key) != name},
        "versions lost": ledger.versions.keys() - numbered,
        "versions never acknowledged": numbered - ledger.versions.keys(),
        "artifacts without a version": stored.keys() - used,
        "versions without an artifact": used - stored.keys(),
        "bytes changed": {
            digest for digest, data in stored.items() if hashlib.sha256(data).hexdigest() != digest
        },
        "active is not the newest": {row[0] for row in active if row[1] != row[2]},
        "damaged": damaged,
        "wrong": wrong,
    }
    return [f"{what}: {found}" for what, found in differences.items() if found]
