"""Waiting for PostgreSQL: every wait ends, and a silent server is left alone until it responds."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import psycopg2.extensions
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from tests.postgres import PostgresServer, running_server
from webapp.db import postgresql
from webapp.db.base import begin_read
from webapp.db.engine import configure_engine, engine_options
from webapp.db.postgresql import Server, ServerSilent, time_limit

TIMEOUT = 60  # seconds that a statement may take: far longer than any test waits


@pytest.fixture(scope="module")
def own_server() -> Iterator[PostgresServer]:
    """Return a server that nobody else uses."""
    with running_server() as server:
        yield server


@pytest.fixture
def messages(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Return a list that grows with each message to a server, or attempt to connect."""
    sent: list[object] = []
    wait = postgresql._wait

    def note(connection: object) -> None:
        sent.append(connection)
        wait(connection)

    monkeypatch.setattr(postgresql, "_wait", note)
    return sent


@pytest.fixture
def engine(
    own_server: PostgresServer, messages: list[object], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Engine]:
    """Return an engine with short limits, which never tries a silent server again."""
    monkeypatch.setattr(postgresql, "PATIENCE", 0.2)
    monkeypatch.setattr(postgresql, "PAUSE", 600.0)
    url = sa.make_url(own_server.url).set(drivername="postgresql+psycopg2")
    engine = sa.create_engine(url, **engine_options(url, pool_size=4, timeout=TIMEOUT))
    configure_engine(engine, timeout=TIMEOUT)
    yield engine
    own_server.thaw()
    engine.dispose()
    monkeypatch.undo()
    psycopg2.extensions.set_wait_callback(postgresql._wait)


def ask(engine: Engine, sql: str = "SELECT 1") -> object:
    with engine.connect() as connection:
        return connection.scalar(sa.text(sql))


def assert_silent(engine: Engine, sql: str = "SELECT 1") -> None:
    with pytest.raises(OperationalError) as raised:
        ask(engine, sql)
    assert isinstance(raised.value.orig, ServerSilent)


def test_a_slow_statement_is_waited_for(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    checks, check = [], Server.check
    monkeypatch.setattr(Server, "check", lambda *it: checks.append(it) or check(*it))

    assert ask(engine, "SELECT 7 FROM pg_sleep(1)") == 7
    assert len(checks) == 1


def test_a_server_that_falls_silent_ends_statements_and_is_refused_at_once(
    engine: Engine, own_server: PostgresServer, messages: list[object]
) -> None:
    ask(engine)
    threading.Timer(0.1, own_server.freeze).start()

    assert_silent(engine, "SELECT pg_sleep(30)")
    sent = len(messages)
    for _ in range(20):
        assert_silent(engine)

    assert len(messages) == sent


def test_a_server_that_responds_again_is_used_again(
    engine: Engine, own_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql, "PAUSE", 0.1)
    own_server.freeze()
    assert_silent(engine)

    own_server.thaw()
    time.sleep(postgresql.PAUSE)

    assert [ask(engine) for _ in range(3)] == [1, 1, 1]


def test_a_wait_too_short_proves_nothing(engine: Engine, own_server: PostgresServer) -> None:
    own_server.freeze()
    with time_limit(0.05):
        assert_silent(engine)

    own_server.thaw()

    assert ask(engine) == 1


def test_a_server_that_refuses_is_not_silent(engine: Engine) -> None:
    url = engine.url.set(database="nothing_of_this_name")
    nowhere = sa.create_engine(url, **engine_options(url, pool_size=1, timeout=TIMEOUT))
    configure_engine(nowhere, timeout=TIMEOUT)

    for _ in range(3):
        with pytest.raises(OperationalError, match="does not exist"):
            ask(nowhere)


def test_a_connection_that_was_closed_by_the_server_is_replaced(engine: Engine) -> None:
    first, second = engine.connect(), engine.connect()
    pid = first.scalar(sa.text("SELECT pg_backend_pid()"))
    first.close()
    second.execute(sa.text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
    second.close()

    assert [ask(engine) for _ in range(4)] == [1, 1, 1, 1]


def test_a_client_that_vanished_does_not_keep_its_locks(engine: Engine) -> None:
    assert ask(engine, "SHOW idle_in_transaction_session_timeout") == "1min"
    assert ask(engine, "SHOW statement_timeout") == f"{TIMEOUT // 60}min"


def test_a_read_costs_one_message(engine: Engine, messages: list[object]) -> None:
    ask(engine)
    before = len(messages)

    for _ in range(3):
        with Session(engine) as session:
            begin_read(session)
            assert session.scalar(sa.text("SELECT 1")) == 1

    assert len(messages) - before == 3
    with Session(engine) as session:
        session.execute(sa.text("CREATE TABLE undone (id int)"))
    with Session(engine) as session:
        assert session.scalar(sa.text("SELECT to_regclass('undone')")) is None
