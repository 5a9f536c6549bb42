"""Work on a Dask cluster: as in child processes of this host, and within the same limits.

A task that runs on a Dask worker cannot be stopped. So each does its work in a child process of
that worker, and ends it when nobody waits for the task any more: it was cancelled, or its web
worker, the scheduler or the connection between them is gone.

Imported only if the setting TRAINING_ENGINE names a scheduler. Scheduler and workers import it,
too: they need the project on their path.
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Executor, wait
from concurrent.futures import Future as LocalFuture
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import dask
from dask.typing import Key
from distributed import Client, Future, KilledWorker, Security, Status, Worker, get_worker
from distributed.comm.addressing import get_address_host
from distributed.utils import LoopRunner

from webapp.errors import InvalidInput
from webapp.jobs.errors import EngineUnavailable
from webapp.jobs.processes import (
    LOOK,
    Call,
    LocalExecutor,
    Place,
    ProcessFailed,
    Task,
    TaskExecutor,
    read_answer,
)

log = logging.getLogger(__name__)

PREFIX = "webapp-"  # of the keys of our tasks
TOPIC = "webapp"  # of what workers tell about them
BEAT = 0.5  # seconds between what a worker tells, and looks whether anybody waits for its task
ANSWER = 1.0  # seconds in which a scheduler must answer
PAUSE = 1.0  # seconds without another try where it has not
FRESH = 5.0  # seconds for which a look at the cluster tells its health
PATIENCE = 15.0  # seconds that work waits for a cluster that is away
ROOM = 0.25  # seconds between looks whether a full cluster has room
WORKING = (Status.running, Status.paused, Status.closing_gracefully)

T = TypeVar("T")
Message: TypeAlias = dict[str, Any]


@dataclass
class _UnderWay:
    """A task that has been, or is being, given to the cluster, and how often it began there."""

    task: Task
    begun: int = 0


class DaskExecutor(TaskExecutor):
    """Runs work on the workers of a Dask scheduler, as many tasks at once as they have threads.

    Each process has a connection of its own, which the first work makes. ``preloaded`` modules
    are imported by the processes that the workers fork children from. ``tls`` has the files for
    an address that begins with ``tls://``: of the authority, the certificate and its key.
    """

    def __init__(
        self,
        address: str,
        preloaded: tuple[str, ...] = (),
        *,
        tls: tuple[str, str, str] | None = None,
        patience: float = PATIENCE,
    ) -> None:
        # The rows of a training go with its task: no message to a developer is needed.
        dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 TiB"})
        self._address = address
        self._preloaded = preloaded
        self._tls = tls
        self._patience = patience
        self._lock = threading.Lock()  # one thread at a time connects, or looks for room
        self._runner: LoopRunner | None = None
        self._client: Client | None = None
        self._under_way: dict[str, _UnderWay] = {}
        self._state = "ok"
        self._looked_at = -FRESH
        self.processes = 1  # until the cluster has said how many threads it has

    def describe_state(self) -> str:
        """Return ``ok``, or ``unreachable`` with the reason."""
        if time.monotonic() > self._looked_at + FRESH and self._lock.acquire(timeout=ANSWER):
            try:
                self._count_free()
            except EngineUnavailable:
                pass
            finally:
                self._lock.release()
        return self._state

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Close the connection, which ends what is under way."""
        with self._lock:
            self._close()
            if self._runner is not None:
                self._runner.stop()
                self._runner = None

    @contextmanager
    def open_pool(self) -> Iterator[Executor]:
        """Yield an executor that calls functions in the workers, without limits.

        What was under way on a worker that dies is called again on another one. Raises
        EngineUnavailable, also where the cluster is lost meanwhile.
        """
        with self._lock:
            client, _ = self._count_free()
        pool = _Pool(client)
        try:
            yield pool
        except (CancelledError, KilledWorker):
            raise EngineUnavailable from None
        finally:
            pool.shutdown(cancel_futures=True)

    def _wait(self, task: Task, begin: Callable[[], Call]) -> Message:
        key = PREFIX + uuid.uuid4().hex
        try:
            client = self._wait_for_room(task, key)
            task.begin()
            call = begin()
            client.subscribe_topic(TOPIC, self._hear)  # anew, as it may have connected anew
            future = client.submit(work_for, call, self._preloaded, key=key, pure=False)
            try:
                self._follow(self._under_way[key], future)
                return read_answer(_fetch(future))
            finally:
                future.release()  # ends a task that has not ended
        finally:
            self._under_way.pop(key, None)

    def _wait_for_room(self, task: Task, key: str) -> Client:
        """Wait until a task may begin; raises CancelledError and EngineUnavailable."""
        give_up_at = time.monotonic() + self._patience
        while not task.is_stopped:
            try:
                with self._lock:
                    client, free = self._count_free()
                    if free > 0:
                        self._under_way[key] = _UnderWay(task)
                        return client
                give_up_at = time.monotonic() + self._patience
            except EngineUnavailable:
                if time.monotonic() > give_up_at:
                    raise
            time.sleep(ROOM)
        raise CancelledError

    def _count_free(self) -> tuple[Client, int]:
        """Return the client, and for how many tasks more there are threads.

        Raises EngineUnavailable. The caller has the lock.
        """
        if self._state != "ok" and time.monotonic() < self._looked_at + PAUSE:
            raise EngineUnavailable
        try:
            client = self._connect()
            scheduler: Any = client.scheduler
            # As `client.nthreads` and `client.processing` do, which take no time-out.
            threads = client.sync(scheduler.ncores, callback_timeout=ANSWER)
            processing = client.sync(scheduler.processing, callback_timeout=ANSWER, workers=None)
            self._state = "ok" if threads else "unreachable: the scheduler has no workers"
        except (OSError, RuntimeError) as error:  # Dask's own are among them
            if self._state == "ok":
                log.warning("The scheduler does not answer: %r", error)
            self._state = "unreachable: the scheduler does not answer"
        self._looked_at = time.monotonic()
        if self._state != "ok":
            raise EngineUnavailable
        self.processes = sum(threads.values())
        keys = (key for keys in processing.values() for key in keys)
        ours = {key for key in keys if str(key).startswith(PREFIX)}
        return client, sum(threads.values()) - len(ours.union(self._under_way))

    def _connect(self) -> Client:
        if self._client is None or self._client.status != "running":
            self._close()
            security = None
            if self._tls is not None:
                authority, certificate, key = self._tls
                security = Security(
                    tls_ca_file=authority,
                    tls_client_cert=certificate,
                    tls_client_key=key,
                    require_encryption=True,
                )
            # Each client that cannot connect would leave the thread of a loop of its own behind.
            if self._runner is None:
                self._runner = LoopRunner()
                self._runner.start()
            self._client = Client(
                self._address,
                security=security,
                timeout=ANSWER,
                set_as_default=False,
                loop=self._runner.loop,
            )
        return self._client

    def _close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with suppress(OSError):  # the scheduler does not answer
                client.close()

    def _hear(self, event: tuple[float, Message]) -> None:
        """Note what a worker tells about a task, of this process or another."""
        _, message = event
        under_way = self._under_way.get(message["task"])
        if under_way is None:
            return
        if "progress" in message:
            under_way.task.progress = message["progress"]
        else:
            under_way.begun += 1

    def _follow(self, under_way: _UnderWay, future: Future[Message]) -> None:
        """Wait until a future has ended.

        Raises CancelledError, ProcessFailed, and EngineUnavailable where the cluster is away.
        """
        ended, seen_at = threading.Event(), time.monotonic()
        future.add_done_callback(lambda _: ended.set())
        while not ended.wait(LOOK):
            if under_way.task.is_stopped:
                raise CancelledError
            if under_way.begun > 1:  # Dask would try it on up to four workers
                raise ProcessFailed("died")
            if self.describe_state() == "ok":
                seen_at = time.monotonic()
            elif time.monotonic() > seen_at + self._patience:
                raise EngineUnavailable


class _Pool(Executor):
    """Calls functions in the workers of a cluster; sends each function, with what it holds, once.

    As the result of a task it stays with the workers, and is made again where they die: a model
    of 10 MB and a hundred files send 30 MB to two workers. With each call anew, it was 2 GB, of
    which the scheduler kept 1.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._executor = client.get_executor(pure=False)
        self._sent: dict[Callable[..., Any], Future[Any]] = {}

    def submit(  # type: ignore[override] # without names
        self, function: Callable[..., T], /, *arguments: Any
    ) -> LocalFuture[T]:
        """Call a function, which must be picklable."""
        if function not in self._sent:
            self._sent[function] = self._client.submit(_hold, function, pure=False)
        future: LocalFuture[T] = self._executor.submit(_call, self._sent[function], *arguments)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let the workers forget what they were sent."""
        self._executor.shutdown(wait=False)
        self._sent.clear()


def _hold(function: Callable[..., T]) -> Callable[..., T]:
    return function


def _call(function: Callable[..., T], *arguments: Any) -> T:
    return function(*arguments)


def _fetch(future: Future[Message]) -> Message:
    """Return what a future has answered; raises ProcessFailed and EngineUnavailable."""
    if future.status in ("cancelled", "lost"):
        raise EngineUnavailable
    try:
        error = future.exception(ANSWER)
        if error is None:
            return future.result()
    except OSError:  # Dask's own are among them
        raise EngineUnavailable from None
    if isinstance(error, KilledWorker):
        raise ProcessFailed("died")
    raise ProcessFailed("error", "".join(traceback.format_exception(error)))


def work_for(call: Call, preloaded: tuple[str, ...]) -> Message:
    """Do work in a child process of this Dask worker; return its answer, or how it failed."""
    worker = get_worker()
    key = worker.get_current_task()
    worker.log_event(TOPIC, {"task": key})
    executor = LocalExecutor("cluster", worker.state.nthreads, preloaded)
    place = _find_place(worker)
    arguments = (place if isinstance(value, Place) else value for value in call.arguments)
    task = executor.submit(call.work, *arguments, limits=call.limits)
    told = None
    while wait([task], BEAT).not_done:
        if not _is_wanted(worker, key):
            task.cancel()
        if task.progress != told:
            told = task.progress
            worker.log_event(TOPIC, {"task": key, "progress": told})
    try:
        return {"answer": task.result()}
    except InvalidInput as error:
        return {"invalid": error.faults, "source": error.source}
    except ProcessFailed as failure:
        return {"failed": failure.reason, "message": str(failure)}
    except CancelledError:  # nobody will read this
        return {}


def _find_place(worker: Worker) -> Place:
    """Return where a worker is, and the files that it shows to others."""
    host = get_address_host(worker.address)
    if not worker.address.startswith("tls://"):
        return Place(host)
    files = worker.security.get_tls_config_for_role("worker")
    return Place(host, (files["ca_file"], files["cert"], files["key"]))


def _is_wanted(worker: Worker, key: Key) -> bool:
    """Return whether anybody waits for a task that runs here.

    The scheduler tells the worker as soon as the last client that wanted it has let go, or is
    gone; a worker that has lost its scheduler closes.
    """
    state = worker.state.tasks.get(key)
    return worker.status in WORKING and state is not None and state.state == "executing"
