"""Shadows: versions that predict what another one has answered, so that the two can be compared.

They do so in one thread of each process, after the answer: no request waits for a shadow, or
fails by it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import BoundedSemaphore
from typing import NamedTuple, TypeAlias

import numpy as np

from webapp.errors import InvalidInput, ServiceError
from webapp.ml.core.scoring import Scores

log = logging.getLogger(__name__)

QUEUED = 8  # requests that a process has for its shadows at a time; further ones are dropped
MOST_VALUES = 100_000  # of a request that is compared
MOST_BYTES = 2**20
TOLERANCE = 1e-6  # by which numbers may differ, relative to the larger one


class Outcome(NamedTuple):
    """What came of a request for a shadow, to be added up.

    ``rows`` were compared; ``disagreements`` are those with another label, or a number that
    differs by more than ``TOLERANCE``; ``difference`` is the sum of absolute differences, of
    several outputs their mean. ``failed`` and ``dropped`` are requests.
    """

    rows: int = 0
    disagreements: int = 0
    difference: float = 0.0
    failed: int = 0
    dropped: int = 0


class Size(NamedTuple):
    """The size of a request: rows × columns, and bytes of the rows as they were sent."""

    n_values: int
    n_bytes: int


Note: TypeAlias = Callable[[str, int, Outcome], object]
"""Is told of a model and the number of its shadow what came of a request."""


def note_nothing(_model: str, _number: int, _outcome: Outcome) -> None:
    """Do nothing: where there are no metrics."""


class ShadowThread:
    """Lets versions predict one request after the other; ``note`` is told what came of each."""

    def __init__(self, note: Note = note_nothing) -> None:
        self._note = note
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="shadow")
        self._places = BoundedSemaphore(QUEUED)

    def submit(self, model: str, number: int, size: Size, compare: Callable[[], Outcome]) -> None:
        """Have a comparison made, unless too many wait or the request is too large to keep."""
        is_small = size.n_values <= MOST_VALUES and size.n_bytes <= MOST_BYTES
        if is_small and self._places.acquire(blocking=False):
            try:
                self._pool.submit(self._run, model, number, compare)
                return
            except RuntimeError:  # the process is stopping
                self._places.release()
        self._note(model, number, Outcome(dropped=1))

    def close(self) -> None:
        """Drop what waits, and stop the thread."""
        self._pool.shutdown(cancel_futures=True)

    def _run(self, model: str, number: int, compare: Callable[[], Outcome]) -> None:
        try:
            outcome = compare()
        except Exception as error:  # whatever it is, it must not end the thread's work
            outcome = Outcome(failed=1)
            if not isinstance(error, ServiceError):
                log.exception("Version %d of %r cannot be the shadow", number, model)
        finally:
            self._places.release()
        self._note(model, number, outcome)


def compare_scores(answered: Scores, shadow: Scores) -> Outcome:
    """Return in how many rows two versions differ, and by how much.

    Raises ValueError where they have different outputs, and InvalidInput where a difference is
    beyond the range of float64.
    """
    mine, others = np.asarray(answered.values), np.asarray(shadow.values)
    if mine.shape != others.shape:
        raise ValueError(f"predictions of shape {others.shape} instead of {mine.shape}")
    n_rows = len(mine)
    if answered.are_labels or shadow.are_labels:
        differs, difference = mine != others, 0.0
    else:
        with np.errstate(over="ignore"):
            by_value = np.abs(mine - others)
            difference = float(by_value.reshape(n_rows, -1).mean(axis=1).sum())
        if not np.isfinite(difference):  # a counter would never come back from infinity
            raise InvalidInput(["differ beyond the range of float64"])
        differs = by_value > TOLERANCE * np.maximum(np.abs(mine), np.abs(others))
    disagreements = np.count_nonzero(differs.reshape(n_rows, -1).any(axis=1))
    return Outcome(n_rows, int(disagreements), difference)
