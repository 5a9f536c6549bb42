"""A PostgreSQL server that is restarted, goes away, or falls silent while clients work."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

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
    Load,
    Probe,
    Stream,
    create_item,
    predict,
    predicts,
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


def warm_up(url: str) -> None:
    """Have every worker predict: a worker that has never predicted knows no model."""
    train_default(url)
    with Stream(url, predict, clients=8) as stream:
        time.sleep(1)
    assert all(probe.is_answered(200) for probe in stream.probes)


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


@dataclass(frozen=True)
class Watch:
    """What one client must see while the database is there, and while it is away.

    ``limit`` is in seconds: an answer may take so long while the database is away, and
    ``FIRST_MOMENT`` more where it has just gone.
    """

    name: str
    send: Callable[[Client], Answer]
    well: Callable[[Answer], bool]
    away: Callable[[Answer], bool]
    limit: float = 2.0


def is_well(answer: Answer) -> bool:
    return answer.status == 200


def is_refused(answer: Answer) -> bool:
    return answer.status == 503 and int(answer.headers["Retry-After"]) > 0


def is_unready(answer: Answer) -> bool:
    return answer.status == 503 and answer.body["checks"]["database"] == "does not answer"


def is_fresh(answer: Answer) -> bool:
    return predicts(answer) and "X-Model-Stale" not in answer.headers


def is_stale(answer: Answer) -> bool:
    return predicts(answer) and answer.headers.get("X-Model-Stale") == "true"


WATCHES = (
    Watch("live", lambda client: client.call("GET", "/health/live"), is_well, is_well),
    Watch(
        *("ready", lambda client: client.call("GET", "/health/ready"), is_well, is_unready),
        limit=DATABASE_DEADLINE + 2.0,
    ),
    Watch("writes", write, lambda answer: answer.status == 201, is_refused, limit=5.0),
    Watch("predictions", predict, is_fresh, is_stale),
)


@dataclass(frozen=True)
class Outage:
    """When the database was told to leave, was gone, was told to return, and was back."""

    left_at: float
    gone_at: float
    returns_at: float
    back_at: float


def find_fault(watch: Watch, probe: Probe, outage: Outage) -> str:
    """Return what is wrong with an answer, or nothing."""
    if probe.answer is None:
        return f"no answer: {probe.error!r}"
    if probe.ended < outage.left_at or probe.started > outage.back_at + BACK_WITHIN:
        return "" if watch.well(probe.answer) else "not well before or after the outage"
    # An answer of before the outage may be relied upon for one lease.
    is_during = outage.gone_at + 0.2 < probe.started and probe.ended < outage.returns_at
    if is_during and not watch.away(probe.answer):
        return "not as it must be during the outage"
    is_first = probe.started < outage.gone_at + FIRST_MOMENT
    limit = watch.limit + (FIRST_MOMENT if is_first else 0.0)
    is_late = probe.started < outage.returns_at and probe.seconds > limit
    return f"took {probe.seconds:.2f} s" if is_late else ""


def judge(
    watch: Watch, probes: Sequence[Probe], outage: Outage, record: Record, what: str
) -> list[str]:
    """Put down how the service looked to a client; return what was not as it must be."""
    touched = [p for p in probes if p.ended > outage.left_at and p.started < outage.returns_at]
    faults = [(find_fault(watch, probe, outage), probe) for probe in probes]
    complaints = [f"{watch.name}: {fault}, {probe}" for fault, probe in faults if fault]
    unanswered = sum(probe.answer is None for probe in probes)
    worst = max(probe.seconds for probe in touched)
    what = f"{what}: {watch.name} (at worst {worst:.2f} s)"
    record(what, len(touched), len(touched) - len(complaints), unanswered)
    assert any(outage.gone_at < p.started and p.ended < outage.returns_at for p in touched)
    return complaints


@pytest.mark.parametrize(
    ("fault", "worker_class"),
    [("stopped", "epoll"), ("frozen", "epoll"), ("stopped", "gthread")],
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
    }[fault]
    what = f"PostgreSQL {fault} for {AWAY} s, {worker_class}"
    settings = {**SETTINGS, "WORKER_CLASS": worker_class}
    with running_gunicorn(own_database, tmp_path / "gunicorn.log", **settings) as server:
        warm_up(server.url)
        with ExitStack() as stack:
            load = stack.enter_context(Load(server.url, clients=4, pause=0.02))
            streams = [
                stack.enter_context(Stream(server.url, watch.send, every=0.2)) for watch in WATCHES
            ]
            time.sleep(1)
            left_at = time.monotonic()
            leave()
            gone_at = time.monotonic()
            time.sleep(AWAY)
            returns_at = time.monotonic()
            come_back()
            outage = Outage(left_at, gone_at, returns_at, time.monotonic())
            time.sleep(BACK_WITHIN + 1)
        assert_nothing_was_lost(server, own_server, load.ledger, record, what)

    complaints = [
        complaint
        for watch, stream in zip(WATCHES, streams, strict=True)
        for complaint in judge(watch, stream.probes, outage, record, what)
    ]
    assert complaints == []


def test_a_database_that_is_restarted_under_load_loses_nothing(
    own_server: PostgresServer, own_database: str, tmp_path: Path, record: Record
) -> None:
    with running_gunicorn(own_database, tmp_path / "gunicorn.log", **SETTINGS) as server:
        warm_up(server.url)
        with Load(server.url, clients=6) as load:
            for number in range(scaled(2, 10)):
                time.sleep(0.5)
                own_server.stop("fast" if number % 2 else "immediate")
                own_server.start()
                with Client(server.url) as client:
                    wait_until(lambda: write(client).status == 201, BACK_WITHIN)
            time.sleep(0.5)
        what = "PostgreSQL restarted under load"
        assert_nothing_was_lost(server, own_server, load.ledger, record, what)


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
