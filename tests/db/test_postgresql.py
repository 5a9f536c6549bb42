"""Waiting for PostgreSQL: every wait ends, and a silent server is left alone until it talks."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from webapp.db import postgresql
from webapp.db.base import begin_read, configure_engine, engine_options
from webapp.db.postgresql import ServerSilent, time_limit

PATIENCE, GREETING, PAUSE = 0.2, 1.0, 0.3
TIMEOUT = 60  # seconds that a statement may take: far longer than any test waits


class Line:
    """The way to a server, a TCP proxy that can be made to swallow everything."""

    def __init__(self, host: str, port: int) -> None:
        self.target = (host, port)
        self.greeted = 0
        self.said = 0  # messages to the server
        self.talks = threading.Event()
        self.talks.set()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.sockets: list[socket.socket] = []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        """Lead everyone who connects to the server."""
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            self.greeted += 1
            far = socket.create_connection(self.target)
            self.sockets += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self.pump, args=(source, sink), daemon=True).start()

    def pump(self, source: socket.socket, sink: socket.socket) -> None:
        """Hand on what one side says, as long as the line talks."""
        try:
            while data := source.recv(65536):
                self.talks.wait()
                self.said += sink.getpeername() == self.target
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self) -> None:
        """Cut the line."""
        self.talks.set()
        for end in (self.listener, *self.sockets):
            end.close()


@pytest.fixture
def line(postgres_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Line]:
    """Return the way to a real server, with short limits."""
    for name, seconds in {"PATIENCE": PATIENCE, "GREETING": GREETING, "PAUSE": PAUSE}.items():
        monkeypatch.setattr(postgresql, name, seconds)
    url = sa.make_url(postgres_server)
    line = Line(str(url.host), url.port or 5432)
    yield line
    line.close()


@pytest.fixture
def engine(postgres_server: str, line: Line) -> Iterator[Engine]:
    """Return an engine that reaches its server by that way."""
    url = sa.make_url(postgres_server).set(
        drivername="postgresql+psycopg2", host="127.0.0.1", port=line.port
    )
    engine = sa.create_engine(url, **engine_options(url, pool_size=4, timeout=TIMEOUT))
    configure_engine(engine, timeout=TIMEOUT)
    yield engine
    line.talks.set()
    engine.dispose()


def ask(engine: Engine, sql: str = "SELECT 1") -> object:
    with engine.connect() as connection:
        return connection.scalar(sa.text(sql))


def assert_refused(engine: Engine, sql: str = "SELECT 1") -> None:
    with pytest.raises(OperationalError) as raised:
        ask(engine, sql)
    assert isinstance(raised.value.orig, ServerSilent)


def test_a_slow_statement_of_a_server_that_talks_goes_on(engine: Engine, line: Line) -> None:
    assert ask(engine, "SELECT 7 FROM pg_sleep(1)") == 7
    assert line.greeted == 2  # its own connection, and the proof that the server talks


def test_a_statement_ends_when_its_server_falls_silent(engine: Engine, line: Line) -> None:
    ask(engine)
    threading.Timer(0.1, line.talks.clear).start()

    assert_refused(engine, "SELECT pg_sleep(30)")


def test_a_silent_server_is_tried_by_one_thread_and_refused_to_the_others_at_once(
    engine: Engine, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql, "PAUSE", 600.0)
    ask(engine)
    line.talks.clear()
    assert_refused(engine)
    heard = line.greeted, line.said

    for _ in range(20):
        assert_refused(engine)

    assert (line.greeted, line.said) == heard


def test_a_server_that_talks_again_is_used_again(engine: Engine, line: Line) -> None:
    ask(engine)
    line.talks.clear()
    assert_refused(engine)

    line.talks.set()
    time.sleep(PAUSE)

    assert [ask(engine) for _ in range(3)] == [1, 1, 1]


def test_a_server_that_refuses_is_not_silent(postgres_server: str, engine: Engine) -> None:
    url = engine.url.set(database="nothing_of_this_name")
    nowhere = sa.create_engine(url, **engine_options(url, pool_size=1, timeout=TIMEOUT))
    configure_engine(nowhere, timeout=TIMEOUT)

    for _ in range(3):
        with pytest.raises(OperationalError, match="does not exist") as raised:
            ask(nowhere)
        assert not isinstance(raised.value.orig, ServerSilent)
    nowhere.dispose()


def test_who_waits_less_than_a_greeting_may_take_says_nothing_about_the_server(
    engine: Engine, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql, "PAUSE", 600.0)
    line.talks.clear()
    with time_limit(0.05):
        assert_refused(engine)

    line.talks.set()

    assert ask(engine) == 1


def test_a_host_that_vanished_does_not_keep_its_locks(engine: Engine) -> None:
    assert ask(engine, "SHOW idle_in_transaction_session_timeout") == "1min"
    assert ask(engine, "SHOW statement_timeout") == f"{TIMEOUT // 60}min"


LEVEL = sa.text("SHOW transaction_isolation")


def test_a_read_costs_one_message(engine: Engine, line: Line) -> None:
    ask(engine)
    before = line.said

    for _ in range(3):
        with Session(engine) as session:
            begin_read(session)
            assert session.scalar(sa.text("SELECT 1")) == 1

    assert line.said - before == 3


def test_a_connection_comes_back_with_transactions_of_the_default_level(engine: Engine) -> None:
    with Session(engine) as session:
        begin_read(session)
        session.execute(sa.text("SELECT 1"))
    with Session(engine) as session:
        assert session.scalar(LEVEL) == "read committed"
        assert not session.connection().connection.dbapi_connection.autocommit
        session.execute(sa.text("CREATE TABLE undone (id int)"))
    with Session(engine) as session:
        assert session.scalar(sa.text("SELECT to_regclass('undone')")) is None
