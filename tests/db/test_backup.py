"""A backup taken under load serves what was acknowledged; one that fails leaves nothing."""

from __future__ import annotations

import os
import re
import shlex
import sqlite3
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient, FlaskCliRunner

from tests.conftest import Backend, dispose_app, make_app
from tests.faults import only_postgresql, only_sqlite
from tests.faults.load import InProcess, Ledger, serving, train_default
from tests.faults.losses import find_broken, find_differences, find_lost
from tests.faults.volumes import MEGABYTE, can_mount, small_volume
from tests.gunicorn_server import ROOT
from tests.postgres import server_binaries
from webapp.extensions import db

COMMANDS = re.findall(r"^\$ (.*)$", (ROOT / "docs/operations.md").read_text(), re.M)


def command(*words: str) -> str:
    """Return the one command of docs/operations.md that holds all these words."""
    (found,) = (line for line in COMMANDS if all(word in line for word in words))
    return found


def run(line: str, folder: Path, **variables: str) -> None:
    """Run a command of the docs in a folder, with PostgreSQL's tools at hand."""
    path = os.pathsep.join([str(server_binaries()), os.environ["PATH"]])
    result = subprocess.run(
        ["bash", "-c", line],
        cwd=folder,
        env={**os.environ, "PATH": path, **variables},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr


def run_flask(line: str, url: str) -> None:
    """Run a `flask` command of the docs on a database."""
    app = make_app(url)
    result = app.test_cli_runner().invoke(args=shlex.split(line)[1:])
    dispose_app(app)
    assert result.exit_code == 0, result.output


def make_copy(backend: Backend, url: str, folder: Path, name: str) -> str:
    """Back a database up by docs/operations.md, and restore it; return the URL of the copy."""
    if backend.name == "sqlite":
        target = folder / name
        run_flask(command("flask backup").replace("webapp-backup.db", str(target)), url)
        return f"sqlite:///{target}"
    empty = backend.make_empty()
    for line in (command("pg_dump", "DATABASE_URL"), command("pg_restore", "RESTORED_URL")):
        run(line.replace("webapp.dump", name), folder, DATABASE_URL=url, RESTORED_URL=empty)
    return empty


@pytest.fixture(scope="session")
def tools(backend: Backend) -> None:
    """Skip where PostgreSQL's tools are older than the server: they refuse to copy it."""
    if backend.server_url is None:
        return
    if not (server_binaries() / "pg_dump").exists():
        pytest.skip("there is no pg_dump beside the server's binaries")
    said = subprocess.check_output([server_binaries() / "pg_dump", "--version"], text=True)
    url = sa.make_url(backend.server_url).set(drivername="postgresql+psycopg2")
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        server = connection.dialect.server_version_info
    engine.dispose()
    if int(re.findall(r"\d+", said)[0]) < server[0]:
        pytest.skip("pg_dump is older than the server")


@pytest.mark.slow
@pytest.mark.usefixtures("tools")
def test_a_backup_taken_under_load_serves_what_was_acknowledged(
    backend: Backend, database_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = Ledger()
    with (
        # SQLite is locked by processes; PostgreSQL does not mind who writes.
        serving(database_url, tmp_path / "log", workers=backend.name == "sqlite") as connect,
        ThreadPoolExecutor(1) as pool,
    ):
        train_default(connect())
        writing = pool.submit(ledger.write_many, connect, range(400))
        while len(ledger.items) < 20 or not ledger.versions:
            time.sleep(0.01)
        before = Ledger(dict(ledger.items), dict(ledger.versions))
        under_load = make_copy(backend, database_url, tmp_path, "under-load")
        assert writing.running()
    at_rest = make_copy(backend, database_url, tmp_path, "at-rest")

    first, last = make_app(under_load), make_app(at_rest)
    assert find_lost(InProcess(first), before) == []
    assert find_lost(InProcess(last), ledger) == []
    with first.app_context():
        assert find_broken(db.engine) == []
    with last.app_context():
        assert find_differences(ledger, db.engine) == []
    dispose_app(first)
    dispose_app(last)
    run_flask("flask db upgrade", at_rest)
    assert "Running upgrade" not in caplog.text
    backend.drop(under_load)
    backend.drop(at_rest)


@only_postgresql  # as Docker's database is
@pytest.mark.usefixtures("tools")
def test_what_the_docs_run_in_the_container_restores_as_well(
    backend: Backend, client: FlaskClient, database_url: str, tmp_path: Path
) -> None:
    client.post("/api/v1/items", json={"name": "kept"})
    url, empty = sa.make_url(database_url), backend.make_empty()
    server = {"HOST": url.host, "PORT": url.port, "PASSWORD": url.password}
    variables = {f"PG{name}": str(value or "") for name, value in server.items()}

    for words, database in (("pg_dump", database_url), ("pg_restore", empty)):
        line = command("docker compose exec", words).removeprefix("docker compose exec -T db ")
        name = str(sa.make_url(database).database)
        for old, new in (
            ("--username=webapp", f"--username={url.username}"),
            ("--dbname=webapp", f"--dbname={name}"),
            (" webapp >", f" {name} >"),
        ):
            line = line.replace(old, new)
        run(line, tmp_path, **variables)

    copy = make_app(empty)
    assert [item["name"] for item in copy.test_client().get("/api/v1/items").json] == ["kept"]
    dispose_app(copy)
    backend.drop(empty)


@only_sqlite
def test_a_backup_is_one_file_that_can_be_served_from_where_nothing_can_be_written(
    runner: FlaskCliRunner, client: FlaskClient, tmp_path: Path
) -> None:
    client.post("/api/v1/items", json={"name": "kept"})
    target = tmp_path / "copy.db"
    target.write_text("mine")

    result = runner.invoke(args=["backup", "--force", str(target)])

    assert result.exit_code == 0
    assert f"{target.stat().st_size:,} bytes" in result.stdout
    assert list(tmp_path.iterdir()) == [target]
    with sqlite3.connect(f"{target.as_uri()}?mode=ro&immutable=1", uri=True) as copy:
        assert copy.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        assert copy.execute("SELECT name FROM item").fetchall() == [("kept",)]
    copy.close()


def assert_one_line(runner: FlaskCliRunner, words: str, *arguments: str) -> None:
    """Run a backup that must fail with one clear line."""
    result = runner.invoke(args=["backup", *arguments])

    assert result.exit_code == 1
    assert words in result.output
    assert result.output.count("\n") == 1


@only_sqlite
@pytest.mark.parametrize(
    ("prepare", "target", "options", "words"),
    [
        (lambda database, target: target.write_text("mine"), "copy.db", [], "--force"),
        (lambda database, target: None, "..", ["--force"], "is the database itself"),
        (
            lambda database, target: target.symlink_to(database),
            "link.db",
            ["--force"],
            "is the database itself",
        ),
        (
            lambda database, target: Path(f"{target}-wal").write_bytes(b"frames of another"),
            "copy.db",
            ["--force"],
            "copy.db-wal is in the way",
        ),
        (lambda database, target: None, "none/copy.db", [], "No such file or directory."),
    ],
)
def test_a_target_that_would_harm_or_be_harmed_is_refused(
    runner: FlaskCliRunner,
    client: FlaskClient,
    tmp_path: Path,
    database_url: str,
    prepare: Callable[[Path, Path], object],
    target: str,
    options: list[str],
    words: str,
) -> None:
    client.post("/api/v1/items", json={"name": "kept"})
    database = Path(str(sa.make_url(database_url).database))
    path = database if target == ".." else tmp_path / target
    prepare(database, path)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}

    assert_one_line(runner, words, *options, str(path))

    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before
    assert client.get("/api/v1/items").json[0]["name"] == "kept"


@only_sqlite
@pytest.mark.skipif(not can_mount(), reason="mounts a small volume, which only root may")
def test_a_full_disk_ends_with_one_line_and_leaves_nothing(runner: FlaskCliRunner) -> None:
    with small_volume(size=MEGABYTE // 16) as volume:
        assert_one_line(runner, "no room", str(volume / "copy.db"))
        assert list(volume.iterdir()) == []


@only_sqlite
def test_a_damaged_database_makes_no_backup(
    app: Flask, runner: FlaskCliRunner, client: FlaskClient, tmp_path: Path, database_url: str
) -> None:
    path = Path(str(sa.make_url(database_url).database))
    for number in range(50):
        client.post("/api/v1/items", json={"name": str(number), "description": "d" * 10_000})
    with app.app_context():
        db.engine.dispose()  # brings the log into the file
    content = bytearray(path.read_bytes())
    content[-8192:-4096] = b"\xff" * 4096
    path.write_bytes(content)

    assert_one_line(runner, "damaged", str(tmp_path / "copy.db"))

    assert list(tmp_path.iterdir()) == []


def test_a_database_without_tables_makes_no_backup(
    backend: Backend, empty_database: str, tmp_path: Path
) -> None:
    app = make_app(empty_database)
    words = "flask db upgrade" if backend.name == "sqlite" else "pg_dump"

    assert_one_line(app.test_cli_runner(), words, str(tmp_path / "copy.db"))

    dispose_app(app)
    assert list(tmp_path.iterdir()) == []


def test_for_postgresql_the_command_is_shown_without_the_password(tmp_path: Path) -> None:
    app = make_app("postgresql://me:s3cret@db.example:5433/webapp?sslmode=require&password=s3cret")
    shown = (
        f"pg_dump --format=custom '--file={tmp_path / 'my copy.dump'}' "
        "'postgresql://me@db.example:5433/webapp?sslmode=require'"
    )

    assert_one_line(app.test_cli_runner(), f"{shown}\n", str(tmp_path / "my copy.dump"))

    dispose_app(app)
