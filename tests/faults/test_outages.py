"""A PostgreSQL server that is restarted, goes away, or falls silent while clients work."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
import sqlalchemy as sa

from tests.access.holders import bearer, make_holder
from tests.conftest import Backend, dispose_app, make_app, migrate
from tests.faults import scaled
from tests.faults.load import (
    CONSTANT,
    Answer,
    Client,
    Load,
    Poller,
    Probe,
    create_item,
    predict,
    train_default,
)
from tests.faults.losses import find_lost
from tests.faults.record import Record
from tests.gunicorn_server import running_gunicorn
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
    """Have every worker predict once: a worker that has never predicted knows no model."""
    train_default(url)
    ends = time.monotonic() + 1
    with ExitStack() as stack:
        pollers = [stack.enter_context(Poller(url, predict, every=0)) for _ in range(8)]
        time.sleep(max(ends - time.monotonic(), 0))
    assert all(probe.is_answered(200) for poller in pollers for probe in poller.probes)


def count_connections(own_server: PostgresServer) -> int:
    """Return how many connections the server holds for the application."""
    url = sa.make_url(own_server.url).set(drivername="postgresql+psycopg2")
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'webapp'"
    with engine.connect() as connection:
        return connection.scalar(sa.text(query)) or 0


def write_at_once(url: str) -> list[int]:
    """Send as many writes at once as all workers have threads; return the statuses."""
    statuses: list[int] = []

    def write() -> None:
        with Client(url, kept=False) as client:
            statuses.append(create_item(client, "one of many").status)

    threads = [threading.Thread(target=write) for _ in range(WORKERS * THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statuses


def get_live(client: Client) -> Answer:
    return client.call("GET", "/health/live")


def get_ready(client: Client) -> Answer:
    return client.call("GET", "/health/ready")


def write(client: Client) -> Answer:
    return create_item(client, "from a poller")


def is_fresh(probe: Probe) -> bool:
    return probe.answer is not None and "X-Model-Stale" not in probe.answer.headers


def is_right(probe: Probe) -> bool:
    """Say whether a prediction was answered, and right."""
    if probe.answer is None or probe.answer.status != 200:
        return False
    return abs(probe.answer.body["prediction"] - CONSTANT) < 1e-9


@dataclass(frozen=True)
class Watch:
    """What one poller must see: while the database is there, and while it is away."""

    name: str
    send: Callable[[Client], Answer]
    well: Callable[[Probe], bool]
    away: Callable[[Probe], bool]
    limit: float = PROMPT
    first_limit: float = FIRST_MOMENT


WATCHES = (
    Watch(
        "/health/live",
        get_live,
        well=lambda probe: probe.is_answered(200),
        away=lambda probe: probe.is_answered(200),
    ),
    Watch(
        "/health/ready",
        get_ready,
        well=lambda probe: probe.is_answered(200),
        away=lambda probe: (
            probe.is_answered(503) and probe.answer.body["checks"]["database"] == "does not answer"
        ),
        limit=DATABASE_DEADLINE + PROMPT,
        first_limit=DATABASE_DEADLINE + FIRST_MOMENT,
    ),
    Watch(
        "writes",
        write,
        well=lambda probe: probe.is_answered(201),
        away=lambda probe: probe.is_answered(503) and int(probe.answer.headers["Retry-After"]) > 0,
        limit=SILENCE_DEADLINE,
        first_limit=SILENCE_DEADLINE,
    ),
    Watch(
        "predictions",
        predict,
        well=lambda probe: is_right(probe) and is_fresh(probe),
        away=lambda probe: is_right(probe) and probe.answer.headers["X-Model-Stale"] == "true",
    ),
)


@dataclass(frozen=True)
class Outage:
    """When the database was told to leave, was gone, was told to return, and was back."""

    left_at: float
    gone_at: float
    returns_at: float
    back_at: float


class Findings:
    """How the service looked to one poller, before, during and after an outage."""

    def __init__(self, watch: Watch, probes: list[Probe], outage: Outage) -> None:
        self.name = watch.name
        first_moment = outage.gone_at + FIRST_MOMENT
        touched = [p for p in probes if p.ended > outage.left_at and p.started < outage.returns_at]
        # An answer of before the outage may be relied upon for one lease.
        began, ended = outage.gone_at + 0.2, outage.returns_at
        self.during = [p for p in touched if began < p.started and p.ended < ended]
        self.bad = [p for p in probes if p.ended < outage.left_at and not watch.well(p)]
        self.bad += [p for p in self.during if not watch.away(p)]
        self.late = [
            p
            for p in touched
            if p.seconds > (watch.first_limit if p.started < first_moment else watch.limit)
        ]
        self.unanswered = [p for p in probes if p.answer is None]
        self.worst_first = longest(p for p in touched if p.started < first_moment)
        self.worst = longest(p for p in touched if p.started >= first_moment)
        unwell = [p.started for p in probes if p.ended > outage.back_at and not watch.well(p)]
        self.well_after = max([0.0, *(at - outage.back_at for at in unwell)])

    def describe(self) -> str:
        """Return the figures in words."""
        return (
            f"{self.name} (at worst {self.worst_first:.2f} s at first, then {self.worst:.2f} s; "
            f"well {self.well_after:.1f} s after)"
        )

    def complaints(self) -> list[str]:
        """Return what is not as it must be."""
        found = {
            "not as it must be": self.bad,
            "too late": self.late,
            "not answered": self.unanswered,
        }
        said = [
            f"{self.name}: {len(probes)} {what}, such as {probes[0]}"
            for what, probes in found.items()
            if probes
        ]
        if not self.during:
            said.append(f"{self.name}: nothing was answered during the outage")
        if self.well_after > BACK_WITHIN:
            said.append(f"{self.name}: well only {self.well_after:.1f} s after the return")
        return said


def longest(probes: Iterable[Probe]) -> float:
    """Return the seconds that the slowest took."""
    return max((probe.seconds for probe in probes), default=0.0)


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
    settings = {"WEB_CONCURRENCY": str(WORKERS), "WEB_THREADS": str(THREADS)}
    settings |= {"MODEL_LEASE_MS": "100", "ACCESS_LOG": "false", "WORKER_CLASS": worker_class}
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
            wait_until_well(pollers, outage.back_at)

        ledger = load.ledger
        lost = find_lost(server.url, ledger)
        statuses = write_at_once(server.url)
        connections = count_connections(own_server)

    what = f"PostgreSQL {fault} for {AWAY} s, {worker_class}"
    acknowledged = ledger.acknowledged()
    record(f"{what}: operations", acknowledged, acknowledged - len(lost), len(lost))
    complaints = []
    for watch, poller in zip(WATCHES, pollers, strict=True):
        findings = Findings(watch, poller.probes, outage)
        tried, failed = {*findings.during, *findings.late}, {*findings.bad, *findings.late}
        unanswered = len(findings.unanswered)
        record(f"{what}: {findings.describe()}", len(tried), len(tried) - len(failed), unanswered)
        complaints += findings.complaints()
    assert lost == []
    assert ledger.unanswered == []
    assert {answer.status for answer in ledger.refused} <= {503}
    assert set(statuses) == {201}
    assert connections <= WORKERS * (THREADS + 2)
    assert complaints == []


def wait_until_well(pollers: list[Poller], back_at: float) -> None:
    """Wait until every poller sees the service well again, or far too long."""
    for watch, poller in zip(WATCHES, pollers, strict=True):
        while time.monotonic() < back_at + 4 * BACK_WITHIN:
            last = [probe for probe in poller.probes[-3:] if probe.started > back_at]
            if len(last) == 3 and all(watch.well(probe) for probe in last):
                break
            time.sleep(0.05)


@pytest.mark.slow
def test_a_key_is_known_to_workers_that_never_met_it_while_the_database_is_away(
    own_server: PostgresServer, own_database: str, tmp_path: Path
) -> None:
    app = make_app(own_database)
    key = bearer(make_holder(app, "ann", Scope.ML_PREDICT))
    dispose_app(app)
    settings = {"AUTH": "on", "WEB_CONCURRENCY": "4"}
    with running_gunicorn(own_database, tmp_path / "gunicorn.log", **settings) as server:
        gives_up_at = time.monotonic() + 30
        while count_connections(own_server) < 4 and time.monotonic() < gives_up_at:
            time.sleep(0.1)  # until every worker has asked
        own_server.stop()
        try:
            url = f"{server.url}/api/v1/ml/predict"
            # Refused behind the guard, before a model is looked for.
            found = [
                requests.post(url, json={}, headers=key, timeout=30).status_code for _ in range(20)
            ]
        finally:
            own_server.start()

    assert found == [422] * 20


def test_a_database_that_is_restarted_under_load_loses_nothing(
    own_server: PostgresServer, own_database: str, tmp_path: Path, record: Record
) -> None:
    restarts = scaled(2, 10)
    back_after = []
    settings = {"WEB_CONCURRENCY": str(WORKERS), "WEB_THREADS": str(THREADS)}
    with running_gunicorn(own_database, tmp_path / "gunicorn.log", **settings) as server:
        warm_up(server.url)
        with Load(server.url, clients=6) as load:
            for number in range(restarts):
                time.sleep(0.5)
                own_server.stop("fast" if number % 2 else "immediate")
                own_server.start()
                back_at = time.monotonic()
                with Client(server.url) as client:
                    while write(client).status != 201:
                        assert time.monotonic() < back_at + BACK_WITHIN
                        time.sleep(0.05)
                back_after.append(time.monotonic() - back_at)
            time.sleep(0.5)
        lost = find_lost(server.url, load.ledger)
        statuses = write_at_once(server.url)
        connections = count_connections(own_server)

    ledger = load.ledger
    record("PostgreSQL restarted under load: restarts", restarts, len(back_after), len(lost))
    record(
        "PostgreSQL restarted under load: acknowledged operations",
        ledger.acknowledged(),
        ledger.acknowledged() - len(lost),
        len(lost),
    )
    assert lost == []
    assert ledger.unanswered == []
    assert {answer.status for answer in ledger.refused} <= {503}
    assert set(statuses) == {201}
    assert connections <= WORKERS * (THREADS + 2)
    assert min(len(ledger.items), len(ledger.versions), ledger.predictions) > 0
