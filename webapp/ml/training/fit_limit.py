"""A limit on the seconds that a fit may take, from inside the thread that fits.

A thread cannot be killed; CPython can make it raise an exception at its next step of Python
code. Forests, boosting and most iterative solvers take many such steps. A single call into
compiled code ends first: where its seconds may be more, ``webapp.ml.core.costs`` says so, and the
training is refused before it begins.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from webapp.ml.errors import FitTooLong


@contextmanager
def fit_time_limit(seconds: float) -> Iterator[None]:
    """Raise FitTooLong in this block when it takes longer than ``seconds``."""
    thread = ctypes.c_ulong(threading.get_ident())
    lock = threading.Lock()
    finished = False

    def interrupt() -> None:
        with lock:  # so that nothing is raised in a thread that has left the block
            if not finished:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(FitTooLong))

    timer = threading.Timer(seconds, interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        with lock:
            finished = True
        timer.cancel()
