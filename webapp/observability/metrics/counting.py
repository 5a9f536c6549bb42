"""From a request that is answered to the counts, and from the counts to Prometheus."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import QueuePool

from webapp.db.outages import outages_translated
from webapp.db.postgresql import time_limit
from webapp.errors import Unavailable
from webapp.observability.metrics.families import (
    CACHE,
    METRICS,
    PREDICTIONS,
    REQUEST_SECONDS,
    REQUESTS,
    TRAINING_SECONDS,
    TRAININGS,
    WORKERS,
)
from webapp.observability.metrics.tally import Labels, Tally
from webapp.observability.observer import (
    OUTCOMES,
    Environ,
    find_method,
    find_prediction,
    find_route,
    find_training,
)

DATABASE_DEADLINE = 1.0  # seconds that a scrape waits for the database
NOTE_EVERY = 0.1  # seconds between two looks at what a process holds: each costs some microseconds


class Cache(Protocol):
    """How often this process found a version loaded, had to load it, or dropped one."""

    hits: int
    misses: int
    evictions: int

    def count_loaded(self) -> int:
        """Return how many versions are loaded now."""


class Counting(Collector):
    """Counts what requests do, and tells what was counted by all processes of this server."""

    def __init__(
        self,
        engine: Engine,
        *,
        cache: Callable[[], Cache],
        active_versions: Callable[[Session], Iterable[tuple[str, int]]],
        workers: int,
        outcomes: Iterable[Labels],
    ) -> None:
        """Count for the processes of a server.

        ``cache`` returns the process's cache of loaded versions; ``active_versions`` reads names
        of models and the numbers of their active versions. ``outcomes`` are the routes, methods
        and statuses that are exported as 0 from the start.
        """
        self._known: dict[object, Sequence[Labels]] = {
            REQUESTS: list(outcomes),
            TRAININGS: [(name,) for name in OUTCOMES],
        }
        self._engine = engine
        self._find_cache = cache
        self._active_versions = active_versions
        # At a reload old and new workers live side by side; an operator may add some.
        self._tally = Tally([row.family for row in METRICS], banks=max(64, 4 * workers))
        self._lock = threading.Lock()
        self._cache: Sequence[int] = (0, 0, 0)
        self._state: Sequence[float] = ()
        self._note_at, self._busy = 0.0, False

    def count_request(self, environ: Environ, status: int, seconds: float) -> None:
        """Count a request, and what it did."""
        labels = (find_route(environ), find_method(environ), str(status))
        self._tally.observe(REQUESTS.family, labels, seconds, REQUEST_SECONDS)
        if made := find_prediction(environ):
            version = (made.model, str(made.version))
            self._tally.add(PREDICTIONS.family, version, (1, made.rows, made.stale))
        if training := find_training(environ):
            outcome = (training.outcome,)
            self._tally.observe(TRAININGS.family, outcome, training.seconds, TRAINING_SECONDS)
        if self._busy or time.monotonic() >= self._note_at:
            self._note_process()

    def _note_process(self) -> None:
        """Note what this process holds, now that a request has let go of what it had."""
        self._note_at = time.monotonic() + NOTE_EVERY
        cache, pool = self._find_cache(), self._engine.pool
        now = (cache.hits, cache.misses, cache.evictions)
        in_use = pool.checkedout() if isinstance(pool, QueuePool) else 0
        size = pool.size() if isinstance(pool, QueuePool) else 0
        with self._lock:
            if now != self._cache:
                grown = [max(0, new - old) for new, old in zip(now, self._cache, strict=True)]
                self._tally.add(CACHE.family, (), grown)
                self._cache = now
            self._busy = in_use > 0  # who ends last must not leave it said
            state = (1, in_use, size, cache.count_loaded())
            if state != self._state:
                self._tally.set(WORKERS.family, (), state)
                self._state = state

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        self._note_process()
        versions, active, up = self._ask_database()
        known = {**self._known, PREDICTIONS: versions}
        found = self._tally.read()
        for row in METRICS:
            yield from row.render(found[row.family.name], known.get(row, ()))
        yield active
        yield up

    def _ask_database(self) -> tuple[Sequence[Labels], Metric, Metric]:
        """Return model and version of all that are active, and what is told of them."""
        versions: list[Labels] = []
        active = GaugeMetricFamily(
            "webapp_model_active_version",
            "Number of the version that is active, by model; none while the database is away.",
            labels=("model",),
        )
        up = GaugeMetricFamily("webapp_database_up", "Whether the database answered this scrape.")
        try:
            with (
                outages_translated(),
                time_limit(DATABASE_DEADLINE),
                Session(self._engine) as session,
            ):
                for name, number in self._active_versions(session):
                    active.add_metric((name,), number)
                    versions.append((name, str(number)))
            up.add_metric((), 1)
        except Unavailable:
            up.add_metric((), 0)
        return versions, active, up
