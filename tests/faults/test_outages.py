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
from tests.conftest import Backend, dispose_app, make_app, migrate
from tests.faults import scaled
from tests.faults.load import (
    CONSTANT,
    ML,
    Answer,
    Client,
    Ledger,
    Load,
    Poller,
    Probe,
    create_item,
    predict,
    train_default,
)
from tests.faults.losses import find_lost
from tests.faults.record import Record
from tests.gunicorn_server import GunicornServer, running_gunicorn
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
SILENCE_DEADLINE = 5.0
"""Seconds within which a write is answered, whatever the database does."""
FIRST_MOMENT = 3.0
"""Seconds in which threads still wait for a server that has just fallen silent."""
PROMPT = 1.0  # seconds
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
    with ExitStack() as stack:
        pollers = [stack.enter_context(Poller(url, predict, every=0)) for _ in range(8)]
        time.sleep(1)
    assert all(probe.is_answered(200) for poller in pollers for probe in poller.probes)


def count_connections(own_server: PostgresServer) -> int:
    """Return how many connections the server holds for the application."""
    url = sa.make_url(own_server.url).set(drivername="postgresql+psycopg2")
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'webapp'"
    with engine.connect() as connection:
        return connection.scalar(sa.text(query)) or 0


def write(client: Client) -> Answer:
    return create_item(client, "from a poller")


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
    """What one poller must see: while the database is there, and while it is away."""

    name: str
    send: Callable[[Client], Answer]
    well: Callable[[Answer], bool]
    away: Callable[[Answer], bool]
    limit: float = PROMPT
    first_limit: float = FIRST_MOMENT


def is_right(answer: Answer) -> bool:
    return answer.status == 200 and abs(answer.body["prediction"] - CONSTANT) < 1e-9


WATCHES = (
    Watch(
        "/health/live",
        lambda client: client.call("GET", "/health/live"),
        well=lambda answer: answer.status == 200,
        away=lambda answer: answer.status == 200,
    ),
    Watch(
        "/health/ready",
        lambda client: client.call("GET", "/health/ready"),
        well=lambda answer: answer.status == 200,
        away=lambda answer: (
            answer.status == 503 and answer.body["checks"]["database"] == "does not answer"
        ),
        limit=DATABASE_DEADLINE + PROMPT,
        first_limit=DATABASE_DEADLINE + FIRST_MOMENT,
    ),
    Watch(
        "writes",
        write,
        well=lambda answer: answer.status == 201,
        away=lambda answer: answer.status == 503 and int(answer.headers["Retry-After"]) > 0,
        limit=SILENCE_DEADLINE,
        first_limit=SILENCE_DEADLINE,
    ),
    Watch(
        "predictions",
        predict,
        well=lambda answer: is_right(answer) and "X-Model-Stale" not in answer.headers,
        away=lambda answer: is_right(answer) and answer.headers.get("X-Model-Stale") == "true",
    ),
)


@dataclass(frozen=True)
class Outage:
    """When the database was told to leave, was gone, was told to return, and was back."""

    left_at: float
    gone_at: float
    returns_at: float
    back_at: float


def judge(
    watch: Watch, probes: Sequence[Probe], outage: Outage, record: Record, what: str
) -> list[str]:
    """Put down how the service looked to a poller; return what was not as it must be."""
    answered = [probe for probe in probes if probe.answer]
    unwell = [probe for probe in answered if not watch.well(probe.answer)]
    touched = [p for p in probes if p.ended > outage.left_at and p.started < outage.returns_at]
    # An answer of before the outage may be relied upon for one lease.
    began, ends = outage.gone_at + 0.2, outage.returns_at
    during = [probe for probe in answered if began < probe.started and probe.ended < ends]
    first = [probe for probe in touched if probe.started < outage.gone_at + FIRST_MOMENT]
    later = [probe for probe in touched if probe not in first]
    found = {
        "not answered": [probe for probe in probes if probe.answer is None],
        "not as it must be before": [p for p in unwell if p.ended < outage.left_at],
        "not as it must be": [probe for probe in during if not watch.away(probe.answer)],
        "too late at first": [probe for probe in first if probe.seconds > watch.first_limit],
        "too late": [probe for probe in later if probe.seconds > watch.limit],
        "not well again": [p for p in unwell if p.started > outage.back_at + BACK_WITHIN],
    }
    worst = [max((probe.seconds for probe in some), default=0.0) for some in (first, later)]
    figures = f"{watch.name} (at worst {worst[0]:.2f} s at first, then {worst[1]:.2f} s)"
    bad = len({probe for probes in found.values() for probe in probes})
    record(f"{what}: {figures}", len(touched), len(touched) - bad, len(found["not answered"]))
    assert during, f"{watch.name}: nothing was answered during the outage"
    return [f"{figures}: {len(p)} {fault}, such as {p[0]}" for fault, p in found.items() if p]


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
            pollers = [stack.enter_context(Poller(server.url, watch.send)) for watch in WATCHES]
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
        for watch, poller in zip(WATCHES, pollers, strict=True)
        for complaint in judge(watch, poller.probes, outage, record, what)
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
                back_at = time.monotonic()
                with Client(server.url) as client:
                    while write(client).status != 201:
                        assert time.monotonic() < back_at + BACK_WITHIN
                        time.sleep(0.05)
            time.sleep(0.5)
        what = "PostgreSQL restarted under load"
        assert_nothing_was_lost(server, own_server, load.ledger, record, what)


def test_a_key_is_known_to_workers_that_never_met_it_while_the_database_is_away(
    own_server: PostgresServer, own_database: str, tmp_path: Path
) -> None:
    app = make_app(own_database)
    key = bearer(make_holder(app, "ann", Scope.ML_PREDICT))
    dispose_app(app)
    settings = {"AUTH": "on", "WEB_CONCURRENCY": "4"}
    with running_gunicorn(own_database, tmp_path / "gunicorn.log", **settings) as server:
        gives_up_at = time.monotonic() + 30
        while count_connections(own_server) < 4:  # until every worker has asked
            assert time.monotonic() < gives_up_at
            time.sleep(0.1)
        own_server.stop()
        # Refused behind the guard, before a model is looked for.
        with Client(server.url, kept=False) as client:
            found = {client.call("POST", f"{ML}/predict", {}, **key).status for _ in range(20)}
        own_server.start()

    assert found == {422}
