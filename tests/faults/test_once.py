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

import pytest

from tests.faults import on_postgresql, on_sqlite, scaled
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


def at_once(work: Callable[[int], object], times: int) -> list[object]:
    """Do something many times at once, let go at the same moment."""
    barrier = threading.Barrier(times)

    def wait_and_work(number: int) -> object:
        barrier.wait()
        return work(number)

    with ThreadPoolExecutor(times) as pool:
        return list(pool.map(wait_and_work, range(times)))


@on_postgresql
def test_of_fifty_puts_with_one_etag_one_wins(
    database_url: str, tmp_path: Path, record: Record
) -> None:
    with running_gunicorn(database_url, tmp_path / "log", WEB_CONCURRENCY="2") as server:
        created = call(server, "POST", ITEMS, {"name": "contested"}).headers
        path, etag = created["Location"], created["ETag"]
        rounds = scaled(2, 20)
        winners = 0
        for number in range(rounds):
            # A name that is there already would change nothing, and leave the state to another.
            put = at_once(
                lambda n: call(
                    *(server, "PUT", path, {"name": f"{number}-{n}"}),  # noqa: B023
                    **{"If-Match": etag},  # noqa: B023
                ),
                50,
            )
            assert sorted(answer.status for answer in put) == [200, *[412] * 49]
            winners += 1
            etag = call(server, "GET", path).headers["ETag"]
    record("50 PUTs with one ETag: rounds with one winner", rounds, winners, rounds - winners)


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
        counted = int(call(server, "GET", path).body["name"])

    acknowledged = CLIENTS * each
    record("increments by an ETag loop, 20 clients", acknowledged, counted, acknowledged - counted)
    assert counted == acknowledged


@on_postgresql
def test_what_is_sent_until_it_is_acknowledged_is_created_once(
    database_url: str, tmp_path: Path, record: Record
) -> None:
    each, kills = scaled((8, 2), (60, 20))
    acknowledged: dict[str, object] = {}
    retries = itertools.count()
    with running_gunicorn(database_url, tmp_path / "log", WEB_CONCURRENCY="2") as server:

        def create_all(client: int) -> None:
            for number in range(each):
                name = f"{client}-{number}"
                while name not in acknowledged:
                    answer = None
                    with suppress(NotConnected, OSError, http.client.HTTPException):
                        answer = create_once(server, name)
                    if answer and answer.status == 201:
                        acknowledged[name] = answer.body
                    else:  # killed on the way, or who was killed still holds the key
                        next(retries)
                        time.sleep(0.2)

        clients = [threading.Thread(target=create_all, args=(n,)) for n in range(CLIENTS)]
        for client in clients:
            client.start()
        for _ in range(kills):
            time.sleep(0.3)
            while not (workers := sorted(server.workers())):
                time.sleep(0.05)  # all have been killed, and none is back yet
            server.kill_worker(random.choice(workers))  # noqa: S311 (any will do)
            time.sleep(0.7)
        for client in clients:
            client.join()
        names = list_names(server)
        repeated = [create_once(server, name).body == body for name, body in acknowledged.items()]

    print(f"{kills} kills, {next(retries)} repeats of {len(acknowledged)} creations")
    expected = CLIENTS * each
    wrong = abs(len(names) - expected) + expected - len(set(names)) + repeated.count(False)
    record("creations repeated until acknowledged, workers killed", expected, len(names), wrong)
    assert sorted(names) == sorted(acknowledged)
    assert len(names) == expected
    assert all(repeated)


def create_once(server: GunicornServer, name: str) -> Answer:
    key = {"Idempotency-Key": f"key-{name}"}
    return call(server, "POST", ITEMS, {"name": name}, **key)


def list_names(server: GunicornServer) -> list[str]:
    names: list[str] = []
    for page in itertools.count(1):
        answer = call(server, "GET", f"{ITEMS}?page={page}&page_size=1000")
        found = [item["name"] for item in answer.body]
        if not found:
            return names
        names += found
    raise AssertionError("unreachable")
