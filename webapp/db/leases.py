"""Answers of the database that this process may rely on for a while: one lease.

The database is the truth. A process may rely on its last answer to a question for one lease,
counted from before the question was sent:

    ask ──answer──▶ FRESH ──lease over──▶ ask again (one thread; the others wait a little)
                      ▲                     │
                      │ answer              │ no answer in time
                      └───────────────── STALE: the last answer goes on counting, marked as
                                         stale; a thread beside the requests goes on asking

An operation that changes an answer commits and then waits one lease before it says that it is
done. Every process's older knowledge has then run out: whoever has been told never meets the
older answer again. Between leases a question costs no query.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from webapp.errors import DatabaseUnavailable, Unavailable

log = logging.getLogger(__name__)

MOST_KEYS = 4096  # answers that a process keeps
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0  # seconds between questions while nobody answers

# A clock that goes on while the machine is suspended, where there is one: a process that wakes
# up must not take an hour-old answer for a fresh one.
_CLOCK_ID = getattr(time, "CLOCK_BOOTTIME", None)
lease_clock: Callable[[], float] = (
    time.monotonic if _CLOCK_ID is None else functools.partial(time.clock_gettime, _CLOCK_ID)
)

K = TypeVar("K", bound=Hashable)
A = TypeVar("A")


@dataclass(frozen=True)
class Lease(Generic[A]):
    """An answer of the database, and when it was asked for."""

    answer: A
    asked_at: float
    expires_at: float

    def holds_for(self, arrived_at: float) -> bool:
        """Say whether a request that arrived then may rely on the answer.

        It may within the lease, and also afterwards where the question was sent only after
        the request had come: a slow answer is as good as asking for itself.
        """
        return lease_clock() < self.expires_at or self.asked_at >= arrived_at


class _Known(Generic[A]):
    """What this process knows of one key."""

    def __init__(self) -> None:
        self.condition = threading.Condition()
        self.lease: Lease[A] | None = None
        self.asking = False
        self.unanswered = False  # the last question failed; the recovery thread goes on asking


class Leases(Generic[K, A]):
    """What the database last said about each key, for all threads of this process.

    ``ask`` asks it, and raises ``Unavailable`` when it cannot. ``lease`` and ``deadline`` are in
    seconds: how long an answer may be relied on, and how long a request waits for one. Of more
    than ``MOST_KEYS``, the oldest go, and first those whose answer ``is_nothing``: made-up keys
    must not push out what is there.
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
        self._keys: OrderedDict[K, _Known[A]] = OrderedDict()
        self._lock = threading.Lock()
        self._recovering = False
        self._closed = threading.Event()

    def get(self, key: K) -> tuple[A, bool]:
        """Return the answer for a key, and whether it is fresh.

        Raises Unavailable when the database cannot be asked and this process knows nothing from
        before.
        """
        known = self._keys.get(key) or self._know(key)
        lease = known.lease
        if lease is None or lease_clock() >= lease.expires_at:
            lease, fresh = self._renew(key, known)
            return lease.answer, fresh
        return lease.answer, True

    def wait_out(self) -> None:
        """Wait until no process can rely on what it was told before now."""
        time.sleep(self._lease)

    def stale_keys(self) -> list[K]:
        """Return the keys for which the database was asked in vain."""
        with self._lock:
            return self._unanswered()

    def close(self) -> None:
        """Stop asking beside the requests."""
        self._closed.set()

    def _know(self, key: K) -> _Known[A]:
        with self._lock:
            if key not in self._keys and len(self._keys) >= MOST_KEYS:
                self._forget_a_key()
            return self._keys.setdefault(key, _Known())

    def _forget_a_key(self) -> None:
        nothing = (
            key
            for key, known in self._keys.items()
            if known.lease is None or self._is_nothing(known.lease.answer)
        )
        del self._keys[next(nothing, next(iter(self._keys)))]

    def _unanswered(self) -> list[K]:
        return [key for key, known in self._keys.items() if known.unanswered]

    def _renew(self, key: K, known: _Known[A]) -> tuple[Lease[A], bool]:
        """Return an answer and whether it is fresh; ask, unless another thread is asking."""
        arrived_at = lease_clock()
        gives_up_at = time.monotonic() + self._deadline
        with known.condition:
            while known.asking and not known.unanswered:
                if not known.condition.wait(gives_up_at - time.monotonic()):
                    break
            if known.lease is not None and known.lease.holds_for(arrived_at):
                return known.lease, True
            mine = not (known.asking or known.unanswered)
            known.asking = known.asking or mine
        if mine:
            try:
                return self._ask(key, known), True
            except Unavailable:
                if known.lease is None:
                    raise
        if known.lease is None:
            raise DatabaseUnavailable
        return known.lease, False

    def _ask(self, key: K, known: _Known[A]) -> Lease[A]:
        """Ask the database, and tell every thread that waits for the answer."""
        lease, unanswered = None, True
        try:
            asked_at = lease_clock()
            answer = self._ask_database(key)
            lease, unanswered = Lease(answer, asked_at, asked_at + self._lease), False
            return lease
        finally:
            with known.condition:
                known.lease = lease or known.lease
                known.asking, known.unanswered = False, unanswered
                known.condition.notify_all()
            if unanswered:
                self._start_recovery()

    def _start_recovery(self) -> None:
        with self._lock:
            if not self._recovering:
                self._recovering = True
                threading.Thread(target=self._recover, name="lease-recovery", daemon=True).start()

    def _recover(self) -> None:
        """Go on asking for every unanswered key, pausing longer each time, until all answer."""
        pause = FIRST_PAUSE
        while not self._closed.wait(pause):
            with self._lock:
                keys = {key: self._keys[key] for key in self._unanswered()}
                if not keys:
                    self._recovering = False
                    return
            answered = [self._ask_again(key, known) for key, known in keys.items()]
            pause = FIRST_PAUSE if all(answered) else min(2 * pause, LONGEST_PAUSE)

    def _ask_again(self, key: K, known: _Known[A]) -> bool:
        try:
            self._ask(key, known)
        except Unavailable:
            return False
        except Exception:  # whatever it is, nobody else would go on asking
            log.exception("Asking about %r failed", key)
            return False
        return True
