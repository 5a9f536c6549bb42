"""What many clients do at once, and again after a fault, happens exactly once."""

from __future__ import annotations

import http.client
import itertools
import json
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from tests.faults import on_postgresql, on_sqlite, scaled
from tests.faults.record import Record
from tests.gunicorn_server import GunicornServer, running_gunicorn

pytestmark = pytest.mark.slow

CLIENTS = 20


def call(
    server: GunicornServer, method: str, path: str, body: object, **headers: str
) -> tuple[int, http.client.HTTPMessage, bytes]:
    """Send one request over a connection of its own; return status, headers and body."""
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=60)
    try:
        headers = {"Content-Type": "application/json", **headers}
        connection.request(method, path, json.dumps(body), headers)
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


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
        _, headers, _ = call(server, "POST", "/api/v1/items", {"name": "contested"})
        path, etag = headers["Location"], headers["ETag"]
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
            statuses = sorted(status for status, _, _ in put)
            assert statuses == [200, *[412] * 49]
            winners += 1
            etag = requests.get(server.url + path, timeout=30).headers["ETag"]
    record("50 PUTs with one ETag: rounds with one winner", rounds, winners, rounds - winners)


@on_sqlite
def test_increments_by_etag_are_all_counted(
    database_url: str, tmp_path: Path, record: Record
) -> None:
    each = scaled(3, 25)
    with running_gunicorn(database_url, tmp_path / "log", WEB_CONCURRENCY="2") as server:
        _, headers, _ = call(server, "POST", "/api/v1/items", {"name": "0"})
        path = headers["Location"]

        def increment(_: int) -> None:
            done = 0
            while done < each:
                found = requests.get(server.url + path, timeout=30)
                body = {"name": str(int(found.json()["name"]) + 1)}
                tag = {"If-Match": found.headers["ETag"]}
                done += call(server, "PUT", path, body, **tag)[0] == 200

        at_once(increment, CLIENTS)
        counted = int(requests.get(server.url + path, timeout=30).json()["name"])

    acknowledged = CLIENTS * each
    record("increments by an ETag loop, 20 clients", acknowledged, counted, acknowledged - counted)
    assert counted == acknowledged


@on_postgresql
def test_what_is_sent_until_it_is_acknowledged_is_created_once(
    database_url: str, tmp_path: Path, record: Record
) -> None:
    each, kills = scaled((8, 2), (60, 20))
    acknowledged: dict[str, bytes] = {}
    retries = itertools.count()
    with running_gunicorn(database_url, tmp_path / "log", WEB_CONCURRENCY="2") as server:

        def create_all(client: int) -> None:
            for number in range(each):
                name = f"{client}-{number}"
                while name not in acknowledged:
                    try:
                        status, _, answer = call(
                            *(server, "POST", "/api/v1/items", {"name": name}),
                            **{"Idempotency-Key": f"key-{name}"},
                        )
                    except (OSError, http.client.HTTPException):
                        status = 0
                    if status == 201:
                        acknowledged[name] = answer
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
        repeated = [
            call(
                *(server, "POST", "/api/v1/items", {"name": name}),
                **{"Idempotency-Key": f"key-{name}"},
            )[2]
            == answer
            for name, answer in acknowledged.items()
        ]

    print(f"{kills} kills, {next(retries)} repeats of {len(acknowledged)} creations")
    expected = CLIENTS * each
    wrong = abs(len(names) - expected) + expected - len(set(names)) + repeated.count(False)
    record("creations repeated until acknowledged, workers killed", expected, len(names), wrong)
    assert sorted(names) == sorted(acknowledged)
    assert len(names) == expected
    assert all(repeated)


def list_names(server: GunicornServer) -> list[str]:
    names: list[str] = []
    for page in itertools.count(1):
        url = f"{server.url}/api/v1/items?page={page}&page_size=1000"
        found = [item["name"] for item in requests.get(url, timeout=30).json()]
        if not found:
            return names
        names += found
    raise AssertionError("unreachable")
