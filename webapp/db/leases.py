"""Answers of the database that this process relies on for a limited time: one lease.

Within the lease, counted from before the question was sent, the question costs no query. After it,
one thread asks again and the others wait for it. If no answer comes in time, the last one counts,
marked as stale, and a background thread repeats the question. An operation that changes an answer
waits one lease before it is acknowledged (docs/reliability.md, "Leases").
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from webapp.errors import DatabaseUnavailable, Unavailable

log = logging.getLogger(__name__)

MOST_KEYS = 4096  # answers that a process keeps
PAUSE = 0.5  # seconds between questions while nobody answers

lease_clock: Callable[[], float] = time.monotonic
if hasattr(time, "CLOCK_BOOTTIME"):  # it also counts while the machine is suspended
    lease_clock = functools.partial(time.clock_gettime, time.CLOCK_BOOTTIME)

K = TypeVar("K", bound=Hashable)
A = TypeVar("A")


class _Lease(NamedTuple, Generic[A]):
    answer: A
    asked_at: float
    expires_at: float


@dataclass(eq=False)
class _Entry(Generic[A]):
    """What this process knows about one key."""

    condition: threading.Condition = field(default_factory=threading.Condition)
    lease: _Lease[A] | None = None
    asking: bool = False
    failed: bool = False  # the last question got no answer; the background thread repeats it


class Leases(Generic[K, A]):
    """The database's last answer for each key, shared by all threads of this process.

    ``ask`` asks the database, and raises ``Unavailable`` if it cannot. ``lease`` and ``deadline``
    are in seconds: how long an answer is relied on, and how long a request waits for one. Of more
    than ``MOST_KEYS`` keys the oldest are dropped, and before them those whose answer
    ``is_nothing``: made-up keys must not replace real ones.
    """

    def __init__(
        self,
        ask: Callable[[K], A],
        *,
        lease: float,
        deadline: float,
        is_nothing: Callable[[A], bool],
    ) -> None:
        self._ask_database = ask
        self._lease = lease
        self._deadline = deadline
        self._is_nothing = is_nothing
        self._entries: dict[K, _Entry[A]] = {}
        self._lock = threading.Lock()
        self._recovery: threading.Thread | None = None
        self._closed = threading.Event()

    def get(self, key: K) -> tuple[A, bool]:
        """Return the answer for a key, and whether it is fresh.

        Raises Unavailable if the database cannot be asked and there is no earlier answer.
        """
        entry = self._entries.get(key) or self._add(key)
        lease = entry.lease
        if lease is not None and lease_clock() < lease.expires_at:
            return lease.answer, True
        return self._renew(key, entry)

    def wait_out(self) -> None:
        """Wait until every answer from before now has expired, in every process."""
        time.sleep(self._lease)

    def stale_keys(self) -> list[K]:
        """Return the keys whose last question got no answer."""
        with self._lock:
            return [key for key, entry in self._entries.items() if entry.failed]

    def close(self) -> None:
        """Stop the background thread, which may be asking at this moment."""
        self._closed.set()
        if (recovery := self._recovery) is not None:
            recovery.join(self._deadline)

    def _add(self, key: K) -> _Entry[A]:
        with self._lock:
            if key not in self._entries and len(self._entries) >= MOST_KEYS:
                nothing = (
                    known
                    for known, entry in self._entries.items()
                    if entry.lease is None or self._is_nothing(entry.lease.answer)
                )
                del self._entries[next(nothing, next(iter(self._entries)))]
            return self._entries.setdefault(key, _Entry())

    def _renew(self, key: K, entry: _Entry[A]) -> tuple[A, bool]:
        """Return an answer and whether it is fresh; ask, unless another thread is asking."""
        arrived_at = lease_clock()
        with entry.condition:
            entry.condition.wait_for(lambda: entry.failed or not entry.asking, self._deadline)
            lease = entry.lease
            # However long an answer took, it is fresh for a request that came before the question.
            if lease and (lease_clock() < lease.expires_at or lease.asked_at >= arrived_at):
                return lease.answer, True
            mine = not (entry.asking or entry.failed)
            entry.asking = entry.asking or mine
        if mine:
            try:
                return self._ask(key, entry), True
            except Unavailable:
                if entry.lease is None:
                    raise
        if entry.lease is None:
            raise DatabaseUnavailable
        return entry.lease.answer, False

    def _ask(self, key: K, entry: _Entry[A]) -> A:
        """Ask the database, and wake every thread that waits for the answer."""
        lease, failed, asked_at = entry.lease, True, lease_clock()
        try:
            answer = self._ask_database(key)
            lease, failed = _Lease(answer, asked_at, asked_at + self._lease), False
            return answer
        finally:
            with entry.condition:
                entry.lease, entry.asking, entry.failed = lease, False, failed
                entry.condition.notify_all()
            if failed:
                with self._lock:
                    if self._recovery is None:
                        self._recovery = threading.Thread(
                            target=self._recover, name="lease-recovery", daemon=True
                        )
                        self._recovery.start()

    def _recover(self) -> None:
        """Repeat every failed question until all are answered."""
        while not self._closed.wait(PAUSE):
            with self._lock:
                failed = {key: entry for key, entry in self._entries.items() if entry.failed}
                if not failed:
                    self._recovery = None
                    return
            for key, entry in failed.items():
                try:
                    self._ask(key, entry)
                except Unavailable:
                    continue
                except Exception:  # whatever it is, no other thread would ask again
                    log.exception("The database could not be asked about %r", key)
