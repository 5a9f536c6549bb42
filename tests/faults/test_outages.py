"""A PostgreSQL server that is restarted, goes away, or falls silent while clients work."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
import sqlalchemy as sa

from tests.access.holders import bearer, make_holder
from tests.conftest import Backend, app_on, migrate
from tests.faults import scaled
from tests.faults.load import (
    ML,
    Answer,
    Client,
    Ledger,
    Probe,
    create_item,
    load,
    predict,
    predicts,
    stream,
    train_default,
)
from tests.faults.losses import find_lost
from tests.faults.record import Record
from tests.gunicorn_server import GunicornServer, running_gunicorn, wait_until
from tests.postgres import PostgresServer, running_server
from webapp.observability.health import DATABASE_DEADLINE
from webapp.scopes import Scope

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not Path("/proc/self/task").exists(), reason="finds PostgreSQL's processes in /proc"
    ),
]

AWAY = scaled(6, 30)  # seconds
WORKERS, THREADS = 2, 4
SETTINGS = {"WEB_CONCURRENCY": str(WORKERS), "WEB_THREADS": str(THREADS), "ACCESS_LOG": "false"}
FIRST_MOMENT = 2.0
"""Seconds in which threads still wait for a server that has just fallen silent."""
BACK_WITHIN = 5.0  # seconds after the database's return


@pytest.fixture(scope="module")
def own_server() -> Iterator[PostgresServer]:
    """Return a PostgreSQL server that nobody else uses."""
    with running_server() as server:
        yield server


@pytest.fixture
def own_database(own_server: PostgresServer, tmp_path: Path) -> Iterator[str]:
    """URL of a database on it, at the newest revision."""
    backend = Backend("postgresql", tmp_path, own_server.url)
    url = backend.make_empty()
    migrate(url)
    yield url
    backend.drop(url)


def count_connections(own_server: PostgresServer) -> int:
    """Return how many connections the server holds for the application."""
    url = sa.make_url(own_server.url).set(drivername="postgresql+psycopg2")
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'webapp'"
    with engine.connect() as connection:
        return connection.scalar(sa.text(query)) or 0


def write(client: Client) -> Answer:
    return create_item(client, "from a client")


def assert_nothing_was_lost(
    server: GunicornServer, own_server: PostgresServer, ledger: Ledger, record: Record, what: str
) -> None:
    """Hold the ledger against the service, and have every thread of every worker write."""

    def write_alone(_: int) -> int:
        with Client(server.url, kept=False) as client:
            return write(client).status

    lost, acknowledged = find_lost(server.url, ledger), ledger.acknowledged()
    with ThreadPoolExecutor(WORKERS * THREADS) as pool:
        statuses = set(pool.map(write_alone, range(WORKERS * THREADS)))
    connections = count_connections(own_server)
    record(f"{what}: operations", acknowledged, acknowledged - len(lost), len(lost))
    assert (lost, ledger.unanswered) == ([], [])
    assert {answer.status for answer in ledger.refused} <= {503}
    assert min(len(ledger.items), len(ledger.versions), ledger.predictions) > 0
    assert statuses == {201}
    assert connections <= WORKERS * (THREADS + 2)


def look(answer: Answer) -> str:
    """Say in a word what an answer tells a client."""
    if "prediction" in answer.body and predicts(answer):
        return "stale" if answer.headers.get("X-Model-Stale") == "true" else "fresh"
    if answer.status == 503 and "checks" not in answer.body:
        return "retry" if int(answer.headers["Retry-After"]) > 0 else "refused"
    return f"{answer.status} {answer.body.get('checks', {}).get('database', '')}".strip()


def ask(path: str) -> Callable[[Client], Answer]:
    return lambda client: client.call("GET", path)


class Watch(NamedTuple):
    """A request, and what its answer must tell while the database is there, and while it is away.

    ``limit`` is in seconds: an answer may take so long while the database is away, and
    ``FIRST_MOMENT`` more where it has just gone.
    """

    send: Callable[[Client], Answer]
    well: str
    away: str
    limit: float


WATCHES = {
    "live": Watch(ask("/health/live"), "200", "200", 2.0),
    "ready": Watch(ask("/health/ready"), "200 ok", "503 does not answer", DATABASE_DEADLINE + 2.0),
    "writes": Watch(write, "201", "retry", 5.0),
    "predictions": Watch(predict, "fresh", "stale", 2.0),
}


def watch(url: str, seconds: float) -> dict[str, list[Probe]]:
    """Return what the clients saw in so many seconds."""
    with ExitStack() as stack:
        found = {
            name: stack.enter_context(stream(url, each.send, every=0.2))
            for name, each in WATCHES.items()
        }
        time.sleep(seconds)
    return found


def find_fault(watch: Watch, probe: Probe, gone_at: float) -> str:
    """Return what is wrong with an answer while the database is away, or nothing."""
    if probe.answer is None:
        return f"no answer: {probe.error!r}"
    since, took = probe.started - gone_at, probe.ended - probe.started
    if took > watch.limit + (FIRST_MOMENT if since < FIRST_MOMENT else 0.0):
        return f"took {took:.2f} s"
    # An answer of before the outage may be relied upon for one lease.
    is_right = look(probe.answer) == watch.away or since < 0.2
    return "" if is_right else f"not of an outage: {probe.answer}"


@pytest.mark.parametrize(
    ("fault", "worker_class"),
    [("stopped", "epoll"), ("frozen", "epoll"), ("killed", "gthread")],
)
def test_a_database_that_is_away_for_a_while_is_lived_with(
    own_server: PostgresServer,
    own_database: str,
    tmp_path: Path,
    record: Record,
    fault: str,
    worker_class: str,
) -> None:
    leave, come_back = {
        "stopped": (own_server.stop, own_server.start),
        "frozen": (own_server.freeze, own_server.thaw),
        "killed": (partial(own_server.stop, "immediate"), own_server.start),
    }[fault]
    what = f"PostgreSQL {fault} for {AWAY} s, {worker_class}"
    settings = {**SETTINGS, "WORKER_CLASS": worker_class}
    with running_gunicorn(own_database, tmp_path / "gunicorn.log", **settings) as server:
        train_default(server.url)
        # Every worker predicts: one that has never predicted knows no model.
        with stream(server.url, predict, clients=8):
            time.sleep(1)
        with load(server.url, clients=4, pause=0.02) as ledger:
            before = watch(server.url, 1)
            leave()
            gone_at = time.monotonic()
            during = watch(server.url, AWAY)
            come_back()
            time.sleep(BACK_WITHIN)
            after = watch(server.url, 1)
        assert_nothing_was_lost(server, own_server, ledger, record, what)

    for name, probes in during.items():
        seen = [look(p.answer) if p.answer else repr(p.error) for p in before[name] + after[name]]
        faults = [find_fault(WATCHES[name], probe, gone_at) for probe in probes]
        worst, wrong = max(p.ended - p.started for p in probes), len(faults) - faults.count("")
        record(f"{what}: {name} (at worst {worst:.2f} s)", len(probes), len(probes) - wrong, wrong)
        assert set(seen) == {WATCHES[name].well}
        assert set(faults) == {""}


def test_a_key_is_known_to_workers_that_never_met_it_while_the_database_is_away(
    own_server: PostgresServer, own_database: str, tmp_path: Path
) -> None:
    with app_on(own_database) as app:
        key = bearer(make_holder(app, "ann", Scope.ML_PREDICT))
    settings = {"AUTH": "on", "WEB_CONCURRENCY": "4"}
    with running_gunicorn(own_database, tmp_path / "gunicorn.log", **settings) as server:
        wait_until(lambda: count_connections(own_server) >= 4, 30)  # every worker has asked
        own_server.stop()
        # Refused behind the guard, before a model is looked for.
        with Client(server.url, kept=False) as client:
            found = {client.call("POST", f"{ML}/predict", {}, **key).status for _ in range(20)}
        own_server.start()

    assert found == {422}
