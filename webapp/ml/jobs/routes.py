"""Routes of jobs: list them, look at one, wait for it, cancel it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from flask import url_for
from flask.views import MethodView

from webapp.extensions import db
from webapp.jobs import service
from webapp.jobs.models import ENDED, QUEUED, Job
from webapp.ml.blueprint import Headers, blp, job_runner
from webapp.ml.jobs.schemas import JobQuery, JobSchema, WaitHeader, find_wait
from webapp.scopes import Scope
from webapp.web.openapi import header
from webapp.web.paging import HEADERS, answer_page
from webapp.web.request import check_client, current_identity

LOOK = 0.25  # seconds between looks at a job that a client waits for


def _visible() -> str | None:
    """Return whose jobs the client may see; None for all."""
    identity = current_identity()
    sees_all = identity is None or Scope.ML_ADMIN in identity.scopes
    return None if sees_all or identity is None else identity.holder_id


def _complete(job: Job) -> Job:
    """Return a job that says what it waits for, and whose result has the URL of the version.

    It is apart from the session then.
    """
    state = job_runner(job.kind).executor.describe_state()
    if job.status == QUEUED and state != "ok":
        job.waits_for = f"training engine, {state}"
    if job.result is not None:
        db.session.expunge(job)
        version = job.result["version"]
        url = url_for("ml.Version", name=job.model, number=version)
        job.result = {**job.result, "url": url}
    return job


@blp.route("/jobs", get="list_jobs")
@blp.allow(Scope.ML_TRAIN, Scope.ML_ADMIN)
@blp.arguments(JobQuery, location="query")
@blp.response(200, JobSchema(many=True), headers=HEADERS)
@blp.problems(503)
def list_jobs(query: Mapping[str, Any]) -> tuple[Sequence[Job], Headers]:
    """List jobs, the latest first.

    A key with the scope `ml:train` sees its holder's own jobs, one with `ml:admin` all.
    """
    page = service.list_jobs(db.session(), holder=_visible(), **query)
    return answer_page(replace(page, objects=[_complete(job) for job in page.objects]))


@blp.route("/jobs/<id:job>", get="get_job", delete="cancel_job")
class OneJob(MethodView):
    """A job."""

    @blp.allow(Scope.ML_TRAIN, Scope.ML_ADMIN)
    @blp.arguments(WaitHeader, location="headers")
    @blp.response(
        200,
        JobSchema,
        headers={"Preference-Applied": header("`wait=…`, if the service has waited.")},
    )
    @blp.problems(404, 503)
    def get(self, headers: Mapping[str, str], job: int) -> tuple[Job, Headers]:
        """Get a job, and how far it is.

        With `Prefer: wait=10`, the answer comes when the job has ended, or after ten seconds;
        that it is further is no reason to answer before.
        """
        seconds, session = find_wait(headers["prefer"]), db.session()
        deadline = time.monotonic() + seconds
        while True:
            found = service.get_job(session, job, holder=_visible())
            if found.status in ENDED or time.monotonic() > deadline:
                break
            session.rollback()  # others need the connection
            check_client()
            time.sleep(LOOK)
        return _complete(found), {"Preference-Applied": f"wait={seconds}"} if seconds else {}

    @blp.allow(Scope.ML_TRAIN, Scope.ML_ADMIN)
    @blp.response(204)
    @blp.problems(404, 409, 503)
    def delete(self, job: int) -> None:
        """Cancel a job.

        Its process is gone within two seconds, and nothing of it is stored.
        """
        job_runner().cancel(db.session(), job, holder=_visible())
