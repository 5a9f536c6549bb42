"""Work in child processes: within limits, and gone as soon as nobody waits for it.

Children are forked from a *fork server*: a process with one thread that has imported everything
and holds no connection. It keeps as many ready as may work at once; each does one piece of work. A
new interpreter would take seconds to import scikit-learn, and a fork of a web worker would inherit
its locks. gunicorn's master forks the server before its workers, so that all of them share its
memory and its children; elsewhere the first work starts one.
"""

from __future__ import annotations

import atexit
import fcntl
import gc
import importlib
import json
import os
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Executor, Future
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import dataclass
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeAlias

from webapp.errors import InvalidInput

MB = 2**20
LARGEST_ANSWER = 2**31  # bytes of one part of an answer
BACKLOG = 1024  # callers that wait for a child
LOOK = 0.1  # seconds between looks whether the work has been cancelled
START = 60.0  # seconds in which a fork server must have imported everything
LEAST_PAUSE = 0.2  # seconds between two reports of how far work is
NICER = 10  # than a web worker: predictions come first …
EASE = 1.0  # … after so many seconds: a small training need not wait for them
TICK = 1.0  # seconds between looks whether a process has lost its parent

Report: TypeAlias = Callable[[int, int | None, str], None]
"""Tells how far work is: how much is done, of how much in all (None: unknown), and of what.

Of reports that come one upon another, some are left out, but for beginnings and ends.
"""
Work: TypeAlias = Callable[..., dict[str, Any]]
"""A function of a module: ``work(report, *arguments)``; its answer holds JSON values and bytes."""


@dataclass(frozen=True)
class ProcessLimits:
    """What a child may take: bytes of memory beyond its libraries, and seconds.

    The seconds are of the clock on the wall, and of CPU on each core. After ``ease`` seconds, its
    priority is lower than a web worker's.
    """

    memory: int = 2048 * MB
    seconds: float = 60.0
    ease: float = EASE

    def __str__(self) -> str:
        """Return the limits in words."""
        return f"{self.memory // MB} MB and {self.seconds:g} seconds"


@dataclass(frozen=True)
class Place:
    """Where work runs: its host, as the others of a cluster reach it.

    Among the arguments of work, an executor puts the place where it is done for any other.
    ``tls`` has the files of the authority, the certificate and its key, where connections on the
    cluster need them.
    """

    host: str = "127.0.0.1"
    tls: tuple[str, str, str] | None = None


@dataclass(frozen=True)
class Call:
    """What a child is to do, and what it may take."""

    work: Work
    arguments: tuple[Any, ...]
    limits: ProcessLimits


class ProcessFailed(Exception):
    """A child died, or was ended at one of its limits.

    ``reason`` is ``memory``, ``seconds`` or ``died``; for an error in the work it is ``error``,
    and the message is its traceback.
    """

    def __init__(self, reason: str, message: str = "") -> None:
        super().__init__(message or reason)
        self.reason = reason


class Task(Future[dict[str, Any]]):
    """Work that was submitted; ``progress`` is what it last reported."""

    def __init__(self) -> None:
        super().__init__()
        self.progress: dict[str, Any] | None = None
        self._stop = False
        self._is_begun = False

    def begin(self) -> None:
        """Note that the work begins; raises CancelledError where it was cancelled before."""
        if not self._is_begun:
            self._is_begun = True
            if not self.set_running_or_notify_cancel():
                raise CancelledError

    def cancel(self) -> bool:
        """End the work, even if it is running: its process is killed within ``LOOK``."""
        self._stop = True
        return super().cancel() or not self.done()

    @property
    def is_stopped(self) -> bool:
        """Whether the work is to end."""
        return self._stop


class TaskExecutor(Executor, ABC):
    """Runs work within limits; each task has a thread that sees to it.

    ``processes`` is how many pieces of work may run at once.
    """

    processes: int

    def start(self) -> None:
        """Prepare this process, which must have no other thread, for being forked."""

    def describe_state(self) -> str:
        """Return ``ok``, or why no work can begin at present."""
        return "ok"

    def open_pool(self) -> AbstractContextManager[Executor]:
        """Return an executor of plain functions for a block, where the work is done by a cluster.

        Raises NotImplementedError where it is not.
        """
        raise NotImplementedError

    def submit(  # type: ignore[override] # the work gets ``report`` first, and has limits
        self, work: Work, /, *arguments: Any, limits: ProcessLimits
    ) -> Task:
        """Return the work as a future.

        Its result is the answer. It raises InvalidInput where the work did, ProcessFailed, and
        CancelledError.
        """
        return self.submit_late(lambda: Call(work, arguments, limits))

    def submit_late(self, begin: Callable[[], Call]) -> Task:
        """Return work as a future, where ``begin`` says what it is as soon as there is a process.

        What ``begin`` raises, the future raises, too.
        """
        task = Task()
        values = (task, begin)
        threading.Thread(target=self._see_to, args=values, name="task", daemon=True).start()
        return task

    def _see_to(self, task: Task, begin: Callable[[], Call]) -> None:
        try:
            answer = self._wait(task, begin)
        except BaseException as error:
            with suppress(CancelledError):
                task.begin()  # tells those who wait for work that was cancelled before
            if not task.cancelled():
                task.set_exception(error)
        else:
            task.set_result(answer)

    @abstractmethod
    def _wait(self, task: Task, begin: Callable[[], Call]) -> dict[str, Any]:
        """Return the answer of a task; raises as ``submit`` says."""


class LocalExecutor(TaskExecutor):
    """Runs work in child processes of this machine, at most ``processes`` at once.

    Whichever process asks the fork server first for a child gets the first one: of work submitted
    within a few microseconds, the last may begin first. The server imports the ``preloaded``
    modules where it is started anew.
    """

    def __init__(self, name: str, processes: int, preloaded: tuple[str, ...] = ()) -> None:
        self.processes = processes
        self._server = _fork_server(name, processes, preloaded)

    def start(self) -> None:
        """Fork the server from this process, which must have no other thread."""
        self._server.fork()

    def _wait(self, task: Task, begin: Callable[[], Call]) -> dict[str, Any]:
        with closing(self._take_child(task)) as child:
            task.begin()
            call = begin()
            deadline = time.monotonic() + call.limits.seconds
            with suppress(BrokenPipeError):  # it died, as the next read will tell
                child.send(call)
            while "progress" in (message := json.loads(_receive(child, task, deadline))):
                task.progress = message["progress"]
            for name in message.get("parts", ()):
                message["answer"][name] = _receive(child, task, deadline)
        return read_answer(message)

    def _take_child(self, task: Task) -> Connection:
        """Return a connection to a child, as soon as one is free; raises as ``_receive``."""
        while True:
            child = self._server.connect()
            try:
                _receive(child, task, None)
                return child
            except ProcessFailed:  # the fork server has died
                child.close()
            except BaseException:
                child.close()
                raise


def read_answer(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return what work has answered; raises the InvalidInput or ProcessFailed that it ended in."""
    if "invalid" in message:
        raise InvalidInput(message["invalid"], source=message["source"])
    if "failed" in message:
        raise ProcessFailed(message["failed"], message["message"])
    answer: dict[str, Any] = message["answer"]
    return answer


def _receive(child: Connection, task: Task, deadline: float | None) -> bytes:
    """Return the next part of what a child sends; raises CancelledError and ProcessFailed."""
    try:
        while not child.poll(LOOK):
            if task.is_stopped:
                raise CancelledError
            if deadline is not None and time.monotonic() > deadline:
                raise ProcessFailed("seconds")
        return child.recv_bytes(LARGEST_ANSWER)
    except (EOFError, OSError):
        raise ProcessFailed("died") from None


class ForkServer:
    """The process that children are forked from; it ends with the process that started it."""

    def __init__(self, name: str, most: int, preloaded: tuple[str, ...]) -> None:
        self._name = name
        self._most = most
        self._preloaded = preloaded
        self._lock = threading.Lock()
        self._address = ""

    def fork(self) -> None:
        """Fork the server from this process, which must have no other thread."""
        self._make_address()
        owner = os.getpid()
        with _listen(self._address) as listener:
            if os.fork() == 0:
                try:
                    _serve(listener, self._most, owner)
                finally:
                    os._exit(0)

    def connect(self) -> Connection:
        """Return a connection to a child, as soon as one is free.

        Starts the server where it does not run: it may have been killed, too.
        """
        with suppress(OSError):
            return self._connect()
        with self._lock:
            with suppress(OSError):  # another thread has started it meanwhile
                return self._connect()
            return self._spawn()

    def _connect(self) -> Connection:
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(self._address)
        except OSError:
            sock.close()
            raise
        return Connection(sock.detach())

    def _make_address(self) -> None:
        folder = tempfile.mkdtemp(prefix="webapp-")  # nobody else may enter it
        self._address = f"{folder}/{self._name}"
        owner = os.getpid()

        def remove() -> None:
            if os.getpid() == owner:
                shutil.rmtree(folder, ignore_errors=True)

        atexit.register(remove)

    def _spawn(self) -> Connection:
        """Start the server in a new interpreter; return a connection as soon as it listens."""
        self._make_address()
        command = [sys.executable, "-c", f"from {__name__} import serve; serve()"]
        # Each child has one core.
        threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
        process = subprocess.Popen(  # noqa: S603 (of our own)
            [*command, self._address, str(self._most), str(os.getpid()), *self._preloaded],
            cwd=Path(__file__).parents[2],
            env={**threads, **os.environ},
        )
        atexit.register(process.kill)
        deadline = time.monotonic() + START
        while time.monotonic() < deadline and process.poll() is None:
            with suppress(OSError):  # the address may be there a moment earlier
                return self._connect()
            time.sleep(0.01)
        process.kill()
        raise ProcessFailed("died", "The process that forks others did not start.")


@cache
def _fork_server(name: str, most: int, preloaded: tuple[str, ...]) -> ForkServer:
    """Return the fork server that all executors of this name share in this process."""
    return ForkServer(name, most, preloaded)


def _listen(address: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(BACKLOG)
    return listener


def _serve(listener: socket.socket, most: int, owner: int) -> None:
    """Keep so many children ready for callers, while the owner lives."""
    name = Path(listener.getsockname()).name
    _call_process(name)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN if number == signal.SIGINT else signal.SIG_DFL)
    woken, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    listener.setblocking(False)
    gc.freeze()  # so that no child copies pages to collect garbage
    server, children = os.getpid(), set[int]()
    while os.getppid() == owner:
        while children and (ended := os.waitpid(-1, os.WNOHANG)[0]):
            children.discard(ended)
        with suppress(OSError):  # there are too many processes, or too little memory
            while len(children) < most:
                child = os.fork()
                if child == 0:
                    try:
                        signal.set_wakeup_fd(-1)
                        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                        _wait_for_work(listener, server, name)
                    finally:
                        os._exit(0)
                children.add(child)
        if select.select([woken], [], [], TICK)[0]:
            os.read(woken, 4096)


def _call_process(name: str) -> None:
    """Name this process, where there is such a thing: `ps -C trainings` then finds it."""
    with suppress(OSError):
        Path("/proc/self/comm").write_text(name)


def _wait_for_work(listener: socket.socket, server: int, name: str) -> None:
    """Wait for a caller, and do its work; end with the server."""
    _call_process(f"{name}-idle")
    while os.getppid() == server:
        if not select.select([listener], [], [], TICK)[0]:
            continue
        try:
            caller, _ = listener.accept()
        except BlockingIOError:  # another child was faster
            continue
        listener.close()
        caller.setblocking(True)
        _call_process(name)
        _work_for(caller)
        return


def _work_for(caller: socket.socket) -> None:
    """Do the work that a caller sends, and send the answer."""
    connection = Connection(caller.detach())
    connection.send_bytes(b"{}")  # here is a process for the work
    call: Call = connection.recv()  # from whoever owns this process
    _end_with(connection)
    values = (os.PRIO_PROCESS, os.getpid(), NICER)
    ease = threading.Timer(call.limits.ease, os.setpriority, values)
    ease.daemon = True
    ease.start()
    _set_limits(call.limits)
    warnings.simplefilter("ignore")  # nobody reads them

    next_report = 0.0

    def report(done: int, total: int | None, unit: str) -> None:
        nonlocal next_report
        if done not in (0, total) and time.monotonic() < next_report:
            return
        next_report = time.monotonic() + LEAST_PAUSE
        progress = {"done": done, "total": total, "unit": unit}
        connection.send_bytes(json.dumps({"progress": progress}).encode())

    parts: list[bytes] = []
    try:
        answer = call.work(report, *call.arguments)
        names = [name for name, value in answer.items() if isinstance(value, bytes)]
        parts = [answer.pop(name) for name in names]
        message = json.dumps({"answer": answer, "parts": names})
    except InvalidInput as error:
        message = json.dumps({"invalid": error.faults, "source": error.source})
    except MemoryError:
        message = json.dumps({"failed": "memory", "message": ""})
    except Exception:
        message = json.dumps({"failed": "error", "message": traceback.format_exc()})
    for part in (message.encode(), *parts):
        connection.send_bytes(part)


def _end_with(connection: Connection) -> None:
    """Let the kernel end this process when its caller closes the connection, or dies.

    From now on the caller sends nothing: the one event that can still come is its end.
    """
    signal.signal(signal.SIGIO, signal.SIG_DFL)  # which ends the process
    descriptor = connection.fileno()
    fcntl.fcntl(descriptor, fcntl.F_SETOWN, os.getpid())
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_ASYNC)
    if connection.poll(0):  # it ended before
        os._exit(0)


def _set_limits(limits: ProcessLimits) -> None:
    # Several threads take more of them than the clock; the caller ends the process by that.
    seconds = int(limits.seconds * (os.cpu_count() or 1)) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    statm = Path("/proc/self/statm")
    if statm.exists():  # elsewhere, what is mapped already is not known
        mapped = int(statm.read_text().split()[0]) * resource.getpagesize()
        most = mapped + limits.memory
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def serve() -> None:
    """Be a fork server; the arguments of the program say where, for whom, and what to import."""
    address, most, owner, *preloaded = sys.argv[1:]
    for module in preloaded:
        importlib.import_module(module)
    with _listen(address) as listener:
        _serve(listener, int(most), int(owner))
