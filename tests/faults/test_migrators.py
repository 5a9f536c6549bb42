"""Replicas that migrate one database at once, and migrators that are killed on the way."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys

import pytest
import sqlalchemy as sa
from flask_migrate import upgrade

from tests.conftest import Backend, dispose_app, make_app, table_names
from tests.faults import scaled
from tests.faults.kill_points import run_and_kill, upgrade_schema
from tests.faults.record import Record
from tests.gunicorn_server import ROOT
from webapp.db.base import Base
from webapp.extensions import db

pytestmark = pytest.mark.slow

REVISIONS = sorted(ROOT.glob("migrations/versions/*.py"))


def test_replicas_that_start_at_once_migrate_once(backend: Backend, record: Record) -> None:
    rounds = scaled(1, 5)
    command = [sys.executable, "-m", "flask", "db", "upgrade"]
    for _ in range(rounds):
        url = backend.make_empty()
        environment = {**os.environ, "DATABASE_URL": url, "APP_ENV": "testing"}

        replicas = [
            subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
            for _ in range(3)
        ]
        logs = [replica.communicate(timeout=60)[1] for replica in replicas]

        backend.drop(url)
        assert [replica.returncode for replica in replicas] == [0, 0, 0], logs
        assert sum(log.count("Running upgrade") for log in logs) == len(REVISIONS)
    record("three replicas migrate at once", rounds, rounds, 0)


def test_a_killed_migrator_leaves_neither_a_lock_nor_half_a_schema(
    backend: Backend, record: Record
) -> None:
    # SQLite changes a table by making it anew: it passes four times as many boundaries.
    step = scaled(33, 4) if backend.name == "postgresql" else scaled(130, 16)
    kills, broken = 0, []
    for boundary in itertools.count(3, step):
        url = backend.make_empty()
        killed = run_and_kill(upgrade_schema, boundary, url)
        app = make_app(url)

        with app.app_context():
            left = set(sa.inspect(db.engine).get_table_names())
            whole = not left or table_names() == set(Base.metadata.tables)
            upgrade()
            whole = whole and table_names() == set(Base.metadata.tables)

        dispose_app(app)
        backend.drop(url)
        if not whole:
            broken.append(f"boundary {boundary} left {left}")
        if not killed:
            break
        kills += 1
    record("migrator killed at a statement", kills, kills - len(broken), len(broken))
    assert broken == []
    assert kills >= scaled(3, 20)
