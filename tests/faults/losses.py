"""Whether what clients were told holds, and whether the database is consistent."""

from __future__ import annotations

import hashlib
import json

import sqlalchemy as sa

from tests.faults.load import ITEMS, ML, Caller, Client, Ledger, predict, predicts

NEVER = {
    "a version without its artifact": (
        "SELECT id FROM model_version WHERE artifact_digest NOT IN (SELECT digest FROM artifact)"
    ),
    "an artifact without a version": (
        "SELECT digest FROM artifact "
        "WHERE digest NOT IN (SELECT artifact_digest FROM model_version)"
    ),
    "an activation without its version": (
        "SELECT a.id FROM activation a LEFT JOIN model_version v "
        "ON v.id = a.version_id AND v.model_id = a.model_id AND v.number = a.version_number "
        "WHERE v.id IS NULL AND (a.version_id IS NOT NULL OR a.ended_at IS NULL)"
    ),
    "a model without exactly one active version": (
        "SELECT m.id FROM model m LEFT JOIN activation a "
        "ON a.model_id = m.id AND a.ended_at IS NULL GROUP BY m.id HAVING count(a.id) <> 1"
    ),
    "a model whose counter is not its last version": (
        "SELECT m.id FROM model m LEFT JOIN model_version v ON v.model_id = m.id "
        "GROUP BY m.id, m.last_version HAVING max(v.number) IS NULL "
        "OR max(v.number) <> m.last_version"
    ),
}


def find_lost(service: str | Caller, ledger: Ledger) -> list[str]:
    """Read again all that was acknowledged; return what is not there, or not what it was."""
    client = Client(service) if isinstance(service, str) else service
    lost = []
    for item, name in ledger.items.items():
        answer = client.call("GET", f"{ITEMS}/{item}")
        if answer.status != 200 or answer.body["name"] != name:
            lost.append(f"item {item}: {answer.body}")
    for (model, number), constant in ledger.versions.items():
        # A prediction with that very version reads its artifact.
        answer = predict(client, f"{ML}/models/{model}/versions/{number}")
        if not predicts(answer, constant):
            lost.append(f"version {number} of {model}: {answer.body}")
    client.close()
    return lost + ledger.faults


def find_broken(engine: sa.Engine) -> list[str]:
    """Return what must never be in a database, whatever happened to those who wrote to it."""
    queries = dict(NEVER)
    if engine.dialect.name == "sqlite":
        queries["damage"] = "SELECT * FROM pragma_integrity_check WHERE integrity_check <> 'ok'"
        queries["a reference to nothing"] = "PRAGMA foreign_key_check"
    with engine.connect() as connection:
        found = {what: connection.exec_driver_sql(sql).all() for what, sql in queries.items()}
        found["an artifact with other bytes"] = [
            digest
            for digest, data in connection.exec_driver_sql("SELECT digest, data FROM artifact")
            if hashlib.sha256(data).hexdigest() != digest
        ]
    return [f"{what}: {rows}" for what, rows in found.items() if rows]


def find_unacknowledged(client: Caller, ledger: Ledger) -> list[str]:
    """Return what is there although nobody was told so: a refusal says that nothing was kept."""
    total = json.loads(client.call("GET", ITEMS).headers["X-Pagination"])["total"]
    counts = {"items": (total, len(ledger.items))}
    for model in {model for model, _ in ledger.versions}:
        found = client.call("GET", f"{ML}/models/{model}").body
        known = [number for name, number in ledger.versions if name == model]
        counts[f"the versions of {model}"] = (found["last_version"], len(known))
        counts[f"the active version of {model}"] = (found["active_version"], max(known))
    return [
        f"{what}: {n} and not {expected}"
        for what, (n, expected) in counts.items()
        if n != expected
    ]
