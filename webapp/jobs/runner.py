"""Does jobs: those of requests that wait, and in a thread of its own those in the queue."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
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
from webapp.jobs.errors import EngineUnavailable, JobLost
from webapp.jobs.models import CANCELLED, FAILED, SUCCEEDED
from webapp.jobs.processes import Call, ProcessFailed, ProcessLimits, Task, TaskExecutor, Work
from webapp.jobs.service import Claim, Order
from webapp.web.problems import describe_problem

log = logging.getLogger(__name__)

POLL = 1.0  # seconds between looks into the queue, which other hosts fill, too
BEAT = 0.5  # seconds between renewals of a claim; a job that was cancelled ends at the next one
STOP = 5.0  # seconds in which the thread that looks into the queue should end
SWEEP = 600.0  # seconds between deletions of old jobs

BeforeCommit: TypeAlias = Callable[[Any], object]


@dataclass(frozen=True)
class Kind:
    """A kind of work.

    ``work`` runs in a child process that may take ``limit(order)``, on what
    ``prepare(session, order)`` returns. ``store(session,
    order, answer, before_commit)`` stores its answer in one transaction, in which it calls
    ``before_commit`` with what it has made, and returns that. ``describe(made)`` is what the job
    shows as its result, in JSON. ``explain(order, failure)`` is the error that a child's failure
    means.
    """

    work: Work
    limit: Callable[[Order], ProcessLimits]
    prepare: Callable[[Session, Order], tuple[Any, ...]]
    store: Callable[[Session, Order, dict[str, Any], BeforeCommit], Any]
    describe: Callable[[Any], dict[str, Any]]
    explain: Callable[[Order, ProcessFailed], Exception]


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


class Runner:
    """Does jobs in this process's name, in the processes of an executor.

    ``start`` begins to do those in the queue.
    """

    def __init__(
        self,
        engine: sa.Engine,
        executor: TaskExecutor,
        kinds: Mapping[str, Kind],
        *,
        keep: timedelta,
    ) -> None:
        self.executor = executor
        self._engine = engine
        self.kinds = kinds
        self._keep = keep
        self._working: dict[_Begun, threading.Thread] = {}  # on jobs of the queue
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._closed = threading.Event()

    def start(self) -> None:
        """Begin to do the jobs in the queue."""
        self._thread = threading.Thread(target=self._work_off, name="jobs", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Look into the queue at once: this process has put a job into it."""
        self._wake.set()

    def close(self) -> None:
        """Put the jobs of the queue that are not done yet back into it."""
        self._closed.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(STOP)
        for begun, thread in self._working.copy().items():
            begun.task.cancel()
            with suppress(Unavailable, JobLost), self._session() as session:
                service.give_back(session, begun.claim, counts=False)
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

        ``watch`` is called with the task every now and then. Where it raises, the job is
        cancelled. JobLost is raised where somebody else has cancelled it.
        """
        kind, claim = self.kinds[order.kind], service.submit_waiting(session, order)

        def begin() -> Call:
            with self._session() as own:
                service.start(own, claim)
                return Call(kind.work, kind.prepare(own, order), kind.limit(order))

        begun = _Begun(order, claim, self.executor.submit_late(begin))
        try:
            self._follow(begun, watch)
            return self._store(session, begun, before_commit)
        except BaseException as error:
            raise self._end(begun, error) from error

    def _work_off(self) -> None:
        """Do the jobs of the queue, each as soon as there is a process for it."""
        swept_at = 0.0
        while not self._closed.is_set():
            self._wake.wait(POLL)
            self._wake.clear()
            try:
                if time.monotonic() > swept_at + SWEEP:
                    swept_at = time.monotonic()
                    with self._session() as session:
                        service.delete_old(session, keep=self._keep)
                while self._has_waiting() and self._begin_next():
                    pass
            except Unavailable:
                continue  # the database is away, as the health of the service says
            except Exception:
                log.exception("The queue of jobs could not be worked off")

    def _has_waiting(self) -> bool:
        with self._session() as session:
            return service.has_waiting(session)

    def _begin_next(self) -> bool:
        """Wait for a process, and begin the first job with it; return whether there was one."""
        found: list[tuple[Order, Claim, Actor, bool]] = []
        looked = threading.Event()

        def begin() -> Call:
            try:
                with self._session() as session:
                    claimed = service.claim_next(session)
                    if claimed is None:
                        raise CancelledError
                    job, claim = claimed
                    order = Order(job.kind, job.model, job.options, job.payload or b"", job.holder)
                    actor = Actor(name=job.created_by, request_id=job.request_id)
                    found.append((order, claim, actor, job.attempts < service.MOST_ATTEMPTS))
                    kind = self.kinds[order.kind]
                    return Call(kind.work, kind.prepare(session, order), kind.limit(order))
            finally:
                looked.set()

        task = self.executor.submit_late(begin)
        while not looked.wait(POLL):
            if task.done() or self._closed.is_set():
                task.cancel()
                return False
        if not found:
            return False
        order, claim, actor, repeatable = found[0]
        begun = _Begun(order, claim, task, is_queued=True, repeatable=repeatable)
        values = (begun, actor)
        thread = threading.Thread(target=self._see_to, args=values, name="job", daemon=True)
        self._working[begun] = thread
        thread.start()
        return True

    def _see_to(self, begun: _Begun, actor: Actor) -> None:
        """Follow a job of the queue to its end."""
        set_actor(actor)
        try:
            self._follow(begun)
            while True:
                try:
                    with self._session() as session:
                        self._store(session, begun)
                    return
                except Unavailable:  # the work is done: wait for the database
                    self._closed.wait(POLL)
        except BaseException as error:
            self._end(begun, error)
        finally:
            del self._working[begun]

    def _follow(self, begun: _Begun, watch: Callable[[Task], object] = keep_nothing) -> None:
        """Wait until a task has ended; raises JobLost, and what the task raises."""
        while wait([begun.task], BEAT).not_done:
            watch(begun.task)
            with suppress(Unavailable), self._session() as session:
                service.renew(session, begun.claim, begun.task.progress)
        begun.task.result()

    def _store(
        self, session: Session, begun: _Begun, before_commit: BeforeCommit = keep_nothing
    ) -> Any:
        """Store what a task has answered, in one transaction with the end of its job."""
        kind = self.kinds[begun.order.kind]

        def finish(made: Any) -> None:
            service.finish(session, begun.claim, SUCCEEDED, result=kind.describe(made))
            before_commit(made)

        return kind.store(session, begun.order, begun.task.result(), finish)

    def _end(self, begun: _Begun, error: BaseException) -> BaseException:
        """Note how a job failed, and return the error that says so."""
        begun.task.cancel()
        if isinstance(error, JobLost | CancelledError):
            return JobLost()
        died = isinstance(error, ProcessFailed) and error.reason == "died"
        if isinstance(error, ProcessFailed):
            error = self.kinds[begun.order.kind].explain(begun.order, error)
        if not isinstance(error, ServiceError | HTTPException):
            log.error("Job %d failed", begun.claim.id, exc_info=error)
        is_left = not isinstance(error, Exception) or isinstance(error, ClientDisconnected)
        # If the database is away, the claim expires.
        with suppress(Unavailable, JobLost), self._session() as session:
            if died and begun.repeatable:
                service.give_back(session, begun.claim)
                return error
            if isinstance(error, EngineUnavailable) and begun.is_queued:
                service.give_back(session, begun.claim, counts=False)
                return error
            status, problem = (CANCELLED, None) if is_left else (FAILED, describe_problem(error))
            begin_write(session)
            service.finish(session, begun.claim, status, problem=problem, keep_payload=died)
            session.commit()
        return error

    @contextmanager
    def _session(self) -> Iterator[Session]:
        with outages_translated(), Session(self._engine) as session:
            yield session
