"""Every metric in one table: its name, its labels, and what it says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import Metric

from webapp.observability.metrics.tally import Family, Labels, Series

REQUEST_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
TRAINING_SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)


@dataclass(frozen=True)
class Histogram:
    """Durations in seconds, and their number as a counter of its own."""

    family: Family
    help: str
    counter: tuple[str, str]
    bounds: tuple[float, ...]

    def render(self, series: Series, known: Iterable[Labels] = ()) -> Iterator[Metric]:
        """Yield the metrics as Prometheus reads them; of what is ``known``, the counter is 0.

        Prometheus takes the first number of a series for its beginning: whatever was counted
        before would be missing. Buckets of 0 would be ten times as long as all the rest.
        """
        name, text = self.counter
        counter = CounterMetricFamily(name, text, labels=self.family.labels)
        histogram = HistogramMetricFamily(self.family.name, self.help, labels=self.family.labels)
        for labels, (total, *counts) in series.items():
            counter.add_metric(labels, sum(counts))
            buckets, seen = [], 0.0
            for bound, count in zip([*map(str, self.bounds), "+Inf"], counts, strict=True):
                seen += count
                buckets.append((bound, seen))
            histogram.add_metric(labels, buckets, total)
        for labels in known:
            if labels not in series:
                counter.add_metric(labels, 0)
        yield counter
        yield histogram


@dataclass(frozen=True)
class Numbers:
    """Counters, or gauges, that share their labels: the name and help of each."""

    family: Family
    metrics: tuple[tuple[str, str], ...]

    def render(self, series: Series, known: Iterable[Labels] = ()) -> Iterator[Metric]:
        """Yield the metrics as Prometheus reads them; of what is ``known``, all are at least 0."""
        if not self.family.labels:
            known = [()]
        series = {**{labels: [0.0] * self.family.width for labels in known}, **series}
        kind = GaugeMetricFamily if self.family.alive else CounterMetricFamily
        for place, (name, text) in enumerate(self.metrics):
            metric = kind(name, text, labels=self.family.labels)
            for labels, values in series.items():
                metric.add_metric(labels, values[place])
            yield metric


REQUESTS = Histogram(
    Family("webapp_request_duration_seconds", ("route", "method", "status"), 15),
    "Seconds from a request to its answer, by URL rule.",
    ("webapp_requests", "Requests answered, by URL rule."),
    REQUEST_SECONDS,
)
TRAININGS = Histogram(
    Family("webapp_training_duration_seconds", ("outcome",), 14),
    "Seconds that a training took, by how it ended: done, refused or failed.",
    ("webapp_trainings", "Trainings by how they ended: done, refused or failed."),
    TRAINING_SECONDS,
)
PREDICTIONS = Numbers(
    Family("predictions", ("model", "version"), 3),
    (
        ("webapp_predictions", "Requests for predictions answered, by what answered."),
        ("webapp_predicted_rows", "Rows predicted for, by what answered."),
        ("webapp_stale_predictions", "Of the requests, those answered from stale knowledge."),
    ),
)
CACHE = Numbers(
    Family("cache", (), 3),
    (
        ("webapp_artifact_cache_hits", "Versions found loaded when a prediction needed them."),
        ("webapp_artifact_cache_misses", "Versions that had to be loaded."),
        ("webapp_artifact_cache_evictions", "Versions dropped to make room."),
    ),
)
WORKERS = Numbers(
    Family("workers", (), 4, alive=True),
    (
        ("webapp_workers", "Processes that have answered a request and live."),
        ("webapp_database_pool_in_use", "Database connections in use, as requests left them."),
        ("webapp_database_pool_size", "Database connections that the processes may keep."),
        ("webapp_artifact_cache_versions", "Versions that the processes keep loaded."),
    ),
)
METRICS: tuple[Histogram | Numbers, ...] = (REQUESTS, TRAININGS, PREDICTIONS, CACHE, WORKERS)
