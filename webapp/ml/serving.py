"""Which version of a model is active, and its compiled scorer, known to this process.

The database is the truth. A process may rely on its last answer ("model m's active version
is v") for one lease, counted from before the question was sent:

    ask ──answer──▶ FRESH ──lease over──▶ ask again (one thread; the others wait a little)
                      ▲                     │
                      │ answer              │ no answer in time
                      └───────────────── STALE: the last known version keeps serving, marked
                                         as stale; a thread beside the requests goes on asking

An operation that changes the active version commits and then waits one lease before it
answers. Every process's older knowledge has then run out: whoever has the operation's answer
never meets the older version again. Between leases a prediction costs no query.

What a version is never changes, so compiled versions are kept by id, the least used dropped.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeAlias

from webapp.errors import DatabaseUnavailable, ServiceError, Unavailable
from webapp.ml.core.datasets import Vector
from webapp.ml.core.intervals import IntervalBasis
from webapp.ml.core.scoring import Scorer

log = logging.getLogger(__name__)

MOST_KEYS = 4096  # answers that a process keeps
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0  # seconds between questions while nobody answers
LOAD_PAUSE = 2.0  # seconds until a version that could not be loaded is tried again

# A clock that goes on while the machine is suspended, where there is one: a process that wakes
# up must not take an hour-old answer for a fresh one.
_CLOCK_ID = getattr(time, "CLOCK_BOOTTIME", None)
lease_clock: Callable[[], float] = (
    time.monotonic if _CLOCK_ID is None else functools.partial(time.clock_gettime, _CLOCK_ID)
)


@dataclass(frozen=True)
class VersionRef:
    """Which version: its row id, for ever its own, and its number within the model."""

    id: int
    number: int


@dataclass(frozen=True)
class Absence:
    """The answer that there is nothing to serve: the error that a request for it ends with."""

    error: Callable[..., ServiceError]
    arguments: tuple[str | int, ...]


@dataclass(frozen=True)
class LoadedVersion:
    """A version ready to predict.

    ``minimum`` and ``maximum``: (n_features,), of the rows that were fitted, where they are known.
    ``classes`` is None for a regression.
    """

    id: int
    model: str
    number: int
    feature_names: tuple[str, ...]
    scorer: Scorer
    classes: tuple[str | int, ...] | None = None
    minimum: Vector | None = None
    maximum: Vector | None = None
    interval_basis: IntervalBasis | None = None


@dataclass(frozen=True)
class ServedVersion:
    """The answer to "what serves this?"; stale when the database could not be asked."""

    version: LoadedVersion
    stale: bool


Key: TypeAlias = tuple[str, int | None]
"""What a request asks for: a model's name, and a version's number or None for the active one."""


@dataclass(frozen=True)
class _Lease:
    """An answer of the database, and when it was asked for."""

    answer: VersionRef | Absence
    asked_at: float
    expires_at: float

    def holds_for(self, arrived_at: float) -> bool:
        """Say whether a request that arrived then may rely on the answer.

        It may within the lease, and also afterwards where the question was sent only after
        the request had come: a slow answer is as good as asking for itself.
        """
        return lease_clock() < self.expires_at or self.asked_at >= arrived_at


class _Known:
    """What this process knows of one key."""

    def __init__(self) -> None:
        self.condition = threading.Condition()
        self.lease: _Lease | None = None
        self.asking = False
        self.unanswered = False  # the last question failed; the recovery thread goes on asking
        self.last_served: VersionRef | None = None
        self.unusable: VersionRef | None = None  # should serve, but cannot be loaded


class ModelServer:
    """Hands out versions of any model, for all threads of this process.

    ``find_version(name, number)`` asks the database for a version, or for a model's active one
    where the number is None; ``load_version(ref)`` builds a version; both raise ``Unavailable``
    when they cannot. ``lease`` and ``deadline`` are in seconds: how long an answer may be relied
    on, and how long a request waits for one. ``capacity`` is the number of versions kept loaded.
    """

    def __init__(
        self,
        *,
        find_version: Callable[[str, int | None], VersionRef | Absence],
        load_version: Callable[[VersionRef], LoadedVersion],
        lease: float,
        deadline: float,
        capacity: int,
    ) -> None:
        self._find_version = find_version
        self._lease = lease
        self._deadline = deadline
        self._keys: OrderedDict[Key, _Known] = OrderedDict()
        self._keys_lock = threading.Lock()
        self._recovering = False
        self._closed = threading.Event()
        self._versions = _VersionCache(load_version, capacity)

    def get_version(self, name: str, number: int | None = None) -> ServedVersion:
        """Return a version of a model, or what is active now where no number is given.

        Raises the error of an Absence where there is none (ModelNotTrained, say), and
        Unavailable when the database cannot be asked and this process knows nothing from before.
        """
        key = (name, number)
        known = self._know(key)
        lease, fresh = known.lease, True
        if lease is None or lease_clock() >= lease.expires_at:
            lease, fresh = self._renew(key, known)
        answer = lease.answer
        if isinstance(answer, Absence):
            known.unusable = None
            raise answer.error(*answer.arguments)
        try:
            version = self._versions.get(answer)
        except Unavailable:
            # A version that cannot be loaded must not take the one before out of service.
            known.unusable, last = answer, known.last_served
            before = None if last is None else self._versions.peek(last)
            if before is None:
                raise
            return ServedVersion(before, stale=True)
        known.last_served, known.unusable = answer, None
        return ServedVersion(version, stale=not fresh)

    def wait_out_leases(self) -> None:
        """Wait until no process can rely on what it was told before now."""
        time.sleep(self._lease)

    def describe_state(self) -> str:
        """Return ``ok``, or which models are stale, and which versions cannot be loaded."""
        with self._keys_lock:
            stale = {name for name, _ in self._unanswered_keys()}
            unusable = {
                f"{name} version {known.unusable.number}"
                for (name, _), known in self._keys.items()
                if known.unusable is not None
            }
        troubles = {"stale": stale, "cannot be loaded": unusable}
        said = [f"{what}: {', '.join(sorted(names))}" for what, names in troubles.items() if names]
        return "; ".join(said) or "ok"

    @property
    def cache(self) -> _VersionCache:
        """The loaded versions, for whoever counts them."""
        return self._versions

    def close(self) -> None:
        """Stop asking beside the requests."""
        self._closed.set()

    def _know(self, key: Key) -> _Known:
        known = self._keys.get(key)
        if known is not None:
            return known
        with self._keys_lock:
            if len(self._keys) >= MOST_KEYS:
                self._forget_a_key()
            return self._keys.setdefault(key, _Known())

    def _forget_a_key(self) -> None:
        # Names that nobody trained go first: made-up names must not push out served models.
        unused = (key for key, known in self._keys.items() if known.last_served is None)
        del self._keys[next(unused, next(iter(self._keys)))]

    def _unanswered_keys(self) -> list[Key]:
        return [key for key, known in self._keys.items() if known.unanswered]

    def _renew(self, key: Key, known: _Known) -> tuple[_Lease, bool]:
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

    def _ask(self, key: Key, known: _Known) -> _Lease:
        """Ask the database, and tell every thread that waits for the answer."""
        lease, unanswered = None, True
        try:
            asked_at = lease_clock()
            answer = self._find_version(*key)
            lease, unanswered = _Lease(answer, asked_at, asked_at + self._lease), False
            return lease
        finally:
            with known.condition:
                known.lease = lease or known.lease
                known.asking, known.unanswered = False, unanswered
                known.condition.notify_all()
            if unanswered:
                self._start_recovery()

    def _start_recovery(self) -> None:
        with self._keys_lock:
            if not self._recovering:
                self._recovering = True
                threading.Thread(target=self._recover, name="lease-recovery", daemon=True).start()

    def _recover(self) -> None:
        """Go on asking for every unanswered key, pausing longer each time, until all answer."""
        pause = FIRST_PAUSE
        while not self._closed.wait(pause):
            with self._keys_lock:
                keys = {key: self._keys[key] for key in self._unanswered_keys()}
                if not keys:
                    self._recovering = False
                    return
            answered = [self._ask_again(key, known) for key, known in keys.items()]
            pause = FIRST_PAUSE if all(answered) else min(2 * pause, LONGEST_PAUSE)

    def _ask_again(self, key: Key, known: _Known) -> bool:
        try:
            self._ask(key, known)
        except Unavailable:
            return False
        except Exception:  # whatever it is, nobody else would go on asking
            log.exception("Asking which version of %r serves failed", key[0])
            return False
        return True


class _VersionCache:
    """Loaded versions by id: each is loaded once, by one thread; the least used go first.

    A version that could not be loaded is not tried again before ``LOAD_PAUSE`` is over: each
    try reads and checks the whole artifact. ``hits``, ``misses`` and ``evictions`` are counts
    since the start.
    """

    def __init__(self, load_version: Callable[[VersionRef], LoadedVersion], capacity: int) -> None:
        self._load_version = load_version
        self._capacity = capacity
        self._lock = threading.Lock()
        self._loaded: OrderedDict[int, LoadedVersion] = OrderedDict()
        self._loading: dict[int, Future[LoadedVersion]] = {}
        self._failed: dict[int, tuple[float, Unavailable]] = {}
        self.hits = self.misses = self.evictions = 0

    def get(self, ref: VersionRef) -> LoadedVersion:
        """Return a version, loading it where needed; raises what loading raises."""
        with self._lock:
            version = self._loaded.get(ref.id)
            if version is not None:
                self._loaded.move_to_end(ref.id)
                self.hits += 1
                return version
            retry_at, failure = self._failed.get(ref.id, (0.0, None))
            if failure is not None and lease_clock() < retry_at:
                raise failure.with_traceback(None)
            theirs = self._loading.get(ref.id)
            self.misses += theirs is None
            mine: Future[LoadedVersion] = self._loading.setdefault(ref.id, Future())
        # Loading happens outside the lock: requests for other versions go on meanwhile.
        return self._load(ref, mine) if theirs is None else theirs.result()

    def peek(self, ref: VersionRef) -> LoadedVersion | None:
        """Return a version if it is loaded; never load it."""
        return self._loaded.get(ref.id)

    def count_loaded(self) -> int:
        """Return how many versions are loaded."""
        return len(self._loaded)

    def _load(self, ref: VersionRef, future: Future[LoadedVersion]) -> LoadedVersion:
        try:
            version = self._load_version(ref)
        except BaseException as error:
            with self._lock:
                del self._loading[ref.id]
                if isinstance(error, Unavailable):
                    self._failed[ref.id] = (lease_clock() + LOAD_PAUSE, error)
            future.set_exception(error)
            log.error("Version %d (id %d) cannot be loaded: %s", ref.number, ref.id, error)
            raise
        with self._lock:
            del self._loading[ref.id]
            self._failed.pop(ref.id, None)
            self._loaded[ref.id] = version
            if len(self._loaded) > self._capacity:
                self._loaded.popitem(last=False)
                self.evictions += 1
        future.set_result(version)
        return version
