"""What tests share: both databases, an application, its client, its commands, a session."""

from __future__ import annotations

import os

# As in gunicorn's workers, and before NumPy is imported: several threads of OpenMP on cores that
# are busy with other tests wait for each other most of the time.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import io
import json
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient, FlaskCliRunner
from flask_migrate import upgrade
from sqlalchemy.orm import Session
from werkzeug.test import TestResponse

from config import SETTINGS
from tests.faults import FULL
from tests.faults.attacks import Cost
from tests.faults.record import (
    ATTACK,
    PROPERTY,
    Record,
    RecordAttack,
    format_attacks,
    format_table,
)
from tests.ports import hold_port, port_of
from tests.postgres import server_for_tests
from webapp import create_app, register_jobs, register_model_server
from webapp.db.base import Base
from webapp.extensions import db
from webapp.items.models import TEXT_INDEX
from webapp.jobs.processes import Call, ProcessFailed, Task, TaskExecutor

# What the person at the keyboard has set must not change what the tests see.
for _setting in SETTINGS:
    os.environ.pop(_setting.name, None)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what the tests of faults have found, whichever process ran them."""
    everything = [report for reports in terminalreporter.stats.values() for report in reports]
    tests = [report for report in everything if isinstance(report, pytest.TestReport)]
    for title, table in {"faults": format_table(tests), "attacks": format_attacks(tests)}.items():
        if table:
            terminalreporter.section(title)
            terminalreporter.write("\n".join([*table, ""]))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that needs a database on both, or on the one that its mark `databases` names.

    With FAULTS=full it is slow and runs on both all the same, unless its mark says ``only``.
    """
    marks = metafunc.definition.iter_markers("parametrize")
    if "backend" not in metafunc.fixturenames or any("backend" in mark.args[0] for mark in marks):
        return
    databases = ["sqlite", "postgresql"]
    if mark := metafunc.definition.get_closest_marker("databases"):
        if FULL and "only" not in mark.kwargs:
            databases = [pytest.param(name, marks=pytest.mark.slow) for name in databases]
        else:
            databases = list(mark.args)
    metafunc.parametrize("backend", databases, indirect=True)


LONG = ("test_browser.py", "test_journey.py", "test_dask.py", "test_readme.py", "test_traces.py")


def pytest_xdist_auto_num_workers() -> int:
    """Return how many processes run tests: these wait for servers, leases and each other.

    With three on two cores, 1.2 cores were busy.
    """
    return 2 * len(os.sched_getaffinity(0))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest: at the end, one process would do it while the others wait."""
    items.sort(key=lambda item: item.path.name not in LONG)


class Client(FlaskClient):
    """A client that closes the file in which Werkzeug keeps a form of more than 500 kB."""

    def open(self, *args: Any, **kwargs: Any) -> TestResponse:
        """Send a request and return its answer."""
        response = super().open(*args, **kwargs)
        sent = response.request.environ["wsgi.input"]
        if isinstance(sent, io.BufferedRandom):
            sent.close()
        return response


class Inline(TaskExecutor):
    """Does work in a thread of this process, as a child would.

    Processes of their own for 4,000 trainings and uploads would take two minutes of two cores.
    """

    processes = 1

    def _wait(self, task: Task, begin: Callable[[], Call]) -> dict[str, Any]:
        task.begin()
        call = begin()

        def report(done: int, total: int | None, unit: str) -> None:
            task.progress = {"done": done, "total": total, "unit": unit}

        try:
            answer = call.work(report, *call.arguments)
        except MemoryError:
            raise ProcessFailed("memory") from None
        parts = {name: value for name, value in answer.items() if isinstance(value, bytes)}
        others = {name: value for name, value in answer.items() if name not in parts}
        return {**json.loads(json.dumps(others)), **parts}


inline = True


@pytest.fixture(autouse=True)
def _processes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let tests with the mark `processes` do work in child processes."""
    if request.node.get_closest_marker("processes"):
        monkeypatch.setattr(sys.modules[__name__], "inline", False)


def _choose_executors(app: Flask) -> None:
    if inline and app.config["TRAINING_ENGINE"] == "local":
        app.extensions["jobs"].executor = app.extensions["uploads"].executor = Inline()


def make_app(database_url: str, **overrides: object) -> Flask:
    """Return an application for tests; whoever makes one calls ``dispose_app``."""
    app = create_app({"APP_ENV": "testing", "DATABASE_URL": database_url, **overrides})
    app.test_client_class = Client
    _choose_executors(app)
    return app


def table_names() -> set[str]:
    """Return the tables in the application's database that models describe, or should."""
    present = set(sa.inspect(db.engine).get_table_names()) - {"alembic_version", "sqlite_sequence"}
    return {name for name in present if not name.startswith(TEXT_INDEX)}


def dispose_app(app: Flask) -> None:
    """Close the application's connections, and stop its threads."""
    app.extensions["jobs"].close()
    app.extensions["uploads"].close()
    app.extensions["model_server"].close()
    app.extensions["keyring"].close()
    with app.app_context():
        db.engine.dispose()


@contextmanager
def app_on(database_url: str, **overrides: object) -> Iterator[Flask]:
    """Make an application for a block."""
    app = make_app(database_url, **overrides)
    try:
        yield app
    finally:
        dispose_app(app)


def migrate(database_url: str) -> None:
    """Bring a database to the newest revision."""
    with app_on(database_url) as app, app.app_context():
        upgrade()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """URL of a database on a real PostgreSQL server."""
    with server_for_tests() as url:
        yield url


def execute_on_server(server_url: str, statement: str) -> None:
    """Run a statement that must stand outside a transaction."""
    url = sa.make_url(server_url).set(drivername="postgresql+psycopg2")
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.exec_driver_sql(statement)
    engine.dispose()


@dataclass(frozen=True)
class Backend:
    """One of the two databases that every test of a database runs on."""

    name: str
    folder: Path
    server_url: str | None = None

    def make_empty(self) -> str:
        """Return the URL of a new database without any table."""
        name = f"test_{uuid.uuid4().hex}"
        if self.server_url is None:
            return f"sqlite:///{self.folder / name}.db"
        execute_on_server(self.server_url, f"CREATE DATABASE {name}")
        url = sa.make_url(self.server_url).set(database=name)
        return url.render_as_string(hide_password=False)

    def drop(self, url: str) -> None:
        """Remove a database, and whoever is still connected to it."""
        database = sa.make_url(url).database
        if self.server_url is None:
            for path in self.folder.glob(f"{Path(str(database)).name}*"):
                path.unlink()
        else:
            execute_on_server(self.server_url, f"DROP DATABASE {database} WITH (FORCE)")


@pytest.fixture(scope="session")
def backend(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backend:
    """Return each of the two databases in turn."""
    folder = tmp_path_factory.mktemp("databases")
    if request.param == "sqlite":
        return Backend("sqlite", folder)
    return Backend("postgresql", folder, request.getfixturevalue("postgres_server"))


@pytest.fixture
def absent_database() -> Iterator[str]:
    """URL of a database at a port where nothing listens."""
    with hold_port() as held:
        yield f"postgresql://nobody@127.0.0.1:{port_of(held)}/nothing"


@pytest.fixture
def empty_database(backend: Backend) -> Iterator[str]:
    """URL of a database without any table."""
    url = backend.make_empty()
    yield url
    backend.drop(url)


@pytest.fixture(scope="session")
def migrated_database(backend: Backend) -> Iterator[str]:
    """URL of a database at the newest revision, shared by tests that leave rows behind."""
    url = backend.make_empty()
    migrate(url)
    yield url
    backend.drop(url)


@pytest.fixture
def database_url(backend: Backend, migrated_database: str) -> str:
    """URL of a database at the newest revision, without rows."""
    if backend.name == "sqlite":
        copy = backend.folder / "webapp.db"
        for left_over in backend.folder.glob("webapp.db-*"):
            left_over.unlink()
        shutil.copyfile(str(sa.make_url(migrated_database).database), copy)
        return f"sqlite:///{copy}"
    # Of tables with few rows, in 11 ms; TRUNCATE makes new files for each, and takes 60.
    statements = [str(table.delete()) for table in reversed(Base.metadata.sorted_tables)]
    statements.append("SELECT setval(seqrelid::regclass, 1, false) FROM pg_sequence")
    execute_on_server(migrated_database, "; ".join(statements))
    return migrated_database


@cache
def shared_app(database_url: str) -> Flask:
    """Return the application of a database: making one takes longer than most tests."""
    return make_app(database_url)


@pytest.fixture
def app(database_url: str) -> Iterator[Flask]:
    """Return an application on an empty, migrated database, for tests that do not alter it."""
    app = shared_app(database_url)
    register_model_server(app)
    register_jobs(app)
    _choose_executors(app)
    yield app
    dispose_app(app)


@pytest.fixture
def own_app(database_url: str) -> Iterator[Flask]:
    """Return an application that a test may alter."""
    with app_on(database_url) as app:
        yield app


@pytest.fixture
def guarded(database_url: str) -> Iterator[Flask]:
    """Return an application that asks for keys."""
    with app_on(database_url, AUTH="on") as app:
        yield app


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """Return an HTTP client of the application."""
    return app.test_client()


@pytest.fixture
def runner(app: Flask) -> FlaskCliRunner:
    """Return a runner of the application's `flask` commands."""
    return app.test_cli_runner()


@pytest.fixture
def session(app: Flask) -> Iterator[Session]:
    """Return a session of the application's database."""
    with app.app_context(), Session(db.engine, expire_on_commit=False) as session:
        yield session


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Record:
    """Return the function that puts a fault's figures into the table at the end of the run."""
    database = "postgresql"
    if "backend" in request.fixturenames:
        database = request.getfixturevalue("backend").name

    def note(fault: str, tried: int, survived: int, lost: int) -> None:
        # Reports carry the properties from the process that ran the test to the one that prints.
        row = (fault, database, tried, survived, lost)
        request.node.user_properties.append((PROPERTY, row))

    return note


@pytest.fixture
def record_attack(request: pytest.FixtureRequest) -> RecordAttack:
    """Return the function that puts what an attack cost into the table at the end of the run."""

    def note(attack: str, cost: Cost) -> None:
        request.node.user_properties.append((ATTACK, (attack, *astuple(cost))))

    return note
