"""Jobs that are submitted until they are acknowledged, and what has become of them."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from tests.conftest import app_on
from tests.faults.load import FAILURES, ML, Client
from tests.faults.losses import find_broken
from tests.faults.record import Record
from webapp.extensions import db

MODEL = f"{ML}/models/queued"
ENDED = {"succeeded", "failed", "cancelled"}
SETTLED_WITHIN = 180.0  # seconds


def forest(trees: int) -> dict[str, Any]:
    """Return a training whose time grows with the trees: 100 take half a second."""
    X = [[row * column**2 % 503 for column in range(1, 7)] for row in range(1000)]
    rows = {"X": X, "y": [sum(row) for row in X], "estimator": "random_forest"}
    return {**rows, "params": {"n_estimators": trees}}


@dataclass
class Submissions:
    """The jobs of a service that were acknowledged."""

    url: str
    jobs: list[int] = field(default_factory=list)

    def submit(self, rows: dict[str, Any]) -> int:
        """Submit a training until it is acknowledged, once; return the number of its job."""
        key = f"job-{len(self.jobs)}"
        while True:
            with suppress(*FAILURES), Client(self.url, kept=False) as client:
                headers = {"Prefer": "respond-async", "Idempotency-Key": key}
                answer = client.call("POST", f"{MODEL}/train", rows, **headers)
                if answer.status == 202:
                    self.jobs.append(answer.body["id"])
                    return self.jobs[-1]
                # Whoever was killed may still hold the key, or the database is away.
                assert answer.status in (409, 503), answer.body
            time.sleep(0.2)

    def look(self, job: int) -> dict[str, Any]:
        """Return a job as the service shows it, as soon as it does."""
        return dict(self._get(f"{ML}/jobs/{job}"))

    def running(self) -> list[dict[str, Any]]:
        """Return the jobs that run."""
        return list(self._get(f"{ML}/jobs?status=running"))

    def settle(self, database_url: str, record: Record, what: str) -> list[dict[str, Any]]:
        """Wait for the end of all jobs, and return them; fail if one was lost, or done twice."""
        deadline = time.monotonic() + SETTLED_WITHIN
        while unfinished := [n for n in self.jobs if self.look(n)["status"] not in ENDED]:
            assert time.monotonic() < deadline, [self.look(number) for number in unfinished]
            time.sleep(0.5)
        ended = [self.look(number) for number in self.jobs]
        made = sorted(job["result"]["version"] for job in ended if job["status"] == "succeeded")
        silent = [job for job in ended if job["status"] == "failed" and "problem" not in job]
        versions = self._get(f"{MODEL}/versions?page_size=1000") if made else []
        stored = sorted(version["version"] for version in versions)
        wrong = len(set(made) ^ set(stored)) + len(made) - len(set(made)) + len(silent)
        record(f"{what}: jobs", len(ended), len(ended) - wrong, wrong)
        with app_on(database_url) as app, app.app_context():
            broken = find_broken(db.engine)
        assert made == stored
        assert (silent, broken) == ([], [])
        return ended

    def _get(self, path: str) -> Any:
        while True:
            with suppress(*FAILURES), Client(self.url, kept=False) as client:
                answer = client.call("GET", path)
                if answer.status == 200:
                    return answer.body
                assert answer.status == 503, answer.body
            time.sleep(0.2)


def count_failures(jobs: Iterable[dict[str, Any]]) -> int:
    """Count the jobs that failed, each because its process died."""
    failed = [job["problem"]["detail"] for job in jobs if job["status"] == "failed"]
    assert all("died" in detail for detail in failed), failed
    return len(failed)
