"""Work in a process of its own, within limits: what a file or a fit may take, and no more.

The process is forked from a server that has imported the libraries and has one thread: it begins
within milliseconds, where a new interpreter would take seconds to import scikit-learn, and a fork
of this process would inherit its locks and connections. The server starts with the first call.
"""

from __future__ import annotations

import json
import multiprocessing
import warnings
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

MB = 2**20
MOST_ANSWER_BYTES = 2**28
PRELOADED = ["webapp.ml.core.formats", "skops.io", "pandas"]


@dataclass(frozen=True)
class ProcessLimits:
    """What a process may take: bytes of memory beyond its libraries, and seconds.

    The seconds are both of CPU and of the clock on the wall.
    """

    memory: int = 2048 * MB
    seconds: float = 60.0

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> ProcessLimits:
        """Return the limits of the settings MAX_UPLOAD_MEMORY (in MB) and MAX_UPLOAD_SECONDS."""
        return cls(settings["MAX_UPLOAD_MEMORY"] * MB, settings["MAX_UPLOAD_SECONDS"])

    def __str__(self) -> str:
        """Return the limits in words."""
        return f"{self.memory // MB} MB and {self.seconds:g} seconds"


class ProcessFailed(Exception):
    """The process died, or was ended at a limit."""


@cache
def _context() -> Any:
    methods = multiprocessing.get_all_start_methods()
    if "forkserver" not in methods:  # on Windows, which has no limits on memory either
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def run_isolated(work: Callable[..., Any], *arguments: Any, limits: ProcessLimits) -> Any:
    """Return what ``work(*arguments)`` returns in a process of its own: a value of JSON.

    ``work`` is a function of a module. Nothing that the process sends is unpickled. Raises
    ProcessFailed where it dies, raises, or takes more than it may.
    """
    receiver, sender = _context().Pipe(duplex=False)
    process = _context().Process(
        target=_run, args=(sender, work, arguments, limits), daemon=True, name=work.__name__
    )
    with closing(receiver):
        try:
            with closing(sender):
                process.start()
            if not receiver.poll(limits.seconds):
                raise ProcessFailed
            return json.loads(receiver.recv_bytes(MOST_ANSWER_BYTES))
        except (EOFError, OSError):  # it died, or did not even read its arguments
            raise ProcessFailed from None
        finally:
            if process.pid is not None:
                process.kill()
                process.join()
                process.close()


def _run(
    sender: Connection, work: Callable[..., Any], arguments: Any, limits: ProcessLimits
) -> None:
    _set_limits(limits)
    warnings.simplefilter("ignore")  # nobody reads them
    try:
        answer = json.dumps(work(*arguments)).encode()
    except MemoryError:
        return
    sender.send_bytes(answer)


def _set_limits(limits: ProcessLimits) -> None:
    try:
        import resource
    except ImportError:  # on Windows
        return
    seconds = int(limits.seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    statm = Path("/proc/self/statm")
    if statm.exists():  # elsewhere, what is mapped already is not known
        mapped = int(statm.read_text().split()[0]) * resource.getpagesize()
        most = mapped + limits.memory
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
