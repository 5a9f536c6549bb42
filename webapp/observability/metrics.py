"""Metrics: what requests do, counted exactly over all workers of a server, shown at `/metrics`.

The counts are in memory that all workers share, with a slot for each process, so that none waits
for another. The kernel's lock on a byte of a file says that a slot is in use, and ends with its
process, however that ends: the next worker takes the slot over and adds to its counts.
"""

from __future__ import annotations

import mmap
import os
import sys
import threading
import time
import weakref
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from tempfile import TemporaryFile
from typing import Any, TypeAlias, cast

import orjson
from flask import Response, current_app, request
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import QueuePool

from webapp.db.outages import outages_translated
from webapp.db.postgresql import time_limit
from webapp.errors import Unavailable
from webapp.observability.observer import PREDICTION, Environ, Facts
from webapp.scopes import Scope
from webapp.web.blueprint import Blueprint

if sys.platform != "win32":
    from fcntl import LOCK_EX, LOCK_NB, LOCK_UN, lockf

MAX_SERIES = 1000  # combinations of labels in a family; the rest is counted as `other`
OTHER = "other"
KEY_WIDTH = 24  # numbers of 8 bytes that a family's name and labels may take
LOOK_SECONDS = 0.1  # between two looks at cache and connections, each of some microseconds
DATABASE_DEADLINE = 1.0  # seconds that a scrape waits for the database

Labels: TypeAlias = tuple[str, ...]


@dataclass(frozen=True)
class Family:
    """Metrics with the same labels: names and help texts.

    With ``bounds`` a counter and a histogram of seconds; else gauges of a live process, or
    counters.
    """

    labels: Labels
    metrics: Mapping[str, str]
    bounds: tuple[float, ...] = ()
    gauges: bool = False

    @cached_property
    def name(self) -> str:
        """The name of the first metric."""
        return next(iter(self.metrics))

    @cached_property
    def width(self) -> int:
        """How many numbers a series has; a histogram has a sum and a count for each bucket."""
        return len(self.bounds) + 2 if self.bounds else len(self.metrics)


REQUESTS = Family(
    ("route", "method", "status"),
    {
        "webapp_requests": "Requests answered, by URL rule.",
        "webapp_request_duration_seconds": "Seconds from a request to its answer, by URL rule.",
    },
    (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
JOBS = Family(
    ("kind", "outcome"),
    {
        "webapp_jobs": "Jobs that ended: succeeded, refused, failed or cancelled.",
        "webapp_job_duration_seconds": "Seconds from when a process took a job up to its end.",
    },
    (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0),
)
LOST_JOBS = Family(
    ("kind",),
    {"webapp_jobs_taken_up_again": "Jobs that were taken up again after their process died."},
)
PREDICTIONS = Family(
    ("model", "version"),
    {
        "webapp_predictions": "Prediction requests answered, by model version.",
        "webapp_predicted_rows": "Rows predicted, by model version.",
        "webapp_stale_predictions": "Prediction requests answered while the database was away.",
    },
)
SHADOWS = Family(
    ("model", "version"),
    {
        "webapp_shadow_rows": "Rows that a shadow predicted too, by its version.",
        "webapp_shadow_disagreements": "Rows for which a shadow predicted something else.",
        "webapp_shadow_absolute_difference": "Sum of the differences of predicted numbers.",
        "webapp_shadow_failures": "Requests that a shadow could not predict for.",
        "webapp_shadow_dropped": "Requests that a shadow was not asked for: too many, or large.",
    },
)
CACHE = Family(
    (),
    {
        "webapp_artifact_cache_hits": "Predictions whose model version was in the cache.",
        "webapp_artifact_cache_misses": "Predictions whose model version had to be loaded.",
        "webapp_artifact_cache_evictions": "Model versions removed from the cache for others.",
    },
)
WORKERS = Family(
    (),
    {
        "webapp_workers": "Live worker processes that have answered a request.",
        "webapp_database_pool_in_use": "Database connections in use.",
        "webapp_database_pool_size": "Database connections that the workers may keep open.",
        "webapp_artifact_cache_versions": "Model versions in the caches of the workers.",
    },
    gauges=True,
)
JOB_GAUGES = {
    "webapp_jobs_queued": "Jobs that wait for a process; none while the database is away.",
    "webapp_jobs_running": "Jobs that have a process; none while the database is away.",
    "webapp_oldest_queued_job_seconds": "Seconds for which the first queued job has waited.",
}
FAMILIES = (REQUESTS, JOBS, LOST_JOBS, PREDICTIONS, SHADOWS, CACHE, WORKERS)


class SharedCounts:
    """Numbers of some families, in memory of this process and all that are forked from it.

    A slot is the count of numbers that are used after it, then entries: a key and its numbers.
    """

    def __init__(self, families: Sequence[Family], *, slots: int) -> None:
        self._families = {family.name: family for family in families}
        size = 1 + sum(
            (KEY_WIDTH + family.width) * (MAX_SERIES + 1 if family.labels else 1)
            for family in families
        )
        # A last slot takes what further processes count, and is never read.
        self._memory = mmap.mmap(-1, (slots + 1) * size * 8)
        self._numbers = memoryview(self._memory).cast("d")
        *self._slots, self._spare = range(0, len(self._numbers), size)
        self._file = TemporaryFile()  # noqa: SIM115 (open as long as this object)
        weakref.finalize(self, self._file.close)
        self._lock = threading.Lock()
        self._process, self._slot = 0, self._spare
        self._places: dict[tuple[str, Labels], int] = {}
        self._n_series: Counter[str] = Counter()

    def record(self, family: Family, labels: Labels, values: Sequence[float]) -> None:
        """Add to the numbers of a series, or set the gauges of this process."""
        with self._lock:
            place = self._find_place(family, labels)
            for index, value in enumerate(values, place):
                self._numbers[index] = value if family.gauges else self._numbers[index] + value

    def observe(self, family: Family, labels: Labels, seconds: float) -> None:
        """Add a duration to a histogram."""
        with self._lock:
            place = self._find_place(family, labels)
            self._numbers[place] += seconds
            self._numbers[place + 1 + bisect_left(family.bounds, seconds)] += 1

    def read(self) -> dict[str, dict[Labels, list[float]]]:
        """Return the sums over all processes, of gauges over live ones, by family and labels."""
        found: dict[str, dict[Labels, list[float]]] = {name: {} for name in self._families}
        for slot in self._slots:
            for (name, labels), place in self._read_slot(slot).items():
                family = self._families[name]
                if not family.gauges or self._is_live(slot):
                    numbers = self._numbers[place : place + family.width]
                    sums = found[name].get(labels, [0.0] * family.width)
                    found[name][labels] = [a + b for a, b in zip(sums, numbers, strict=True)]
        return found

    def _find_place(self, family: Family, labels: Labels) -> int:
        if self._process != os.getpid():  # the first time, or after a fork
            self._process = os.getpid()
            self._slot = next(filter(self._try_lock, self._slots), self._spare)
            if self._slot == self._spare:
                self._numbers[self._spare] = 0
            self._places = self._read_slot(self._slot)
            self._n_series = Counter(name for name, _ in self._places)
        place = self._places.get((family.name, labels))
        return self._add_series(family, labels) if place is None else place

    def _add_series(self, family: Family, labels: Labels) -> int:
        key, rest = orjson.dumps([family.name, *labels]), (OTHER,) * len(labels)
        is_full = self._n_series[family.name] >= MAX_SERIES or len(key) > KEY_WIDTH * 8
        if is_full and labels != rest:
            return self._find_place(family, rest)
        entry = self._slot + 1 + int(self._numbers[self._slot])
        place = entry + KEY_WIDTH
        self._memory[entry * 8 : place * 8] = key.ljust(KEY_WIDTH * 8)
        # Last: readers see whole entries only, and a process may be killed at any time.
        self._numbers[self._slot] += KEY_WIDTH + family.width
        self._places[family.name, labels] = place
        self._n_series[family.name] += 1
        return place

    def _read_slot(self, slot: int) -> dict[tuple[str, Labels], int]:
        places, entry = {}, slot + 1
        end = entry + int(self._numbers[slot])
        while entry < end:
            place = entry + KEY_WIDTH
            name, *labels = orjson.loads(self._memory[entry * 8 : place * 8])
            places[name, tuple(labels)] = place
            entry = place + self._families[name].width
        return places

    def _try_lock(self, slot: int) -> bool:
        if sys.platform != "win32":  # where no server forks
            try:
                lockf(self._file, LOCK_EX | LOCK_NB, 1, slot)
            except OSError:
                return False
        return True

    def _is_live(self, slot: int) -> bool:
        if slot == self._slot or not self._try_lock(slot):
            return True
        lockf(self._file, LOCK_UN, 1, slot)
        return False


class Metrics(Collector):
    """Counts what requests do, and gives all counts to prometheus_client."""

    def __init__(
        self,
        engine: Engine,
        *,
        cache: Callable[[], Any],
        active_versions: Callable[[Session], Iterable[tuple[str, int]]],
        shadows: Callable[[Session], Iterable[tuple[str, int]]],
        jobs: Callable[[Session], Mapping[str, float]],
        workers: int,
        outcomes: Iterable[Labels],
        job_outcomes: Iterable[Labels],
    ) -> None:
        """Count for the processes of a server.

        ``cache`` returns the process's cache of model versions; ``active_versions`` reads names of
        models and the numbers of their active versions, ``shadows`` those of their shadows, and
        ``jobs`` the values of ``JOB_GAUGES``. ``outcomes`` are the routes, methods and statuses,
        ``job_outcomes`` the kinds of jobs and how they end. What these name is shown as 0 from
        the start: Prometheus would miss a counter's first step.
        """
        self._engine = engine
        self._find_cache = cache
        self._active_versions = active_versions
        self._shadows = shadows
        self._jobs = jobs
        self._outcomes, self._job_outcomes = list(outcomes), list(job_outcomes)
        # At a reload old and new workers live side by side; an operator may add some.
        self._counts = SharedCounts(FAMILIES, slots=max(64, 4 * workers))
        self._lock = threading.Lock()
        self._cache_counts = (0, 0, 0)
        self._look_at, self._in_use = 0.0, 0

    def count_request(self, facts: Facts, environ: Environ) -> None:
        """Count an answered request, and what it did."""
        labels = (facts["route"], facts["method"], str(facts["status"]))
        self._counts.observe(REQUESTS, labels, facts["duration_ms"] / 1000)
        if PREDICTION in environ:
            model, version, n_rows, stale = environ[PREDICTION]
            self._counts.record(PREDICTIONS, (model, str(version)), (1, n_rows, stale))
        # Connections in use are looked at until there are none: no further request may come.
        if self._in_use or time.monotonic() >= self._look_at:
            self._look()

    def count_job(self, kind: str, outcome: str, seconds: float) -> None:
        """Count a job that this process has ended."""
        self._counts.observe(JOBS, (kind, outcome), seconds)

    def count_lost_job(self, kind: str) -> None:
        """Count a job that this process takes up again."""
        self._counts.record(LOST_JOBS, (kind,), (1,))

    def count_shadow(self, model: str, version: int, outcome: Sequence[float]) -> None:
        """Count what came of a request for a shadow: a number for each metric of ``SHADOWS``."""
        self._counts.record(SHADOWS, (model, str(version)), outcome)

    def _look(self) -> None:
        """Count what this process holds, now that a request has let go of what it had."""
        with self._lock:
            self._look_at = time.monotonic() + LOOK_SECONDS
            cache, before = self._find_cache(), self._cache_counts
            self._cache_counts = (cache.hits, cache.misses, cache.evictions)
            grown = [new - old for new, old in zip(self._cache_counts, before, strict=True)]
            self._counts.record(CACHE, (), grown)
            pool = cast(QueuePool, self._engine.pool)
            self._in_use = pool.checkedout()
            held = (1, self._in_use, pool.size(), cache.count_loaded())
            self._counts.record(WORKERS, (), held)

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        self._look()
        active = GaugeMetricFamily(
            "webapp_model_active_version",
            "Number of the active version, by model; none while the database is away.",
            labels=("model",),
        )
        up = GaugeMetricFamily("webapp_database_up", "1 if the database answered, else 0.")
        versions: list[Labels] = []
        shadows: list[Labels] = []
        jobs: Mapping[str, float] = {}
        try:
            with (
                outages_translated(),
                time_limit(DATABASE_DEADLINE),
                Session(self._engine) as session,
            ):
                for name, number in self._active_versions(session):
                    active.add_metric((name,), number)
                    versions.append((name, str(number)))
                shadows = [(name, str(number)) for name, number in self._shadows(session)]
                jobs = self._jobs(session)
            up.add_metric((), 1)
        except Unavailable:
            up.add_metric((), 0)
        yield active
        yield up
        for name, value in jobs.items():
            yield GaugeMetricFamily(name, JOB_GAUGES[name], value)
        kinds: list[Labels] = sorted({(kind,) for kind, _ in self._job_outcomes})
        known: tuple[list[Labels], ...] = (self._outcomes, self._job_outcomes, kinds)
        known += (versions, shadows, [()], [()])
        counted = self._counts.read()
        for family, labels in zip(FAMILIES, known, strict=True):
            yield from _render(family, counted[family.name], labels)


def _render(
    family: Family, series: Mapping[Labels, Sequence[float]], known: Iterable[Labels]
) -> Iterator[Metric]:
    """Yield the metrics of a family; counters of ``known`` labels that were not counted are 0."""
    complete = {labels: [0.0] * family.width for labels in known} | dict(series)
    kind = GaugeMetricFamily if family.gauges else CounterMetricFamily
    for index, (name, text) in enumerate(family.metrics.items()):
        if family.bounds and index == 1:
            histogram = HistogramMetricFamily(name, text, labels=family.labels)
            bounds = [*map(str, family.bounds), "+Inf"]
            for labels, (total, *counts) in series.items():
                buckets = list(zip(bounds, accumulate(counts), strict=True))
                histogram.add_metric(labels, buckets, total)
            yield histogram
        else:
            metric = kind(name, text, labels=family.labels)
            for labels, numbers in complete.items():
                metric.add_metric(labels, sum(numbers[1:]) if family.bounds else numbers[index])
            yield metric


blp = Blueprint("metrics", __name__)  # not for the OpenAPI document


@blp.route("/metrics", get="show_metrics")  # type: ignore[untyped-decorator] # flask-smorest's
@blp.allow(Scope.METRICS_READ)
def show_metrics() -> Response:
    """Show what all workers of this server have counted."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(current_app.extensions["metrics"])
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    return Response(encode(registry), content_type=content_type)
