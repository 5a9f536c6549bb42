"""A backup taken under load serves what was acknowledged; one that fails leaves nothing."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient, FlaskCliRunner

from tests.conftest import Backend, app_on
from tests.faults import only_sqlite
from tests.faults.load import Client, InProcess, Ledger, train_default
from tests.faults.losses import find_broken, find_lost
from tests.faults.volumes import MEGABYTE, can_mount, small_volume
from tests.gunicorn_server import ROOT, running_gunicorn
from tests.postgres import server_binaries
from webapp.extensions import db

COMMANDS = re.findall(r"^\$ (.*)$", (ROOT / "docs/operations.md").read_text(), re.M)


def command(*words: str) -> str:
    """Return the one command of docs/operations.md that holds all these words."""
    (found,) = (line for line in COMMANDS if all(word in line for word in words))
    return found


def run_flask(line: str, url: str) -> None:
    """Run a `flask` command of the docs on a database."""
    with app_on(url) as app:
        result = app.test_cli_runner().invoke(args=shlex.split(line)[1:])
    assert result.exit_code == 0, result.output


def make_copy(backend: Backend, source: str, folder: Path, *, in_container: bool) -> str:
    """Back a database up by docs/operations.md, and restore it; return the URL of the copy."""
    if backend.name == "sqlite":
        target = folder / f"{in_container}.db"
        run_flask(command("flask backup").replace("webapp-backup.db", str(target)), source)
        return f"sqlite:///{target}"
    copy, url = backend.make_empty(), sa.make_url(source)
    path = os.pathsep.join([str(server_binaries()), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "DATABASE_URL": source, "RESTORED_URL": copy}
    environment |= {"PGHOST": str(url.host), "PGPORT": str(url.port)}
    for tool, database, word in (
        ("pg_dump", source, "DATABASE_URL"),
        ("pg_restore", copy, "RESTORED_URL"),
    ):
        line = command("docker compose exec", tool) if in_container else command(tool, word)
        name = str(sa.make_url(database).database)
        for old, new in {
            "docker compose exec -T db ": "",
            "--username=webapp": f"--username={url.username}",
            "--dbname=webapp": f"--dbname={name}",
            " webapp >": f" {name} >",
        }.items():
            line = line.replace(old, new)
        subprocess.run(["bash", "-c", line], cwd=folder, env=environment, check=True, timeout=60)
    return copy


@pytest.mark.slow
@pytest.mark.skipif(
    "TEST_DATABASE_URL" in os.environ, reason="pg_dump must not be older than the server"
)
def test_a_backup_taken_under_load_serves_what_was_acknowledged(
    backend: Backend, database_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if backend.name == "postgresql" and not (server_binaries() / "pg_dump").exists():
        pytest.skip("there is no pg_dump beside the server's binaries")
    ledger, stopped = Ledger(), threading.Event()

    def write_until_stopped(url: str) -> None:
        for first in itertools.count(step=20):
            if stopped.is_set():
                return
            ledger.write_many(lambda: Client(url, kept=False), range(first, first + 20))

    with (
        running_gunicorn(database_url, tmp_path / "log", WEB_CONCURRENCY="2") as server,
        ThreadPoolExecutor(1) as pool,
    ):
        train_default(server.url)
        writing = pool.submit(write_until_stopped, server.url)
        while len(ledger.items) < 20 or not ledger.versions:
            time.sleep(0.01)
        before = Ledger(dict(ledger.items), dict(ledger.versions))
        copies = [
            make_copy(backend, database_url, tmp_path, in_container=in_container)
            for in_container in (False, True)
        ]
        stopped.set()
        writing.result()

    for copy in copies:
        run_flask("flask db upgrade", copy)
        with app_on(copy) as app, app.app_context():
            assert find_lost(InProcess(app), before) == []
            assert find_broken(db.engine) == []
        backend.drop(copy)
    assert "Running upgrade" not in caplog.text


def assert_one_line(runner: FlaskCliRunner, words: str, *arguments: str) -> None:
    """Run a backup that must fail with one clear line."""
    result = runner.invoke(args=["backup", *arguments])

    assert result.exit_code == 1
    assert words in result.output
    assert result.output.count("\n") == 1


@only_sqlite
def test_a_backup_is_one_file_that_can_be_served_from_where_nothing_can_be_written(
    runner: FlaskCliRunner, client: FlaskClient, tmp_path: Path
) -> None:
    client.post("/api/v1/items", json={"name": "kept"})
    target = tmp_path / "copy.db"
    target.write_text("mine")
    assert_one_line(runner, "--force", str(target))
    assert target.read_text() == "mine"

    result = runner.invoke(args=["backup", "--force", str(target)])

    assert result.exit_code == 0
    assert f"{target.stat().st_size:,} bytes" in result.stdout
    assert list(tmp_path.iterdir()) == [target]
    with sqlite3.connect(f"{target.as_uri()}?mode=ro&immutable=1", uri=True) as copy:
        assert copy.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        assert copy.execute("SELECT name FROM item").fetchall() == [("kept",)]
    copy.close()


@only_sqlite
@pytest.mark.parametrize(
    ("prepare", "target", "words"),
    [
        (lambda *_: None, "the database", "is the database itself"),
        (lambda path, database: path.symlink_to(database), "link.db", "is the database itself"),
        (
            lambda path, _: Path(f"{path}-wal").write_bytes(b"frames of another"),
            "copy.db",
            "copy.db-wal is in the way",
        ),
        (lambda *_: None, "none/copy.db", "No such file or directory."),
    ],
)
def test_a_target_that_would_harm_or_be_harmed_is_refused(
    runner: FlaskCliRunner,
    client: FlaskClient,
    tmp_path: Path,
    database_url: str,
    prepare: Callable[[Path, Path], object],
    target: str,
    words: str,
) -> None:
    client.post("/api/v1/items", json={"name": "kept"})
    database = Path(str(sa.make_url(database_url).database))
    path = database if target == "the database" else tmp_path / target
    prepare(path, database)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}

    assert_one_line(runner, words, "--force", str(path))

    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before
    assert client.get("/api/v1/items").json[0]["name"] == "kept"


@only_sqlite
@pytest.mark.skipif(not can_mount(), reason="mounts a small volume, which only root may")
def test_a_full_disk_ends_with_one_line_and_leaves_nothing(runner: FlaskCliRunner) -> None:
    with small_volume(size=MEGABYTE // 16) as volume:
        assert_one_line(runner, "no room", str(volume / "copy.db"))
        assert list(volume.iterdir()) == []


@only_sqlite
@pytest.mark.parametrize("damage", ["half of the file", "a row"])
def test_a_damaged_database_makes_no_backup(
    app: Flask, client: FlaskClient, tmp_path: Path, database_url: str, damage: str
) -> None:
    path = Path(str(sa.make_url(database_url).database))
    client.post("/api/v1/ml/train", json={"X": [[1], [2]], "y": [3, 4]})
    for number in range(50):
        client.post("/api/v1/items", json={"name": str(number), "description": "d" * 10_000})
    with app.app_context():
        db.engine.dispose()  # brings the log into the file
    if damage == "half of the file":
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2].ljust(len(content), b"\xff"))
    else:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA ignore_check_constraints = ON")
            connection.execute("UPDATE model_version SET number = 0")

    assert_one_line(app.test_cli_runner(), "damaged", str(tmp_path / "copy.db"))

    assert list(tmp_path.iterdir()) == []


def test_no_tables_make_no_backup(backend: Backend, empty_database: str, tmp_path: Path) -> None:
    words = "flask db upgrade" if backend.name == "sqlite" else "pg_dump"
    with app_on(empty_database) as app:
        assert_one_line(app.test_cli_runner(), words, str(tmp_path / "copy.db"))

    assert list(tmp_path.iterdir()) == []


def test_for_postgresql_the_command_is_shown_without_the_password(tmp_path: Path) -> None:
    url = "postgresql://me:s3cret@db.example:5433/webapp?sslmode=require&password=s3cret"
    shown = (
        f"pg_dump --format=custom '--file={tmp_path / 'my copy.dump'}' "
        "'postgresql://me@db.example:5433/webapp?sslmode=require'"
    )

    with app_on(url) as app:
        assert_one_line(app.test_cli_runner(), f"{shown}\n", str(tmp_path / "my copy.dump"))
