"""Processes that kill themselves at a chosen statement boundary.

As a program it imports the application once, and then forks a child for each order that it
reads: a line of JSON on standard input, answered by the child's exit code on standard output. It
keeps no connection and no thread of its own, so that a child starts as a fresh process does.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent


class KillPoints:
    """A process whose children do one thing each, and die at a boundary of our choice.

    Boundaries are the moments before and after each statement, and before and after each commit,
    counted from 1.
    """

    def __init__(self, log: Path) -> None:
        self._log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.kill_points"],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
            )

    def run(self, task: str, kill_at: int, **arguments: Any) -> bool:
        """Do a task in a child; say whether it was killed before it was done."""
        assert self._process.stdin
        assert self._process.stdout
        order = {"task": task, "kill_at": kill_at, "arguments": arguments}
        print(json.dumps(order), file=self._process.stdin, flush=True)
        status = int(self._process.stdout.readline())
        assert status in (0, -signal.SIGKILL), self._log.read_text()
        return status != 0

    def close(self) -> None:
        """End the process."""
        with self._process:
            pass


def kill_at_boundary(engine: Any, number: int) -> None:
    """Have this process killed at a boundary of the statements that an engine will run."""
    from sqlalchemy import event

    passed, commit = 0, engine.dialect.do_commit

    def pass_boundary(*_: object) -> None:
        nonlocal passed
        passed += 1
        if passed == number:
            os.kill(os.getpid(), signal.SIGKILL)

    def commit_between_boundaries(connection: Any) -> None:
        pass_boundary()
        commit(connection)
        pass_boundary()

    engine.dialect.do_commit = commit_between_boundaries
    event.listen(engine, "before_cursor_execute", pass_boundary)
    event.listen(engine, "after_cursor_execute", pass_boundary)


def send_request(app: Any, arm: Callable[[], None], *, method: str, path: str, json: Any) -> None:
    """Send one request to the application."""
    arm()
    response = app.test_client().open(path, method=method, json=json)
    assert response.status_code < 300, response.text


def upload_copy(app: Any, arm: Callable[[], None], *, model: str, number: int) -> None:
    """Upload what was downloaded of a version as the model's next one, and activate it."""
    client = app.test_client()
    versions = f"/api/v1/ml/models/{model}/versions"
    artifact = client.get(f"{versions}/{number}/artifact").data
    arm()
    form = {"artifact": (io.BytesIO(artifact), "model.skops"), "activate": "true"}
    response = client.post(versions, data=form)
    assert response.status_code == 201, response.text


def upgrade_schema(app: Any, arm: Callable[[], None]) -> None:
    """Bring the schema to its newest revision."""
    from flask_migrate import upgrade

    with app.app_context():
        arm()
        upgrade()


def do_task(task: str, kill_at: int, arguments: dict[str, Any]) -> None:
    """Do what an order says, up to its boundary."""
    from tests.conftest import dispose_app, make_app
    from webapp.extensions import db

    app = make_app(arguments.pop("database_url"))

    def arm() -> None:
        with app.app_context():
            kill_at_boundary(db.engine, kill_at)

    globals()[task](app, arm, **arguments)
    dispose_app(app)


def main() -> None:
    """Fork a child for each order, and answer with how it ended."""
    for library in ("skops.io", "sklearn.linear_model", "sklearn.model_selection"):
        importlib.import_module(library)  # or each child would
    importlib.import_module("tests.conftest")
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                do_task(**json.loads(line))
                os._exit(0)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
