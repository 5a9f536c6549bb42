"""What a training does in its own process: fit, judge, and compare with the active version."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from webapp.errors import InvalidInput
from webapp.jobs.processes import MB, Place, Report
from webapp.ml.core import evaluation, training
from webapp.ml.core.boosting import plan_boosting
from webapp.ml.core.datasets import Dataset
from webapp.ml.core.estimators import BOOSTERS, ESTIMATORS, split_pipeline
from webapp.ml.core.formats import skops
from webapp.ml.core.formats.elsewhere import import_library
from webapp.ml.core.gate import compare
from webapp.ml.core.packing import unpack_dataset, unpack_files
from webapp.ml.core.sources import open_source
from webapp.ml.core.streaming import train_from_source
from webapp.ml.core.training import AUTO, TrainedModel, TrainingSpec
from webapp.ml.errors import ArtifactUnusable
from webapp.ml.training import boosting

Answer = dict[str, Any]

LIGHTER_THAN_AUTO = "one estimator of the catalogue"

# A child has one core. Each thread takes 72 MB of address space: its stack, and a heap of glibc's.
READING_THREADS = 2  # that decode, and as many that read
READING_MEMORY = 2 * READING_THREADS * 72 * MB


def fit(
    report: Report,
    packed: bytes,
    active: Mapping[str, Any] | None,
    seconds: float,
    spec: TrainingSpec | None = None,
) -> Answer:
    """Train on a packed dataset; return a version's columns, its artifact, and the judged rows.

    ``active`` is the version to compare with, as ``training.service`` describes it. All must be
    done in so many ``seconds``. ``spec`` says how to train, where the dataset does not. Raises
    InvalidInput where the rows cannot be fitted.
    """
    dataset, further = unpack_dataset(packed)
    spec, metric = spec or _read_spec(further, seconds), further["metric"]
    trained = training.train(dataset, spec, clock=time.perf_counter, report=report)
    trained = replace(trained, warnings=(*dataset.warnings, *trained.warnings))
    return _answer(trained, spec, metric, active)


def _read_spec(further: Mapping[str, Any], seconds: float) -> TrainingSpec:
    """Return how to train, as it came with the rows."""
    spec = TrainingSpec(**further["spec"])
    # What a choice among estimators leaves of the seconds is for the training of the best.
    return replace(spec, time_budget=min(spec.time_budget, seconds / 2))


def fit_source(
    report: Report,
    packed: bytes,
    root: str,
    memory: float,
    active: Mapping[str, Any] | None,
    seconds: float,
    executor: Executor | None = None,
) -> Answer:
    """Train on packed ``SourceFiles`` below a root; return what ``fit`` does.

    Where all rows have to be in memory, they may take ``memory`` bytes as float64. Otherwise the
    ``executor`` reads them, or this process. Raises InvalidInput.
    """
    import pyarrow as pa

    pa.set_cpu_count(READING_THREADS)
    pa.set_io_thread_count(READING_THREADS)
    files, further = unpack_files(packed)
    spec, metric = _read_spec(further, seconds), further["metric"]
    source = open_source(root, files.pattern, dialect=files.dialect)
    if spec.estimator in BOOSTERS:
        return {"n_parts": len(plan_boosting(source, files.choices, spec).parts)}
    trained = train_from_source(
        source,
        files.choices,
        spec,
        clock=time.perf_counter,
        executor=executor,
        report=lambda done, total: report(done, total, "rows"),
        memory=memory,
    )
    if metric is not None:
        evaluation.check_metric(metric, trained.signature.task)
        if trained.held_out is None:
            raise nothing_held_out()
    return _answer(trained, spec, metric, active)


def fit_boosted(
    report: Report,
    packed: bytes,
    root: str,
    active: Mapping[str, Any] | None,
    n_helpers: int,
    place: Place,
) -> Answer:
    """Train a booster on packed ``SourceFiles``; return what ``fit`` does.

    It leads as many steps that help it. Raises InvalidInput.
    """
    trained, spec, metric, library, artifact = boosting.lead(
        report, packed, root, n_helpers, place
    )
    if metric is not None and trained.held_out is None:
        raise nothing_held_out()
    answer = _answer(trained, spec, metric, active, artifact)
    versions = {library: import_library(library).__version__}
    answer["version"] |= {"format": library, "libraries": versions}
    return answer


def nothing_held_out() -> InvalidInput:
    """Return the error of a comparison without rows to judge on."""
    message = (
        "needs rows to judge on: a training of 10 rows or more, with a test_size that holds "
        "out 2 or more"
    )
    return InvalidInput({"metric": [message]})


def _answer(
    trained: TrainedModel,
    spec: TrainingSpec,
    metric: str | None,
    active: Mapping[str, Any] | None,
    artifact: bytes | None = None,
) -> Answer:
    """Return what is stored of a training, and how it compares with the active version."""
    try:
        artifact = artifact or skops.dumps(trained.estimator)
    except ArtifactUnusable:
        raise too_heavy(trained.estimator_name, "makes a model that is too large") from None
    version = _describe(trained, spec)
    answer = {"version": version, "artifact": artifact, "judged": trained.judged.to_bytes()}
    if metric is not None:
        rows = partial(_take_held_out, trained)
        answer["comparison"] = compare(metric, trained.metrics[metric], active, rows)
    return answer


def too_heavy(estimator: str, excess: str) -> InvalidInput:
    """Return the error of a training that takes too much: of what, and what to change."""
    advice = "try fewer rows or columns"
    lighter = LIGHTER_THAN_AUTO if estimator == AUTO else ESTIMATORS[estimator].lighter
    if lighter:
        advice += f", or {lighter}"
    return InvalidInput({"estimator": [f"{excess}: {advice}"]})


def _take_held_out(trained: TrainedModel, task: evaluation.Task) -> Dataset:
    """Return the rows that a training has held out, as a task has them; raises InvalidInput."""
    assert trained.held_out is not None  # noqa: S101 (as checked before the fit)
    rows = trained.held_out.take()
    return evaluation.recode_rows(rows, trained.signature, task, trained.classes)


def _describe(trained: TrainedModel, spec: TrainingSpec) -> dict[str, Any]:
    """Return the columns of the new version: JSON values."""
    basis, means = trained.interval_basis, trained.mean_contributions
    return {
        "task": trained.signature.task,
        "estimator": trained.estimator_name,
        "model_type": type(split_pipeline(trained.estimator)[1]).__name__,
        "params": dict(trained.params),
        "scale": trained.scale,
        "feature_names": list(trained.signature.names),
        "signature": trained.signature.to_json(),
        "classes": None if trained.classes is None else list(trained.classes),
        "metrics": dict(trained.metrics),
        "coefficients": trained.coefficients,
        "importances": None if trained.importances is None else dict(trained.importances),
        "evaluated_on": trained.evaluated_on,
        "n_train": trained.n_train,
        "n_test": trained.n_test,
        "test_size": spec.test_size,
        "random_state": spec.random_state,
        "refit": spec.refit,
        "stratify": spec.stratify if trained.signature.task == "classification" else None,
        "fit_seconds": trained.fit_seconds,
        "converged": trained.converged,
        "data_digest": trained.data_digest,
        "warnings": [asdict(warning) for warning in trained.warnings],
        "profile": dict(trained.profile),
        "interval_basis": None if basis is None else basis.to_json(),
        "mean_contributions": None if means is None else means.tolist(),
    }
