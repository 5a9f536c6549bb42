"""Jobs in the database: submit, claim, renew, finish, cancel, list.

A process that works on a job holds a *claim*: a token in its row, and a time until which it
counts. The result is stored in the transaction that ends the job, and only by the holder of the
claim: both are committed together or not at all, and never twice.
"""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session, undefer

from webapp.audit.service import current_actor, record
from webapp.db.base import (
    Page,
    begin_read,
    begin_write,
    fetch_page,
    keep_nothing,
    take_turns,
    utc_now,
)
from webapp.jobs.errors import JobEnded, JobLost, JobNotFound, JobNotRepeatable, QueueFull
from webapp.jobs.models import CANCELLED, FAILED, QUEUED, RUNNING, Job

CLAIM = timedelta(seconds=15)
MOST_ATTEMPTS = 2
SUBMISSIONS = 7_306_912  # the number of their lock
MOST_SWEPT = 100  # old jobs that are deleted at a time
DIED = "the process that worked on it died"
FROM_REQUEST = "what it needs came with a request that waited, and is not kept"


@dataclass(frozen=True)
class Claim:
    """The right to work on a job while its row has this token."""

    id: int
    token: str


@dataclass(frozen=True)
class Order:
    """What is asked for.

    ``options`` are JSON, to be shown; ``payload`` is what the work needs. ``holder`` is the id of
    who asks, "" where nobody needs a key.
    """

    kind: str
    model: str
    options: Mapping[str, Any]
    payload: bytes
    holder: str = ""


@dataclass(frozen=True)
class QueueLimits:
    """How many jobs may wait, in all and of one holder, and what all payloads may take."""

    jobs: int
    of_holder: int
    payload_bytes: int


def submit(
    session: Session,
    order: Order,
    *,
    limits: QueueLimits,
    before_commit: Callable[[Job], object] = keep_nothing,
) -> Job:
    """Put a job into the queue, its payload with it; raises QueueFull."""
    begin_write(session)
    take_turns(session, SUBMISSIONS)  # so that nobody counts before another's job is there
    queued = sa.select(sa.func.count()).select_from(Job).where(Job.status == QUEUED)
    of_holder = queued.where(Job.holder == order.holder)
    _free_payloads(session, limits.payload_bytes - len(order.payload))
    stored = sa.select(sa.func.sum(Job.payload_size)).where(Job.payload.is_not(None))
    if (session.scalar(queued) or 0) >= limits.jobs:
        raise QueueFull(f"As many jobs as may wait are waiting: {limits.jobs}.")
    if (session.scalar(of_holder) or 0) >= limits.of_holder:
        raise QueueFull(f"As many jobs of yours as may wait are waiting: {limits.of_holder}.")
    if (session.scalar(stored) or 0) + len(order.payload) > limits.payload_bytes:
        raise QueueFull("The rows and files of jobs take as much of the database as they may.")
    job = _make(order, payload=order.payload)
    session.add(job)
    session.flush()
    record(session, "job.submit", f"model {order.model}", {"job": job.id, "kind": order.kind})
    before_commit(job)
    session.commit()
    return job


def _free_payloads(session: Session, most: int) -> None:
    """Drop what failed jobs keep to be done again, the oldest first, where all take more."""
    kept = sa.select(Job.id, Job.payload_size, Job.status).where(Job.payload.is_not(None))
    rows = session.execute(kept.order_by(Job.id)).all()
    excess = sum(size for _, size, _ in rows) - most
    for number, size, status in rows:
        if excess > 0 and status == FAILED:
            # On PostgreSQL, it may just be put back into the queue.
            still = sa.and_(Job.id == number, Job.status == FAILED)
            session.execute(sa.update(Job).where(still).values(payload=None))
            excess -= size


def submit_waiting(session: Session, order: Order) -> Claim:
    """Note a job that is done for a request that waits; its payload stays with that."""
    begin_write(session)
    job = _make(order, payload=None)
    session.add(job)
    session.flush()
    claim = _claim(job)
    session.commit()
    return claim


def start(session: Session, claim: Claim) -> None:
    """Note that a job runs; raises JobLost."""
    _update(session, claim, status=RUNNING, started_at=utc_now(), attempts=Job.attempts + 1)
    session.commit()


def claim_next(
    session: Session,
    kinds: Collection[str],
    *,
    note_failed: Callable[[Job], object] = keep_nothing,
) -> tuple[Job, Claim] | None:
    """Claim the job of some kinds that has waited longest, with its payload; None for none.

    Jobs whose process died are among them; those that it happened to twice fail, and
    ``note_failed`` is called with each.
    """
    now = utc_now()
    while True:
        begin_write(session)
        job = session.scalar(
            sa.select(Job)
            .where(_waits(kinds, now))
            .order_by(Job.id)
            .limit(1)
            .with_for_update(skip_locked=True)
            .options(undefer(Job.payload))
        )
        if job is None:
            session.commit()
            return None
        if job.payload is not None and job.attempts < MOST_ATTEMPTS:
            claim = _claim(job)
            job.status, job.started_at, job.progress = RUNNING, now, None
            job.attempts += 1
            session.commit()
            return job, claim
        again = job.payload is not None
        detail = f"{DIED} {job.attempts} times" if again else f"{DIED}; {FROM_REQUEST}"
        _end(
            job,
            FAILED,
            problem={"title": "Service Unavailable", "status": 503, "detail": detail},
        )
        session.commit()
        note_failed(job)


def has_waiting(session: Session, kinds: Collection[str]) -> bool:
    """Return whether a job of some kinds waits for a process, or has lost its own."""
    begin_read(session)
    return bool(session.scalar(sa.select(sa.exists().where(_waits(kinds, utc_now())))))


def renew(session: Session, claim: Claim, progress: Mapping[str, Any] | None) -> None:
    """Keep a claim, and note how far the job is; raises JobLost."""
    _update(session, claim, claimed_until=utc_now() + CLAIM, progress=progress)
    session.commit()


def finish(
    session: Session,
    claim: Claim,
    status: str,
    *,
    result: Mapping[str, Any] | None = None,
    problem: Mapping[str, Any] | None = None,
    progress: Mapping[str, Any] | None = None,
    keep_payload: bool = False,
) -> None:
    """End a job in the session's current transaction; the caller commits. Raises JobLost."""
    values = {"status": status, "result": result, "problem": problem, "finished_at": utc_now()}
    if progress is not None:
        values["progress"] = progress
    if not keep_payload:
        values["payload"] = None
    _update(session, claim, begin=False, **values, token=None, claimed_until=None)


def give_back(session: Session, claim: Claim, *, counts: bool = True) -> None:
    """Put a job back into the queue; raises JobLost. ``counts``: whether as a failed attempt."""
    attempts = Job.attempts if counts else Job.attempts - 1
    values: dict[str, Any] = {"status": QUEUED, "attempts": attempts, "progress": None}
    values |= {"token": None, "claimed_until": None, "started_at": None}
    _update(session, claim, **values)
    session.commit()


def cancel(session: Session, number: int, *, holder: str | None = None) -> Job:
    """Cancel a job: nothing of it is stored any more, and its process ends within two seconds.

    Raises JobNotFound, also for a job of another ``holder``, and JobEnded.
    """
    begin_write(session)
    job = _get(session, number, holder, lock=True)
    if job.status not in (QUEUED, RUNNING):
        raise JobEnded(number, job.status)
    _end(job, CANCELLED)
    record(session, "job.cancel", f"model {job.model}", {"job": number})
    session.commit()
    return job


def retry(session: Session, number: int) -> Job:
    """Put a job whose process died back into the queue.

    Raises JobNotFound and JobNotRepeatable.
    """
    begin_write(session)
    job = _get(session, number, None, lock=True)
    has_payload = session.scalar(sa.select(Job.payload.is_not(None)).where(Job.id == number))
    if job.status != FAILED:
        raise JobNotRepeatable(number, f"it is {job.status}")
    if not has_payload:
        raise JobNotRepeatable(number, "what it needs is kept only where a process died")
    job.status, job.attempts, job.problem, job.finished_at = QUEUED, 0, None, None
    record(session, "job.retry", f"model {job.model}", {"job": number})
    session.commit()
    return job


def get_job(session: Session, number: int, *, holder: str | None = None) -> Job:
    """Return a job; raises JobNotFound, also for a job of another ``holder``."""
    begin_read(session)
    return _get(session, number, holder)


def list_jobs(
    session: Session,
    *,
    page: int,
    page_size: int,
    status: str | None = None,
    holder: str | None = None,
) -> Page[Job]:
    """Return one page of the jobs, or of those with a status or of a holder, the latest first."""
    begin_read(session)
    query = sa.select(Job).order_by(Job.id.desc())
    if status is not None:
        query = query.where(Job.status == status)
    if holder is not None:
        query = query.where(Job.holder == holder)
    return fetch_page(session, query, number=page, size=page_size)


def count_jobs(session: Session) -> tuple[int, int, float]:
    """Return how many jobs are queued and running, and for how many seconds the first waits."""
    begin_read(session)
    counts = sa.select(Job.status, sa.func.count(), sa.func.min(Job.created_at))
    rows = session.execute(counts.where(Job.status.in_([QUEUED, RUNNING])).group_by(Job.status))
    found = {status: (count, first) for status, count, first in rows}
    queued, running = (found[status][0] if status in found else 0 for status in (QUEUED, RUNNING))
    waited = (utc_now() - found[QUEUED][1]).total_seconds() if queued else 0.0
    return queued, running, max(waited, 0.0)


def delete_old(session: Session, *, keep: timedelta) -> bool:
    """Delete some of the jobs that ended longer ago than they are kept; return if any are left."""
    begin_write(session)
    old = sa.select(Job.id).where(Job.finished_at < utc_now() - keep).limit(MOST_SWEPT)
    found = session.scalars(old.with_for_update(skip_locked=True)).all()
    session.execute(sa.delete(Job).where(Job.id.in_(found)))
    session.commit()
    return len(found) == MOST_SWEPT


def _waits(kinds: Collection[str], now: datetime) -> sa.ColumnElement[bool]:
    """Return the condition that a job waits for a process, or has lost its own."""
    waits = sa.and_(Job.status == QUEUED, Job.payload.is_not(None))
    lost = sa.and_(Job.status.in_([QUEUED, RUNNING]), Job.claimed_until < now)
    return sa.and_(Job.kind.in_(list(kinds)), sa.or_(waits, lost))


def _make(order: Order, payload: bytes | None) -> Job:
    actor = current_actor()
    return Job(
        kind=order.kind,
        model=order.model,
        options=dict(order.options),
        payload=payload,
        payload_size=0 if payload is None else len(payload),
        created_at=utc_now(),
        created_by=actor.name,
        holder=order.holder,
        request_id=actor.request_id,
    )


def _claim(job: Job) -> Claim:
    job.token, job.claimed_until = uuid.uuid4().hex, utc_now() + CLAIM
    job.claimed_by = f"{socket.gethostname()}:{os.getpid()}"[:128]
    return Claim(job.id, job.token)


def _update(session: Session, claim: Claim, *, begin: bool = True, **values: Any) -> None:
    if begin:
        begin_write(session)
    held = sa.and_(Job.id == claim.id, Job.token == claim.token)
    changed = session.execute(sa.update(Job).where(held).values(values))
    if changed.rowcount != 1:  # type: ignore[attr-defined] # the result of an UPDATE has it
        raise JobLost


def _end(job: Job, status: str, problem: dict[str, Any] | None = None) -> None:
    job.status, job.problem, job.finished_at = status, problem, utc_now()
    job.token = job.claimed_until = None
    if status == CANCELLED:
        job.payload = None


def _get(session: Session, number: int, holder: str | None, *, lock: bool = False) -> Job:
    query = sa.select(Job).where(Job.id == number)
    job = session.scalar(query.with_for_update() if lock else query)
    if job is None or holder not in (None, job.holder):
        raise JobNotFound(number)
    return job
