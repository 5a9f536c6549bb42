"""Jobs over HTTP and at the command line: queued, watched, cancelled, taken up again."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient, FlaskCliRunner
from sqlalchemy.orm import Session

from tests.access.holders import bearer, make_holder
from tests.faults import on_sqlite
from tests.gunicorn_server import wait_until
from tests.jobs.test_processes import LIMITS, die, fail, take_memory
from tests.observability.test_metrics import parse
from webapp.audit.service import list_entries
from webapp.db.base import utc_now
from webapp.errors import DatabaseUnavailable, StorageFull
from webapp.extensions import db
from webapp.jobs import service
from webapp.jobs.models import Job
from webapp.jobs.runner import POLL, Runner
from webapp.scopes import Scope

pytestmark = pytest.mark.processes

ROWS = {"X": [[1, 2, 3], [4, 5, 6], [7, 8, 10]], "y": [10, 20, 33]}
LATER = {"Prefer": "respond-async"}
DEADLINE = 30.0  # seconds
SLOW = {
    "X": [[i % 97, i % 89, i % 83] for i in range(5000)],
    "y": [i % 79 for i in range(5000)],
    "estimator": "random_forest",
    "params": {"n_estimators": 1000, "min_samples_leaf": 5},
}


@pytest.fixture
def queue(app: Flask) -> Iterator[Runner]:
    """Return what works off the queue of the application."""
    found: Runner = app.extensions["jobs"]
    found.start()
    yield found
    found.close()


def submit(client: FlaskClient, rows: Any = ROWS, name: str = "default") -> str:
    response = client.post(f"/api/v1/ml/models/{name}/train", json=rows, headers=LATER)
    assert response.status_code == 202, response.text
    return str(response.headers["Location"])


def wait_for(client: FlaskClient, url: str, *statuses: str) -> Any:
    end = time.monotonic() + DEADLINE
    while (job := client.get(url, headers={"Prefer": "wait=1"}).json)["status"] not in statuses:
        assert time.monotonic() < end, job
    return job


def test_a_training_that_is_not_waited_for_becomes_a_version(
    client: FlaskClient, queue: Runner
) -> None:
    response = client.post("/api/v1/ml/train", json=ROWS, headers=LATER)

    assert response.headers["Preference-Applied"] == "respond-async"
    assert response.json["status"] == "queued"
    job = wait_for(client, response.headers["Location"], "succeeded")
    version = client.get(job["result"]["url"]).json
    assert version["version"] == job["result"]["version"] == 1
    assert version["metrics"]["r2_score"] == job["result"]["metrics"]["r2_score"]
    assert job["attempts"] == 1
    assert job["created_at"] <= job["started_at"] <= job["finished_at"]
    predicted = client.post("/api/v1/ml/predict", json={"features": [1, 2, 3]})
    assert predicted.json["model"]["version"] == 1


def test_a_training_that_is_waited_for_is_a_job_too(client: FlaskClient) -> None:
    assert client.post("/api/v1/ml/train", json=ROWS).status_code == 201
    refused = client.post("/api/v1/ml/train", json={**ROWS, "y": [1, 2, 1e300], "cv": 2})

    failed, done = client.get("/api/v1/ml/jobs").json
    assert (done["status"], done["result"]["version"]) == ("succeeded", 1)
    assert (failed["status"], refused.status_code) == ("failed", 422)
    assert failed["problem"]["detail"] in refused.json["detail"]
    assert failed["problem"]["status"] == 422


def test_what_cannot_be_fitted_fails_with_the_reason_that_a_request_would_have_had(
    client: FlaskClient, queue: Runner
) -> None:
    url = submit(client, {**ROWS, "y": [1, 2, 1e300], "cv": 2})

    job = wait_for(client, url, "failed")
    assert job["problem"]["status"] == 422
    assert job["problem"]["errors"]
    assert client.get("/api/v1/ml/models").json == []


def test_jobs_are_listed_the_latest_first_and_by_status(client: FlaskClient) -> None:
    urls = [submit(client) for _ in range(3)]
    client.delete(urls[1])

    listed = client.get("/api/v1/ml/jobs?page_size=2")
    assert [job["id"] for job in listed.json] == [3, 2]
    assert json.loads(listed.headers["X-Pagination"])["total"] == 3
    assert [job["id"] for job in client.get("/api/v1/ml/jobs?status=cancelled").json] == [2]


def test_a_job_is_cancelled_before_it_begins_and_only_once(client: FlaskClient) -> None:
    url = submit(client)

    assert client.delete(url).status_code == 204
    assert client.get(url).json["status"] == "cancelled"
    assert client.delete(url).status_code == 409
    with client.application.app_context():
        assert db.session.get_one(Job, 1).payload is None


def test_a_job_that_runs_is_cancelled_and_stores_nothing(
    client: FlaskClient, queue: Runner
) -> None:
    url = submit(client, SLOW)
    wait_for(client, url, "running")

    assert client.delete(url).status_code == 204
    after = wait_for(client, submit(client), "succeeded")  # its process is free again
    assert after["result"]["version"] == 1
    assert client.get(url).json["status"] == "cancelled"


@pytest.mark.databases("sqlite")
def test_a_job_shows_how_many_trees_have_grown(client: FlaskClient, queue: Runner) -> None:
    url = submit(client, SLOW)
    seen: list[int] = []
    end = time.monotonic() + DEADLINE
    while len(set(seen)) < 3:
        assert time.monotonic() < end, seen
        progress = client.get(url).json["progress"]
        if progress is not None:
            assert (progress["total"], progress["unit"]) == (1000, "trees")
            seen.append(progress["done"])
        time.sleep(0.1)

    client.delete(url)
    assert seen == sorted(seen)
    assert all(done % 100 == 0 for done in seen)  # a tenth at a time


def test_an_answer_to_a_submission_is_repeated_by_its_key(client: FlaskClient) -> None:
    headers = {**LATER, "Idempotency-Key": "once"}
    first, second = (client.post("/api/v1/ml/train", json=ROWS, headers=headers) for _ in range(2))

    assert (first.status_code, second.status_code) == (202, 202)
    assert first.headers["Location"] == second.headers["Location"]
    assert second.headers["Idempotency-Replayed"] == "true"
    assert len(client.get("/api/v1/ml/jobs").json) == 1


@pytest.mark.parametrize("limit", ["JOB_QUEUE", "JOB_QUEUE_OF_KEY", "JOB_QUEUE_MB"])
def test_a_full_queue_refuses_with_the_time_to_come_back(own_app: Flask, limit: str) -> None:
    own_app.config[limit] = 1
    client = own_app.test_client()
    wide = {"X": [list(range(500))] * 200, "y": list(range(200))}  # 0.8 MB
    submit(client, wide)

    refused = client.post("/api/v1/ml/train", json=wide, headers=LATER)
    assert refused.status_code == 503
    assert int(refused.headers["Retry-After"]) > 0
    assert client.post("/api/v1/ml/train", json=ROWS).status_code == 201  # it does not wait


def test_what_failed_jobs_keep_makes_room_for_others(own_app: Flask) -> None:
    own_app.config["JOB_QUEUE_MB"] = 1
    client = own_app.test_client()
    wide = {"X": [list(range(500))] * 200, "y": list(range(200))}  # 0.8 MB
    submit(client, wide)
    with own_app.app_context():
        for _ in range(service.MOST_ATTEMPTS):
            service.claim_next(db.session(), ["train"])
            expire(own_app, 1)
        service.claim_next(db.session(), ["train"])  # it fails
        assert service.retry(db.session(), 1).status == "queued"
        job = db.session.get_one(Job, 1)
        job.status = "failed"
        db.session.commit()

        submit(client, wide)
        with pytest.raises(service.JobNotRepeatable):
            service.retry(db.session(), 1)


def test_of_many_submissions_at_once_no_more_are_taken_than_may_wait(own_app: Flask) -> None:
    own_app.config["JOB_QUEUE"] = 2
    taken: list[int] = []

    def ask() -> None:
        answer = own_app.test_client().post("/api/v1/ml/train", json=ROWS, headers=LATER)
        taken.append(answer.status_code)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(taken) == [202] * 2 + [503] * 6


def expire(app: Flask, number: int) -> None:
    """Let a job look as if its process had died a while ago."""
    with app.app_context():
        job = db.session.get_one(Job, number)
        job.claimed_until = utc_now() - timedelta(seconds=1)
        db.session.commit()


def test_a_job_whose_process_died_is_taken_up_once_more(app: Flask, client: FlaskClient) -> None:
    submit(client)
    with app.app_context():
        for attempt in (1, 2):
            found = service.claim_next(db.session(), ["train"])
            assert found is not None
            job, claim = found
            assert (job.attempts, job.status) == (attempt, "running")
            assert service.claim_next(db.session(), ["train"]) is None
            expire(app, 1)
        assert service.claim_next(db.session(), ["train"]) is None
        with pytest.raises(service.JobLost):
            service.renew(db.session(), claim, None)
    job = client.get("/api/v1/ml/jobs/1").json
    assert (job["status"], job["problem"]["status"]) == ("failed", 503)
    assert "died 2 times" in job["problem"]["detail"]


def test_who_lost_a_claim_can_end_nothing(app: Flask, client: FlaskClient) -> None:
    submit(client)
    with app.app_context():
        first = service.claim_next(db.session(), ["train"])
        expire(app, 1)
        second = service.claim_next(db.session(), ["train"])
        assert first is not None
        assert second is not None
        with pytest.raises(service.JobLost):
            service.finish(db.session(), first[1], "succeeded")
        db.session.rollback()
        service.finish(db.session(), second[1], "succeeded")
        db.session.commit()
    assert client.get("/api/v1/ml/jobs/1").json["status"] == "succeeded"


def test_of_many_that_claim_at_once_each_gets_another_job(app: Flask, client: FlaskClient) -> None:
    for _ in range(6):
        submit(client)
    claimed: list[int] = []
    with app.app_context():
        engine = db.engine

    def claim() -> None:
        for _ in range(2):
            with Session(engine) as session:
                found = service.claim_next(session, ["train"])
                assert found is not None
                claimed.append(found[0].id)

    threads = [threading.Thread(target=claim) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == [1, 2, 3, 4, 5, 6]


def test_jobs_that_ended_long_ago_are_deleted(app: Flask, client: FlaskClient) -> None:
    client.post("/api/v1/ml/train", json=ROWS)
    submit(client)
    with app.app_context():
        service.delete_old(db.session(), keep=timedelta(days=1))
        assert [job["id"] for job in client.get("/api/v1/ml/jobs").json] == [2, 1]
        service.delete_old(db.session(), keep=timedelta(0))
    assert [job["id"] for job in client.get("/api/v1/ml/jobs").json] == [2]


def test_operators_list_show_cancel_and_retry(
    app: Flask, client: FlaskClient, runner: FlaskCliRunner
) -> None:
    for _ in range(2):
        submit(client)

    def run(*arguments: str) -> Any:
        return runner.invoke(args=["jobs", *arguments])

    assert run("cancel", "2").exit_code == 0
    titles, latest, _, count = run("list").output.splitlines()
    assert latest[titles.index("status") :].startswith("cancelled ")
    assert count == "2 of 2 jobs"
    queued = json.loads(run("list", "--status", "queued", "--json").output)
    assert [job["id"] for job in queued] == [1]
    assert "it is queued" in run("retry", "1").output
    assert "cannot be done again" in run("retry", "2").output
    with app.app_context():
        for _ in range(3):
            service.claim_next(db.session(), ["train"])
            expire(app, 1)
        service.claim_next(db.session(), ["train"])
    assert json.loads(run("show", "1").output)["status"] == "failed"
    assert run("retry", "1").exit_code == 0
    assert json.loads(run("show", "1").output)["attempts"] == 0


def test_a_worker_that_stops_leaves_its_jobs_to_others(client: FlaskClient, queue: Runner) -> None:
    url = submit(client, SLOW)
    wait_for(client, url, "running")

    queue.close()
    job = client.get(url).json
    assert (job["status"], job["attempts"]) == ("queued", 0)


@pytest.mark.parametrize("slow", ["claim_next", "kind.prepare"])
def test_a_worker_that_stops_as_it_begins_a_job_leaves_it_to_others(
    client: FlaskClient, queue: Runner, monkeypatch: pytest.MonkeyPatch, slow: str
) -> None:
    claimed = threading.Event()
    kind = queue.kinds["train"]

    def slowly(original: Any, *arguments: Any, **named: Any) -> Any:
        answer = original(*arguments, **named)
        if answer is not None:
            claimed.set()
            time.sleep(POLL + 0.5)  # until the thread of the queue has looked whether it must end
        return answer

    if slow == "claim_next":
        monkeypatch.setattr(service, slow, partial(slowly, service.claim_next))
    else:
        changed = replace(kind, prepare=partial(slowly, kind.prepare))
        monkeypatch.setattr(queue, "kinds", {"train": changed})
    url = submit(client)
    assert claimed.wait(DEADLINE)

    queue.close()

    job = client.get(url).json
    assert (job["status"], job["attempts"]) == ("queued", 0)


def test_a_worker_that_stops_stores_what_is_done(
    client: FlaskClient, queue: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, may_store = threading.Event(), threading.Event()
    kind = queue.kinds["train"]

    def store(*arguments: Any) -> Any:
        done.set()
        assert may_store.wait(DEADLINE)
        return kind.store(*arguments)

    monkeypatch.setattr(queue, "kinds", {"train": replace(kind, store=store)})
    url = submit(client)
    assert done.wait(DEADLINE)

    threading.Timer(0.5, may_store.set).start()
    queue.close()

    assert client.get(url).json["status"] == "succeeded"


@on_sqlite
def test_a_worker_that_stops_in_an_outage_leaves_what_is_done_to_others(
    client: FlaskClient, queue: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = threading.Event()

    def store(*_: Any) -> Any:
        done.set()
        raise DatabaseUnavailable

    changed = replace(queue.kinds["train"], store=store)
    monkeypatch.setattr(queue, "kinds", {"train": changed})
    url = submit(client)
    assert done.wait(DEADLINE)

    queue.close()

    job = client.get(url).json
    assert (job["status"], job["attempts"]) == ("queued", 0)


@on_sqlite
def test_what_is_done_waits_for_room_longer_than_a_claim_lasts(
    client: FlaskClient, queue: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "CLAIM", timedelta(seconds=2 * POLL))
    kind, missing = queue.kinds["train"], [StorageFull] * 5

    def store(*arguments: Any) -> Any:
        if missing:
            raise missing.pop()
        return kind.store(*arguments)

    monkeypatch.setattr(queue, "kinds", {"train": replace(kind, store=store)})

    job = wait_for(client, submit(client), "succeeded")
    assert (job["result"]["version"], job["attempts"]) == (1, 1)


def count_jobs(client: FlaskClient) -> dict[str, float]:
    """Return how many jobs have ended how, and how many were taken up again."""
    found = parse(client.get("/metrics").text)
    counts = {key[-1]: n for key, n in found.items() if key[0] == "webapp_jobs_total" and n}
    return {**counts, "again": found["webapp_jobs_taken_up_again_total", "train"]}


def test_every_job_is_counted_once_by_how_it_ended(own_app: Flask) -> None:
    client = own_app.test_client()
    client.post("/api/v1/ml/train", json=ROWS)
    client.post("/api/v1/ml/train", json={**ROWS, "y": [1, 2, 1e300], "cv": 2})
    for _ in range(2):
        url = submit(client)
    client.delete(url)
    submit(client, {**ROWS, "y": [1, 2, 1e300], "cv": 2})
    with own_app.app_context():
        claimed = service.claim_next(db.session(), ["train"])
    assert claimed is not None
    expire(own_app, claimed[0].id)
    last = submit(client)
    found = parse(client.get("/metrics").text)
    assert (found["webapp_jobs_queued",], found["webapp_jobs_running",]) == (2, 1)
    assert found["webapp_oldest_queued_job_seconds",] > 0

    own_app.extensions["jobs"].start()
    wait_for(client, last, "succeeded")
    expected = {"succeeded": 3, "refused": 2, "cancelled": 1, "again": 1}
    wait_until(lambda: count_jobs(client) == expected, DEADLINE)


def test_the_audit_says_who_asked_for_what_the_queue_has_made(guarded: Flask) -> None:
    client = guarded.test_client()
    key = bearer(make_holder(guarded, "ann", Scope.ML_TRAIN, Scope.ML_ADMIN))
    sent = client.post(
        "/api/v1/ml/train", json=ROWS, headers={**key, **LATER, "X-Request-ID": "asked"}
    )
    client.delete("/api/v1/ml/jobs/1", headers={**key, "X-Request-ID": "not-now"})
    client.post("/api/v1/ml/train", json=ROWS, headers={**key, **LATER, "X-Request-ID": "again"})
    guarded.extensions["jobs"].start()
    wait_until(
        lambda: client.get("/api/v1/ml/jobs/2", headers=key).json["status"] == "succeeded",
        DEADLINE,
    )

    assert sent.status_code == 202
    with guarded.app_context():
        page = list_entries(db.session(), page=1, page_size=10, subject="model default")
        found = [(entry.action, entry.actor, entry.request_id) for entry in page.objects]
    assert found == [
        ("version.train", "ann", "again"),
        ("job.submit", "ann", "again"),
        ("job.cancel", "ann", "not-now"),
        ("job.submit", "ann", "asked"),
    ]


@on_sqlite
@pytest.mark.parametrize(
    ("work", "status", "attempts"), [(take_memory, 422, 1), (die, 503, 2), (fail, 500, 1)]
)
def test_work_that_does_not_end_well_fails_its_job_alone(
    client: FlaskClient, queue: Runner, work: Any, status: int, attempts: int
) -> None:
    kind = queue.kinds["train"]
    broken = replace(kind, work=work, prepare=lambda *_: (), limit=lambda _: LIMITS)
    queue.kinds = {"train": broken}
    job = wait_for(client, submit(client), "failed")
    queue.kinds = {"train": kind}

    assert (job["problem"]["status"], job["attempts"]) == (status, attempts)
    assert wait_for(client, submit(client), "succeeded")["result"]["version"] == 1


@on_sqlite
def test_a_job_waits_for_a_database_that_goes_away_as_it_begins_and_as_it_ends(
    client: FlaskClient, queue: Runner
) -> None:
    kind, missing = queue.kinds["train"], {"prepare": 1, "store": 2}

    def be_away(step: str, *arguments: Any) -> Any:
        if missing[step]:
            missing[step] -= 1
            raise DatabaseUnavailable
        return getattr(kind, step)(*arguments)

    steps = {step: partial(be_away, step) for step in missing}
    queue.kinds = {"train": replace(kind, **steps)}

    job = wait_for(client, submit(client), "succeeded")
    assert (job["result"]["version"], job["attempts"]) == (1, 2)
