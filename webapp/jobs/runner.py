"""Does jobs: those of requests that wait, and in a thread of its own those in the queue."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy.orm import Session
from werkzeug.exceptions import ClientDisconnected, HTTPException

from webapp.audit.service import Actor, set_actor
from webapp.db.base import begin_write, keep_nothing
from webapp.db.outages import outages_translated
from webapp.errors import ServiceError, Unavailable
from webapp.jobs import service
from webapp.jobs.errors import EngineUnavailable, JobLost, ProcessDied
from webapp.jobs.models import CANCELLED, FAILED, SUCCEEDED, Job
from webapp.jobs.processes import Call, ProcessFailed, ProcessLimits, Task, TaskExecutor, Work
from webapp.jobs.service import Claim, Order
from webapp.jobs.steps import Answer, Steps
from webapp.web.problems import describe_problem

log = logging.getLogger(__name__)

POLL = 1.0  # seconds between looks into the queue, which other hosts fill, too
BEAT = 0.5  # seconds between renewals of a claim; a job that was cancelled ends at the next one
STOP = 5.0  # seconds in which the thread that looks into the queue should end
SWEEP = 600.0  # seconds between deletions of old jobs
AFTER_OUTAGE = 3.0  # seconds in which claims are renewed that could not be meanwhile
REFUSED = "refused"
OUTCOMES = (SUCCEEDED, REFUSED, FAILED, CANCELLED)  # REFUSED: it failed by what was sent

BeforeCommit: TypeAlias = Callable[[Any], object]
Note: TypeAlias = Callable[[str, str, float], object]
"""``note(kind, outcome, seconds)`` is called once for each job that this process has ended."""


@dataclass(frozen=True)
class Kind:
    """A kind of work.

    ``work`` runs in a child process that may take ``limit(order)``, on what
    ``prepare(session, order)`` returns. ``store(session, order, answer, before_commit)`` stores
    its answer in one transaction, in which it calls ``before_commit`` with what it has made, and
    returns that. ``describe(made)`` is what the job shows as its result, in JSON.
    ``explain(order, failure)`` is the error that a child's failure means: the failure itself
    where it cannot say more than that the child died, or had an error.

    Where there are several steps, ``further(steps, answer, order, prepare)`` goes on from the
    answer of the first one, as `Steps` says; ``prepare()`` is what ``prepare`` returns by then.

    Where to begin a job may take longer than the work, ``do_at_once(order)`` returns its answer
    without one, for a request that waits; None where it is too much for the thread of a request.
    """

    work: Work
    limit: Callable[[Order], ProcessLimits]
    prepare: Callable[[Session, Order], tuple[Any, ...]]
    store: Callable[[Session, Order, dict[str, Any], BeforeCommit], Any]
    describe: Callable[[Any], dict[str, Any]]
    explain: Callable[[Order, ProcessFailed], Exception]
    further: Callable[[Steps, Answer, Order, Callable[[], Any]], Answer] | None = None
    do_at_once: Callable[[Order], Answer | None] = keep_nothing


@dataclass(frozen=True, eq=False)
class _Begun:
    """A job that this process works on.

    ``repeatable`` if another process may take it up once this one's child has died.
    """

    order: Order
    claim: Claim
    task: Task
    is_queued: bool = False
    repeatable: bool = False
    began_at: float = field(default_factory=time.monotonic)


class Runner:
    """Does jobs of some kinds in this process's name, in the processes of an executor.

    ``start`` begins to do those in the queue. ``note`` is called with how each job ended, and
    ``note_again`` with the kind of each that is taken up again after its process died.
    """

    def __init__(
        self,
        engine: sa.Engine,
        executor: TaskExecutor,
        kinds: Mapping[str, Kind],
        *,
        keep: timedelta,
        note: Note,
        note_again: Callable[[str], object] = keep_nothing,
    ) -> None:
        self.executor = executor
        self._engine = engine
        self.kinds = kinds
        self._keep = keep
        self._note = note
        self._note_again = note_again
        self._working: dict[_Begun, threading.Thread] = {}  # on jobs of the queue
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._closed = threading.Event()

    def start(self) -> None:
        """Begin to do the jobs in the queue, where it has not been begun."""
        if self._thread is not None:
            return
        self._thread = threading.Thread(target=self._work_off, name="jobs", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Look into the queue at once: this process has put a job into it."""
        self._wake.set()

    def close(self) -> None:
        """Store what is done, and put the other jobs of the queue back into it."""
        self._closed.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(STOP)
        for begun, thread in self._working.copy().items():
            if not begun.task.cancel():
                thread.join(STOP)  # what is done is being stored
            self._give_back(begun.claim)
            thread.join(STOP)
        self.executor.shutdown()

    def run(
        self,
        session: Session,
        order: Order,
        *,
        before_commit: BeforeCommit = keep_nothing,
        watch: Callable[[Task], object] = keep_nothing,
    ) -> Any:
        """Do a job now, and return what was made of it; raises what its work raises.

        What its kind does at once is no job. ``watch`` is called with the task every now and
        then. Where it raises, the job is cancelled. JobLost is raised where somebody else has
        cancelled it.
        """
        kind = self.kinds[order.kind]
        answer = kind.do_at_once(order)
        if answer is not None:
            return kind.store(session, order, answer, before_commit)
        claim = service.submit_waiting(session, order)

        def begin() -> Call:
            with self._session() as own:
                service.start(own, claim)
                return Call(kind.work, kind.prepare(own, order), kind.limit(order))

        task = self._join_steps(order, self.executor.submit_late(begin))
        begun = _Begun(order, claim, task)
        try:
            self._follow(begun, watch)
            return self._store(session, begun, before_commit)
        except BaseException as error:
            with suppress(Unavailable), outages_translated():
                session.rollback()  # on SQLite, it may hold the lock that the end needs
            raise self._end(begun, error) from error

    def cancel(self, session: Session, number: int, *, holder: str | None = None) -> None:
        """Cancel a job, whichever process works on it; raises as ``service.cancel``."""
        self._note_ended(service.cancel(session, number, holder=holder), CANCELLED)

    def _work_off(self) -> None:
        """Do the jobs of the queue, each as soon as there is a process for it."""
        swept_at, was_away = 0.0, False
        while not self._closed.is_set():
            self._wake.wait(POLL)
            self._wake.clear()
            try:
                if time.monotonic() > swept_at + SWEEP:
                    swept_at = time.monotonic()
                    with self._session() as session:
                        while service.delete_old(session, keep=self._keep):
                            if self._closed.is_set():
                                return
                if self._has_waiting() and was_away:
                    self._closed.wait(AFTER_OUTAGE)
                was_away = False
                while self._has_room() and self._has_waiting() and self._begin_next():
                    pass
            except Unavailable:
                was_away = True  # the database is, as the health of the service says
            except Exception:
                log.exception("The queue of jobs could not be worked off")

    def _has_room(self) -> bool:
        """Return whether there may be one more job: between its steps one has no process."""
        return len(self._working) <= self.executor.processes

    def _has_waiting(self) -> bool:
        with self._session() as session:
            return service.has_waiting(session, self.kinds)

    def _begin_next(self) -> bool:
        """Wait for a process, and begin the first job with it; return whether there was one."""
        found: list[tuple[Order, Claim, Actor, bool]] = []
        looked = threading.Event()

        def begin() -> Call:
            try:
                with self._session() as session:
                    claimed = service.claim_next(session, self.kinds, note_failed=self._note_ended)
                    if claimed is None:
                        raise CancelledError
                    job, claim = claimed
                    if self._closed.is_set():
                        service.give_back(session, claim, counts=False)
                        raise CancelledError
                    if job.attempts > 1:
                        self._note_again(job.kind)
                    order = Order(job.kind, job.model, job.options, job.payload or b"", job.holder)
                    actor = Actor(name=job.created_by, request_id=job.request_id)
                    found.append((order, claim, actor, job.attempts < service.MOST_ATTEMPTS))
                    kind = self.kinds[order.kind]
                    limits = replace(kind.limit(order), ease=0)  # nobody waits for it
                    return Call(kind.work, kind.prepare(session, order), limits)
            finally:
                looked.set()

        task = self.executor.submit_late(begin)
        while not looked.wait(POLL) and not task.done():
            if self._closed.is_set():
                task.cancel()
                with suppress(CancelledError, TimeoutError):
                    task.exception(STOP - POLL)  # it may be claiming a job just now
                break
        if not found:
            return False
        order, claim, actor, repeatable = found[0]
        if task.is_stopped:
            self._give_back(claim)
            return False
        joined = self._join_steps(order, task)
        begun = _Begun(order, claim, joined, is_queued=True, repeatable=repeatable)
        values = (begun, actor)
        thread = threading.Thread(target=self._see_to, args=values, name="job", daemon=True)
        self._working[begun] = thread
        thread.start()
        return True

    def _give_back(self, claim: Claim) -> None:
        """Put a job that was not done back into the queue, as if it had not been claimed."""
        with suppress(Unavailable, JobLost), self._session() as session:
            service.give_back(session, claim, counts=False)

    def _see_to(self, begun: _Begun, actor: Actor) -> None:
        """Follow a job of the queue to its end."""
        set_actor(actor)
        try:
            self._follow(begun)
            begun.task.result()  # raises what the work did, also that the database is away
            while True:
                try:
                    with self._session() as session:
                        self._store(session, begun)
                    return
                except Unavailable:  # the work is done: wait for the database, or for room in it
                    if self._closed.wait(POLL):
                        self._give_back(begun.claim)
                        return
                self._renew(begun)
        except BaseException as error:
            self._end(begun, error)
        finally:
            del self._working[begun]
            self.wake()

    def _join_steps(self, order: Order, first: Task) -> Task:
        """Return the task of all steps of a job, whose first one is given."""
        kind = self.kinds[order.kind]
        if kind.further is None:
            return first
        further = kind.further

        def prepare() -> tuple[Any, ...]:
            while True:
                try:
                    with self._session() as session:
                        return kind.prepare(session, order)
                except Unavailable:  # the steps before are done: wait for the database
                    if self._closed.wait(POLL):
                        raise

        return Steps(
            self.executor, first, lambda steps, answer: further(steps, answer, order, prepare)
        )

    def _follow(self, begun: _Begun, watch: Callable[[Task], object] = keep_nothing) -> None:
        """Wait until a task has ended; raises JobLost, and what the task raises."""
        while wait([begun.task], BEAT).not_done:
            watch(begun.task)
            self._renew(begun)
        begun.task.result()

    def _renew(self, begun: _Begun) -> None:
        """Keep the claim on a job, unless the database is away; raises JobLost."""
        with suppress(Unavailable), self._session() as session:
            service.renew(session, begun.claim, begun.task.progress)

    def _store(
        self, session: Session, begun: _Begun, before_commit: BeforeCommit = keep_nothing
    ) -> Any:
        """Store what a task has answered, in one transaction with the end of its job."""
        kind = self.kinds[begun.order.kind]

        def finish(made: Any) -> None:
            result, progress = kind.describe(made), begun.task.progress
            service.finish(session, begun.claim, SUCCEEDED, result=result, progress=progress)
            before_commit(made)

        made = kind.store(session, begun.order, begun.task.result(), finish)
        self._note(begun.order.kind, SUCCEEDED, time.monotonic() - begun.began_at)
        return made

    def _end(self, begun: _Begun, error: BaseException) -> BaseException:
        """Note how a job failed, and return the error that says so."""
        begun.task.cancel()
        if isinstance(error, JobLost | CancelledError):
            return JobLost()
        has_died = isinstance(error, ProcessFailed) and error.reason == "died"
        if isinstance(error, ProcessFailed):
            error = self.kinds[begun.order.kind].explain(begun.order, error)
        if has_died and isinstance(error, ProcessFailed):
            error = ProcessDied()
        may_help = has_died or isinstance(error, Unavailable)  # to try again
        if has_died or not isinstance(error, ServiceError | HTTPException):
            log.error("Job %d failed", begun.claim.id, exc_info=error)
        is_left = not isinstance(error, Exception) or isinstance(error, ClientDisconnected)
        # If the database is away, the claim expires.
        with suppress(Unavailable, JobLost), self._session() as session:
            is_away = isinstance(error, EngineUnavailable) and begun.is_queued
            if is_away or (may_help and begun.repeatable):
                service.give_back(session, begun.claim, counts=not is_away)
                return error
            status, problem = (CANCELLED, None) if is_left else (FAILED, describe_problem(error))
            begin_write(session)
            service.finish(session, begun.claim, status, problem=problem, keep_payload=may_help)
            session.commit()
            is_refusal = isinstance(error, ServiceError) and not may_help
            outcome = REFUSED if is_refusal else status
            self._note(begun.order.kind, outcome, time.monotonic() - begun.began_at)
        return error

    def _note_ended(self, job: Job, outcome: str = FAILED) -> None:
        """Note how a job ended that no task of this process works on."""
        ended, started = job.finished_at, job.started_at
        seconds = (ended - started).total_seconds() if ended and started else 0.0
        self._note(job.kind, outcome, seconds)

    @contextmanager
    def _session(self) -> Iterator[Session]:
        # A job is read once, with the rows: what is committed stays as it was then.
        with outages_translated(), Session(self._engine, expire_on_commit=False) as session:
            yield session
