"""Which version of a model answers, and the versions that this process has loaded.

What the database says of a model holds for one lease (``webapp.db.leases``). While the database
cannot be asked, the last known version keeps serving, marked as stale. A version never changes,
so loaded versions are cached by id.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, NamedTuple, TypeAlias

from webapp.db.leases import Leases, lease_clock
from webapp.errors import ServiceError, Unavailable
from webapp.ml.core.datasets import Vector
from webapp.ml.core.explaining import Explainer
from webapp.ml.core.least_squares import IntervalBasis
from webapp.ml.core.scoring import Scorer
from webapp.ml.core.signature import Signature
from webapp.ml.inference.shadow import ShadowThread

log = logging.getLogger(__name__)

LOAD_PAUSE = 2.0  # seconds until a version that could not be loaded is tried again


@dataclass(frozen=True)
class VersionRef:
    """Which version: its row id, its number within the model, and the row id of the model.

    Row ids are never reused, but numbers and names of models are, after a deletion. ``traffic``:
    what the active version shares its requests with.
    """

    id: int
    number: int
    model_id: int
    traffic: Traffic | None = None


@dataclass(frozen=True)
class Traffic:
    """Which versions share the requests that name none: their percents, 100 in all; the shadow."""

    shares: tuple[tuple[VersionRef, int], ...]
    shadow: VersionRef | None = None

    def choose(self, name: str, key: bytes) -> VersionRef:
        """Return the version that answers requests with a key: in every process the same.

        The name of the model counts, or the same clients would try what is new of every model.
        While a share at the end grows, keys move only to that version.
        """
        hashed = blake2b(name.encode() + b"/", digest_size=8)
        hashed.update(key)
        place = int.from_bytes(hashed.digest(), "big") * 100 >> 64  # 0 to 99
        for version, percent in self.shares:  # noqa: B007 (the last one takes the rest)
            place -= percent
            if place < 0:
                break
        return version


Absence: TypeAlias = Callable[[], ServiceError]
"""There is nothing to serve: makes the error that a request for it ends with."""


@dataclass(frozen=True)
class LoadedVersion:
    """A version ready to predict.

    ``minimum`` and ``maximum``: (n_inputs,), of the fitted rows, where they are known.
    ``classes`` is None for a regression.
    """

    id: int
    model: str
    number: int
    signature: Signature
    scorer: Scorer
    classes: tuple[str | int, ...] | None = None
    minimum: Vector | None = None
    maximum: Vector | None = None
    interval_basis: IntervalBasis | None = None
    explain: Explainer | None = None


Which: TypeAlias = int | str | None
"""Which version of a model a request asks for: a number, an alias, or None for the active one."""
Key: TypeAlias = tuple[str, Which]
"""What a request asks for: a model's name, and which of its versions."""


class TrafficKey(NamedTuple):
    """What decides which version of a shared traffic answers; the size of the rows in bytes."""

    key: bytes
    n_bytes: int


KeyOf: TypeAlias = Callable[[Any], TrafficKey]
"""Returns the key of a request for its rows."""


class Shadow(NamedTuple):
    """The version that predicts too, and answers nothing; the size of the rows in bytes."""

    ref: VersionRef
    n_bytes: int


class ModelServer:
    """Hands out the versions of all models, to all threads of this process.

    ``find_version(name, which)`` asks the database for a version; ``load_version(ref)`` loads it;
    both raise ``Unavailable`` when they cannot. ``lease`` and ``deadline`` are in seconds: how
    long an answer may be relied on, and how long a request waits for one. ``capacity`` is the
    number of versions kept loaded. ``shadows`` lets versions predict that answer nothing.
    """

    def __init__(
        self,
        *,
        find_version: Callable[[str, Which], VersionRef | Absence],
        load_version: Callable[[VersionRef], LoadedVersion],
        lease: float,
        deadline: float,
        capacity: int,
        shadows: ShadowThread | None = None,
    ) -> None:
        self.shadows = shadows or ShadowThread()
        self.leases = Leases[Key, VersionRef | Absence](
            lambda key: find_version(*key),
            lease=lease,
            deadline=deadline,
            is_nothing=callable,  # as an Absence is
        )
        self.cache = VersionCache(load_version, capacity)
        self._last_served: dict[Key, VersionRef] = {}  # of what may be another version later
        self._unusable: dict[Key, VersionRef] = {}  # should serve, but cannot be loaded

    def get_version(self, name: str, which: Which = None) -> tuple[LoadedVersion, bool]:
        """Return a version of a model, by default the active one, and whether it is stale.

        See ``choose_version``.
        """
        version, stale, _ = self.choose_version(name, which)
        return version, stale

    def choose_version(
        self, name: str, which: Which = None, key_of: KeyOf | None = None, rows: Any = None
    ) -> tuple[LoadedVersion, bool, Shadow | None]:
        """Return the version that answers, whether it is stale, and its shadow.

        Where traffic is shared, ``key_of(rows)`` decides, if it is given. A version is stale when
        the database could not be asked for it. Raises the error of an Absence (ModelNotTrained,
        say), and Unavailable when there is no earlier answer either.
        """
        key, moves = (name, which), not isinstance(which, int)
        answer, fresh = self.leases.get(key)
        if not isinstance(answer, VersionRef):
            self._unusable.pop(key, None)
            self._last_served.pop(key, None)
            raise answer()
        shadow = None
        if answer.traffic is not None and key_of is not None:
            asked, found = key_of(rows), answer.traffic.shadow
            shadow = None if found is None else Shadow(found, asked.n_bytes)
            answer = answer.traffic.choose(name, asked.key)
        try:
            version = self.cache.get(answer)
        except Unavailable:
            # An active version that cannot be loaded leaves the one before it in service, and so
            # does one that an alias names, or that has a share of the traffic.
            self._unusable[key] = answer
            before = self._last_served.get(key)
            if before is None or before.model_id != answer.model_id:
                raise
            return self.cache.get(before), True, shadow
        if moves:
            self._last_served[key] = answer
        if self._unusable and self._unusable.get(key) == answer:
            self._unusable.pop(key, None)
        return version, not fresh, shadow

    def describe_state(self) -> str:
        """Return ``ok``, or which models are stale, and which versions cannot be loaded."""
        for key, ref in self._unusable.copy().items():
            with suppress(Unavailable):
                if ref not in _list_refs(self.leases.get(key)[0]):  # it has been deleted, say
                    self._unusable.pop(key, None)
        unusable = self._unusable.copy().items()
        troubles = {
            "stale": {name for name, _ in self.leases.stale_keys()},
            "cannot be loaded": {f"{name} version {ref.number}" for (name, _), ref in unusable},
        }
        said = [f"{what}: {', '.join(sorted(names))}" for what, names in troubles.items() if names]
        return "; ".join(said) or "ok"

    def close(self) -> None:
        """Stop the thread that asks the database after an outage, and that of shadows."""
        self.leases.close()
        self.shadows.close()


def _list_refs(answer: VersionRef | Absence) -> list[VersionRef]:
    """Return the versions that may answer a request."""
    if not isinstance(answer, VersionRef):
        return []
    shares = () if answer.traffic is None else answer.traffic.shares
    return [answer, *(ref for ref, _ in shares)]


class VersionCache:
    """Loaded versions by id: each is loaded once, by one thread; the least used is dropped first.

    A version that could not be loaded is tried again after ``LOAD_PAUSE``: each try reads and
    checks the whole artifact. ``hits``, ``misses`` and ``evictions`` count since the start.
    """

    def __init__(self, load_version: Callable[[VersionRef], LoadedVersion], capacity: int) -> None:
        self._load_version = load_version
        self._capacity = capacity
        self._lock = threading.Lock()
        self._loaded: OrderedDict[int, LoadedVersion] = OrderedDict()
        self._loading: dict[int, threading.Lock] = {}
        self._failed: dict[int, tuple[float, Unavailable]] = {}
        self.hits = self.misses = self.evictions = 0

    def get(self, ref: VersionRef) -> LoadedVersion:
        """Return a version, loaded where it is not yet; raises what loading raises."""
        with self._lock:
            version = self._loaded.get(ref.id)
            if version is not None:
                self._loaded.move_to_end(ref.id)
                self.hits += 1
                return version
            loading = self._loading.setdefault(ref.id, threading.Lock())
        with loading:  # requests for other versions go on meanwhile
            try:
                return self._loaded.get(ref.id) or self._load(ref)
            finally:
                self._loading.pop(ref.id, None)

    def count_loaded(self) -> int:
        """Return how many versions are loaded."""
        return len(self._loaded)

    def _load(self, ref: VersionRef) -> LoadedVersion:
        retry_at, failure = self._failed.get(ref.id, (0.0, None))
        if failure is not None and lease_clock() < retry_at:
            raise failure.with_traceback(None)
        try:
            version = self._load_version(ref)
        except Unavailable as error:
            self._failed[ref.id] = (lease_clock() + LOAD_PAUSE, error)
            log.error("Version %d (id %d) cannot be loaded: %s", ref.number, ref.id, error)
            raise
        with self._lock:
            self.misses += 1
            self._loaded[ref.id] = version
            self._failed.pop(ref.id, None)
            if len(self._loaded) > self._capacity:
                self._loaded.popitem(last=False)
                self.evictions += 1
        return version
