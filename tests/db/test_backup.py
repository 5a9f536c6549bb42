"""A backup taken under load serves what was acknowledged; one that fails leaves nothing."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import shlex
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient, FlaskCliRunner

from tests.conftest import Backend, dispose_app, make_app
from tests.faults import only_postgresql, only_sqlite
from tests.faults.load import Connect, create_item, serving
from tests.faults.volumes import MEGABYTE, can_mount, small_volume
from tests.gunicorn_server import ROOT
from tests.postgres import server_binaries
from webapp.db.base import Base
from webapp.extensions import db

COMMANDS = re.findall(r"^\$ (.*)$", (ROOT / "docs/operations.md").read_text(), re.M)
ROW = [0.5, 2.0]


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


def run_flask(line: str, url: str) -> str:
    """Run a `flask` command of the docs on a database; return what it prints."""
    app = make_app(url)
    result = app.test_cli_runner().invoke(args=shlex.split(line)[1:])
    dispose_app(app)
    assert result.exit_code == 0, result.output
    return result.output


@contextmanager
def writers(connect: Connect) -> Iterator[list[int]]:
    """Create items and train models until the block ends; yields the ids of what was created."""
    stop, items = threading.Event(), list[int]()

    def create() -> None:
        client = connect()
        while not stop.is_set():
            answer = create_item(client, "written under load", "d" * 2_000)
            assert answer.status == 201, answer
            items.append(answer.body["id"])

    def train() -> None:
        client = connect()
        for count in itertools.count(1):
            rows = {"X": [[1, 2], [3, 5], [4, count]], "y": [count, 2, 3]}
            answer = client.call("POST", f"/api/v1/ml/models/m{count % 3}/train", rows)
            assert answer.status == 201, answer
            if stop.wait(0.2):
                break

    threads = [threading.Thread(target=job) for job in (create, create, train)]
    for thread in threads:
        thread.start()
    try:
        yield items
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def count_rows(app: Flask) -> dict[str, int]:
    with app.app_context(), db.engine.connect() as connection:
        return {
            table.name: connection.scalar(sa.select(sa.func.count()).select_from(table))
            for table in Base.metadata.sorted_tables
        }


def describe(app: Flask) -> dict[str, object]:
    """Return what a service serves: its models, each version with its digest and prediction."""
    client, described = app.test_client(), {}
    for model in client.get("/api/v1/ml/models").json:
        path = f"/api/v1/ml/models/{model['name']}"
        described[path] = client.post(f"{path}/predict", json={"features": ROW}).json
        for version in client.get(f"{path}/versions?page_size=1000").json:
            one = f"{path}/versions/{version['version']}"
            predicted = client.post(f"{one}/predict", json={"features": ROW}).json["prediction"]
            data = client.get(f"{one}/artifact").data
            described[one] = (version["digest"], hashlib.sha256(data).hexdigest(), predicted)
    return described


def make_copy(backend: Backend, url: str, folder: Path, name: str) -> str:
    """Back a database up by docs/operations.md, and restore it; return the URL of the copy."""
    if backend.name == "sqlite":
        target = folder / name
        run_flask(command("flask backup").replace("webapp-backup.db", str(target)), url)
        return f"sqlite:///{target}"
    empty = backend.make_empty()
    urls = {"DATABASE_URL": url, "RESTORED_URL": empty}
    dump = command("pg_dump", "DATABASE_URL").replace("webapp.dump", name)
    restore = command("pg_restore", "RESTORED_URL").replace("webapp.dump", name)
    run(dump, folder, **urls)
    run(restore, folder, **urls)
    return empty


@pytest.fixture(scope="session")
def tools(backend: Backend) -> None:
    """Skip where the tools are older than the server: they refuse to copy it."""
    if backend.server_url is None:
        return
    if not (server_binaries() / "pg_dump").exists():
        pytest.skip("there is no pg_dump beside the server's binaries")
    said = subprocess.check_output([server_binaries() / "pg_dump", "--version"], text=True)
    engine = sa.create_engine(
        sa.make_url(backend.server_url).set(drivername="postgresql+psycopg2")
    )
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
    with (
        # SQLite is locked by processes; PostgreSQL does not mind who writes.
        serving(database_url, tmp_path / "log", workers=backend.name == "sqlite") as connect,
        writers(connect) as items,
    ):
        while len(items) < 50:
            threading.Event().wait(0.01)
        acknowledged = set(items)
        under_load = make_copy(backend, database_url, tmp_path, "under-load")
        by_then = len(items)
    at_rest = make_copy(backend, database_url, tmp_path, "at-rest")

    original, copy, last = map(make_app, (database_url, under_load, at_rest))
    with copy.app_context():
        present = set(db.session.scalars(sa.text("SELECT id FROM item")).all())
    counts, served = count_rows(original), describe(original)
    assert acknowledged <= present
    assert len(present) <= by_then + 2  # each writer may have one that is not answered yet
    of_copy = describe(copy)
    versions = [path for path in of_copy if "/versions/" in path]
    assert versions
    assert all(of_copy[path] == served[path] for path in versions)
    assert all(digest == found for digest, found, _ in map(of_copy.get, versions))
    assert count_rows(last) == counts
    assert describe(last) == served
    for app in (original, copy, last):
        dispose_app(app)
    run_flask("flask db upgrade", at_rest)
    assert "Running upgrade" not in caplog.text
    if backend.name == "postgresql":
        backend.drop(under_load)
        backend.drop(at_rest)


@only_postgresql  # as Docker's database is
@pytest.mark.usefixtures("tools")
def test_what_the_docs_run_in_the_container_restores_as_well(
    backend: Backend, app: Flask, client: FlaskClient, database_url: str, tmp_path: Path
) -> None:
    client.post("/api/v1/items", json={"name": "kept"})
    url = sa.make_url(database_url)
    server = {
        "PGHOST": str(url.host or ""),
        "PGPORT": str(url.port or ""),
        "PGPASSWORD": str(url.password or ""),
    }
    empty = backend.make_empty()

    for words, database in (("pg_dump", database_url), ("pg_restore", empty)):
        line = command("docker compose exec", words).removeprefix("docker compose exec -T db ")
        name = str(sa.make_url(database).database)
        line = line.replace("--username=webapp", f"--username={url.username}")
        line = line.replace("--dbname=webapp", f"--dbname={name}").replace(
            " webapp >", f" {name} >"
        )
        run(line, tmp_path, **server)

    copy = make_app(empty)
    assert [item["name"] for item in copy.test_client().get("/api/v1/items").json] == ["kept"]
    dispose_app(copy)
    backend.drop(empty)


def left_in(folder: Path) -> set[str]:
    """Return the names in a folder, without those of the tests' database."""
    return {path.name for path in folder.iterdir()}


@only_sqlite
def test_a_backup_is_one_file_that_can_be_served_from_where_nothing_can_be_written(
    runner: FlaskCliRunner, client: FlaskClient, tmp_path: Path
) -> None:
    client.post("/api/v1/items", json={"name": "kept"})
    target = tmp_path / "copy.db"

    result = runner.invoke(args=["backup", str(target)])

    assert result.exit_code == 0
    assert f"{target.stat().st_size:,} bytes" in result.stdout
    assert left_in(tmp_path) == {"copy.db"}
    with sqlite3.connect(f"{target.as_uri()}?mode=ro&immutable=1", uri=True) as copy:
        assert copy.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        assert copy.execute("SELECT name FROM item").fetchall() == [("kept",)]
    copy.close()


@only_sqlite
def test_an_existing_file_is_overwritten_by_force_only(
    runner: FlaskCliRunner, tmp_path: Path
) -> None:
    target = tmp_path / "copy.db"
    target.write_text("mine")

    refused = runner.invoke(args=["backup", str(target)])
    kept = target.read_text()
    forced = runner.invoke(args=["backup", "--force", str(target)])

    assert (refused.exit_code, forced.exit_code) == (1, 0)
    assert "--force" in refused.output
    assert refused.output.count("\n") == 1
    assert kept == "mine"
    assert target.read_bytes().startswith(b"SQLite format 3")


@only_sqlite
def test_the_database_itself_is_no_target(
    runner: FlaskCliRunner, client: FlaskClient, tmp_path: Path, database_url: str
) -> None:
    client.post("/api/v1/items", json={"name": "kept"})
    path, link = Path(str(sa.make_url(database_url).database)), tmp_path / "link.db"
    link.symlink_to(path)

    for target in (path, link):
        result = runner.invoke(args=["backup", "--force", str(target)])

        assert result.exit_code == 1
        assert "is the database itself" in result.output
    assert client.get("/api/v1/items").json[0]["name"] == "kept"


@only_sqlite
def test_a_log_of_another_database_would_spoil_the_copy(
    runner: FlaskCliRunner, tmp_path: Path
) -> None:
    (tmp_path / "copy.db-wal").write_bytes(b"frames of a database that was here before")

    result = runner.invoke(args=["backup", "--force", str(tmp_path / "copy.db")])

    assert result.exit_code == 1
    assert "copy.db-wal is in the way" in result.output
    assert left_in(tmp_path) == {"copy.db-wal"}


@only_sqlite
@pytest.mark.skipif(not can_mount(), reason="mounts a small volume, which only root may")
def test_a_full_disk_ends_with_one_line_and_leaves_nothing(runner: FlaskCliRunner) -> None:
    with small_volume(size=MEGABYTE // 16) as volume:
        result = runner.invoke(args=["backup", str(volume / "copy.db")])
        left = left_in(volume)

    assert result.exit_code == 1
    assert "no room" in result.output
    assert result.output.count("\n") == 1
    assert left == set()


@only_sqlite
def test_a_folder_that_is_not_there_is_one_clear_line(
    runner: FlaskCliRunner, tmp_path: Path
) -> None:
    result = runner.invoke(args=["backup", str(tmp_path / "none" / "copy.db")])

    assert result.exit_code == 1
    assert "cannot be written: No such file or directory." in result.output
    assert result.output.count("\n") == 1


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

    result = runner.invoke(args=["backup", str(tmp_path / "copy.db")])

    assert result.exit_code == 1
    assert "damaged" in result.output
    assert left_in(tmp_path) == set()


def test_a_database_without_tables_makes_no_backup(
    backend: Backend, empty_database: str, tmp_path: Path
) -> None:
    app = make_app(empty_database)

    result = app.test_cli_runner().invoke(args=["backup", str(tmp_path / "copy.db")])

    dispose_app(app)
    assert result.exit_code == 1
    assert ("flask db upgrade" if backend.name == "sqlite" else "pg_dump") in result.output
    assert not list(tmp_path.iterdir())


def test_for_postgresql_the_command_is_shown_without_the_password(tmp_path: Path) -> None:
    app = make_app("postgresql://me:s3cret@db.example:5433/webapp?sslmode=require&password=s3cret")

    result = app.test_cli_runner().invoke(args=["backup", str(tmp_path / "my copy.dump")])

    dispose_app(app)
    assert result.exit_code == 1
    assert result.output.count("\n") == 1
    assert "s3cret" not in result.output
    assert (
        f"pg_dump --format=custom '--file={tmp_path / 'my copy.dump'}' "
        "'postgresql://me@db.example:5433/webapp?sslmode=require'" in result.output
    )
