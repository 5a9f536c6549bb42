"""What many clients do at once, and again after a fault, happens exactly once."""

from __future__ import annotations

import http.client
import itertools
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import pytest

from tests.faults import on_postgresql, on_sqlite, scaled
from tests.faults.load import ITEMS, Answer, Client, NotConnected
from tests.faults.record import Record
from tests.gunicorn_server import GunicornServer, running_gunicorn

pytestmark = pytest.mark.slow

CLIENTS = 20
T = TypeVar("T")


def call(
    server: GunicornServer, method: str, path: str, body: object = None, **headers: str
) -> Answer:
    """Send one request over a connection of its own."""
    with Client(server.url, kept=False) as client:
        return client.call(method, path, body, **headers)


def at_once(work: Callable[[int], T], times: int) -> list[T]:
    """Do something many times at once, let go at the same moment."""
    barrier = threading.Barrier(times)

    def wait_and_work(number: int) -> T:
        barrier.wait()
        return work(number)

    with ThreadPoolExecutor(times) as pool:
        return list(pool.map(wait_and_work, range(times)))


@on_postgresql
def test_of_fifty_puts_with_one_etag_one_wins(
    database_url: str, tmp_path: Path, record: Record
) -> None:
    rounds = scaled(2, 20)
    with running_gunicorn(database_url, tmp_path / "log", WEB_CONCURRENCY="2") as server:
        path = call(server, "POST", ITEMS, {"name": "contested"}).headers["Location"]
        for round_ in range(rounds):
            tag = {"If-Match": call(server, "GET", path).headers["ETag"]}

            def put(number: int, round_: int = round_, tag: dict[str, str] = tag) -> int:
                # A name that is there already would change nothing.
                body = {"name": f"{round_}-{number}"}
                return call(server, "PUT", path, body, **tag).status

            assert sorted(at_once(put, 50)) == [200, *[412] * 49]
    record("50 PUTs with one ETag: rounds with one winner", rounds, rounds, 0)


@on_sqlite
def test_increments_by_etag_are_all_counted(
    database_url: str, tmp_path: Path, record: Record
) -> None:
    each = scaled(3, 25)
    with running_gunicorn(database_url, tmp_path / "log", WEB_CONCURRENCY="2") as server:
        path = call(server, "POST", ITEMS, {"name": "0"}).headers["Location"]

        def increment(_: int) -> None:
            done = 0
            while done < each:
                found = call(server, "GET", path)
                body = {"name": str(int(found.body["name"]) + 1)}
                tag = {"If-Match": found.headers["ETag"]}
                done += call(server, "PUT", path, body, **tag).status == 200

        at_once(increment, CLIENTS)
        counted, expected = int(call(server, "GET", path).body["name"]), CLIENTS * each

    record("increments by an ETag loop, 20 clients", expected, counted, expected - counted)
    assert counted == expected


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
        found = list_names(server)
        repeated = [create(name).body == body for name, body in acknowledged.items()]

    wrong = abs(len(found) - len(names)) + len(names) - len(set(found)) + repeated.count(False)
    record("creations repeated until acknowledged, workers killed", len(names), len(found), wrong)
    assert sorted(found) == sorted(names)
    assert all(repeated)


def list_names(server: GunicornServer) -> list[str]:
    names: list[str] = []
    for page in itertools.count(1):
        answer = call(server, "GET", f"{ITEMS}?page={page}&page_size=1000")
        if not answer.body:
            break
        names += [item["name"] for item in answer.body]
    return names
