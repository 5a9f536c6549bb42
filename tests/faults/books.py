"""What clients were told of their writes, and whether the database agrees."""

from __future__ import annotations

import hashlib
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import requests
import sqlalchemy as sa
from flask.testing import FlaskClient

from tests.conftest import dispose_app, make_app
from tests.gunicorn_server import running_gunicorn
from webapp.ml.core import artifacts

ITEMS, ML = "/api/v1/items", "/api/v1/ml"
CONSTANT = 7.0


class Answer(Protocol):
    """What a request was answered."""

    status_code: int
    text: str

    @property
    def headers(self) -> Any:
        """Return the headers, by name."""


@dataclass(frozen=True)
class NoAnswer:
    """The connection ended before a request was answered."""

    status_code: int = 0
    text: str = "no answer"
    headers: Mapping[str, str] = field(default_factory=dict)


Call: TypeAlias = Callable[[str, str, object], Answer]
"""``call(method, path, json)`` sends a request to a service."""


def over_http(url: str) -> Call:
    """Return a way to call a service; each request has a connection of its own."""

    def call(method: str, path: str, json: object) -> Answer:
        try:
            return requests.request(method, url + path, json=json, timeout=60)
        except requests.ConnectionError:
            return NoAnswer()

    return call


def in_process(client: FlaskClient) -> Call:
    """Return a way to call an application without a server."""
    application = client.application  # a client is for one thread
    return lambda method, path, json: application.test_client().open(
        path, method=method, json=json
    )


@contextmanager
def serving(url: str, log: Path, *, workers: bool) -> Iterator[Call]:
    """Serve a database, with gunicorn's workers or in this process."""
    if workers:
        with running_gunicorn(url, log, WEB_CONCURRENCY="2") as server:
            yield over_http(server.url)
    else:
        app = make_app(url)
        yield in_process(app.test_client())
        dispose_app(app)


def body(answer: Answer) -> Any:
    """Return the JSON of an answer."""
    found = getattr(answer, "json", None)
    return found() if callable(found) else found


@dataclass
class Books:
    """Writes that a service was asked for, and what it has answered."""

    call: Call
    tried: int = 0
    items: dict[int, str] = field(default_factory=dict)
    versions: dict[tuple[str, int], float] = field(default_factory=dict)
    refused: Counter[int] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    reads: int = 0
    unanswered: int = 0

    def create_item(self, number: int) -> bool:
        """Create an item that takes some room; say whether it was acknowledged."""
        text = random.Random(number).randbytes(4_500).hex()  # noqa: S311 (hard to compress)
        wanted = {"name": f"item {number}", "description": text}
        answer = self.call("POST", ITEMS, wanted)
        if self._is_created(answer):
            self.items[body(answer)["id"]] = wanted["name"]
        return answer.status_code == 201

    def train(self, number: int, model: str = "grown") -> bool:
        """Train a model that predicts a number; say whether it was acknowledged."""
        rows = {"X": [[float(row)] for row in range(20)], "y": [float(number)] * 20}
        answer = self.call("POST", f"{ML}/models/{model}/train", rows)
        if self._is_created(answer):
            self.versions[model, body(answer)["model"]["version"]] = float(number)
        return answer.status_code == 201

    def read(self) -> None:
        """Read and predict: that must go on whatever cannot be written."""
        for method, path, json in (
            ("GET", f"{ITEMS}?page_size=1", None),
            ("POST", f"{ML}/predict", {"features": [0.5]}),
            ("GET", "/health/ready", None),
        ):
            answer = self.call(method, path, json)
            self.reads += 1
            if isinstance(answer, NoAnswer):
                self.unanswered += 1
                continue
            # An answer may say that it is stale: other tests hold the lease to its time.
            right = answer.status_code == 200
            if right and "predict" in path:
                right = abs(body(answer)["prediction"] - CONSTANT) < 1e-9
            if not right:
                self.faults.append(f"{path}: {answer.status_code} {answer.text[:200]}")

    def write(self, numbers: Sequence[int], *, threads: int = 4) -> None:
        """Create an item for each number, and train for every fourth, several at once."""

        def work(own: Sequence[int]) -> None:
            for number in own:
                (self.train if number % 4 == 0 else self.create_item)(number)
                if number % 5 == 0:
                    self.read()

        workers = [
            threading.Thread(target=work, args=(numbers[first::threads],))
            for first in range(threads)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    def _is_created(self, answer: Answer) -> bool:
        self.tried += 1
        if answer.status_code == 201:
            return True
        if isinstance(answer, NoAnswer):
            self.unanswered += 1
            return False
        self.refused[answer.status_code] += 1
        problem = body(answer)
        clear = (
            answer.status_code in (503, 507)
            and answer.headers["Content-Type"] == "application/problem+json"
            and int(answer.headers["Retry-After"]) > 0
            and problem["status"] == answer.status_code
            and ("no room" in problem["detail"] or "cannot be written" in problem["detail"])
        )
        if not clear:
            self.faults.append(f"{answer.status_code} {answer.text[:200]}")
        return False


def train_default(call: Call) -> None:
    """Train the model `default` on its constant."""
    rows = {"X": [[0.0], [1.0]], "y": [CONSTANT, CONSTANT]}
    assert call("POST", f"{ML}/train", rows).status_code == 201


def find_differences(books: Books, engine: sa.Engine) -> list[str]:
    """Return where the database and the books differ, and what is only half there.

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
        if (expected := books.versions.get((name, number))) is not None
        and abs(artifacts.loads(bytes(stored[digest]), digest).predict([[0.5]])[0] - expected)
        > 1e-9
    ]
    differences = {
        "items lost": books.items.keys() - items.keys(),
        "items never acknowledged": items.keys() - books.items.keys(),
        "items changed": {key for key, name in books.items.items() if items.get(key) != name},
        "versions lost": books.versions.keys() - {(row[0], row[1]) for row in versions},
        "versions never acknowledged": {(row[0], row[1]) for row in versions}
        - books.versions.keys(),
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
