"""What many clients do at once, and again after a fault, happens exactly once."""

from __future__ import annotations

import http.client
import itertools
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from tests.faults import on_postgresql, scaled
from tests.faults.load import ITEMS, Answer, Client, NotConnected
from tests.faults.record import Record
from tests.gunicorn_server import GunicornServer, running_gunicorn

pytestmark = pytest.mark.slow

CLIENTS = 20


def call(
    server: GunicornServer, method: str, path: str, body: object = None, **headers: str
) -> Answer:
    """Send one request over a connection of its own."""
    with Client(server.url, kept=False) as client:
        return client.call(method, path, body, **headers)


def test_of_fifty_puts_with_one_etag_one_wins(
    database_url: str, tmp_path: Path, record: Record
) -> None:
    rounds, together = scaled(2, 20), threading.Barrier(50)
    with (
        running_gunicorn(database_url, tmp_path / "log", WEB_CONCURRENCY="2") as server,
        ThreadPoolExecutor(50) as pool,
    ):
        path = call(server, "POST", ITEMS, {"name": "contested"}).headers["Location"]

        def put(name: str, etag: str) -> int:
            together.wait()
            return call(server, "PUT", path, {"name": name}, **{"If-Match": etag}).status

        for number in range(rounds):
            # A name that is there already would change nothing.
            names = [f"{number}-{client}" for client in range(50)]
            etag = call(server, "GET", path).headers["ETag"]
            assert sorted(pool.map(put, names, [etag] * 50)) == [200, *[412] * 49]
    record("50 PUTs with one ETag: rounds with one winner", rounds, rounds, 0)


@on_postgresql
def test_what_is_sent_until_it_is_acknowledged_is_created_once(
    database_url: str, tmp_path: Path, record: Record
) -> None:
    each, kills = scaled((8, 2), (60, 20))
    names = [f"{client}-{number}" for client in range(CLIENTS) for number in range(each)]
    acknowledged: dict[str, object] = {}
    with running_gunicorn(database_url, tmp_path / "log", WEB_CONCURRENCY="2") as server:

        def create(name: str) -> Answer:
            key = {"Idempotency-Key": f"key-{name}"}
            return call(server, "POST", ITEMS, {"name": name}, **key)

        def create_until_acknowledged(name: str) -> None:
            while name not in acknowledged:
                with suppress(NotConnected, OSError, http.client.HTTPException):
                    answer = create(name)
                    if answer.status == 201:
                        acknowledged[name] = answer.body
                        return
                time.sleep(0.2)  # killed on the way, or who was killed still holds the key

        with ThreadPoolExecutor(CLIENTS) as pool:
            creations = pool.map(create_until_acknowledged, names)
            for _ in range(kills):
                time.sleep(0.3)
                while not (workers := sorted(server.workers())):
                    time.sleep(0.05)  # all have been killed, and none is back yet
                server.kill_worker(random.choice(workers))  # noqa: S311 (any will do)
                time.sleep(0.7)
            list(creations)
        pages = itertools.count(1)
        found: list[str] = []
        while page := call(server, "GET", f"{ITEMS}?page={next(pages)}&page_size=1000").body:
            found += [item["name"] for item in page]
        repeated = [create(name).body == body for name, body in acknowledged.items()]

    wrong = abs(len(found) - len(names)) + len(names) - len(set(found)) + repeated.count(False)
    record("creations repeated until acknowledged, workers killed", len(names), len(found), wrong)
    assert sorted(found) == sorted(names)
    assert all(repeated)
