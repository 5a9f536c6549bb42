"""What a training does in its own process: fit, judge, and compare with the active version."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from webapp.errors import InvalidInput
from webapp.ml.core import evaluation, training
from webapp.ml.core.costs import FitLimits
from webapp.ml.core.datasets import Dataset
from webapp.ml.core.estimators import CATALOGUE, split_pipeline
from webapp.ml.core.formats import FORMATS, skops
from webapp.ml.core.packing import unpack_dataset
from webapp.ml.core.signature import Signature
from webapp.ml.core.training import TrainedModel, TrainingSpec
from webapp.ml.errors import ArtifactUnusable

Answer = dict[str, Any]


def fit(report: Any, packed: bytes, active: Mapping[str, Any] | None, limits: Any) -> Answer:
    """Train on a packed dataset; return a version's columns, its artifact, and the judged rows.

    ``active`` is the version to compare with, as ``training.service`` describes it. Raises
    InvalidInput where the rows cannot be fitted.
    """
    dataset, further = unpack_dataset(packed)
    spec, metric = TrainingSpec(**further["spec"]), further["metric"]
    trained = training.train(dataset, spec, clock=time.perf_counter, limits=FitLimits(*limits))
    try:
        artifact = skops.dumps(trained.estimator)
    except ArtifactUnusable:
        raise too_large(spec.estimator) from None
    version = _describe(trained, dataset, spec)
    answer = {"version": version, "artifact": artifact, "judged": trained.judged.to_bytes()}
    if metric is not None:
        answer["comparison"] = _compare(trained, metric, active)
    return answer


def too_large(estimator: str | None) -> InvalidInput:
    """Return the error of a model that needs too much memory."""
    entry = CATALOGUE.get(estimator or "")
    lighter = "" if entry is None else entry.lighter
    message = "makes a model that is too large: try fewer rows or columns"
    return InvalidInput({"estimator": [f"{message}, or {lighter}" if lighter else message]})


def _compare(
    trained: TrainedModel, metric: str, active: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return what a metric says of a new model and of the active version, and which is better."""
    candidate = trained.metrics[metric]
    comparison = {"metric": metric, "candidate": candidate, "active": None, "version": None}
    if active is None:
        return {**comparison, "better": True, "obstacle": "", "over": None}
    try:
        comparison["active"] = _judge(active, trained)[metric]
        undefined = candidate is None or comparison["active"] is None
        obstacle = f"{metric} is undefined for the rows that were held out" if undefined else ""
    except InvalidInput as error:
        obstacle = str(error)
    except ArtifactUnusable as error:
        obstacle = f"it cannot be loaded: {error}"
    better = evaluation.is_better(metric, candidate, comparison["active"])
    comparison |= {"version": active["number"], "better": better, "over": active["id"]}
    return {**comparison, "obstacle": obstacle}


def _judge(active: Mapping[str, Any], trained: TrainedModel) -> dict[str, Any]:
    """Return the metrics of the active version on the rows that a training has held out.

    Raises InvalidInput where it cannot be judged on them, and ArtifactUnusable.
    """
    assert trained.held_out is not None  # noqa: S101 (as checked before the fit)
    signature = Signature.from_json(active["signature"])
    if "fault" in active:
        raise ArtifactUnusable(active["fault"])
    task = evaluation.Task(signature, active["classes"])
    rows = trained.held_out.take()
    rows = evaluation.recode_rows(rows, trained.signature, task, trained.classes)
    kind = FORMATS[active["format"]]
    loaded = kind.load(active["artifact"], signature, active["profile"])
    return evaluation.evaluate(loaded.scorer, active["classes"], rows)


def _describe(trained: TrainedModel, dataset: Dataset, spec: TrainingSpec) -> dict[str, Any]:
    """Return the columns of the new version: JSON values."""
    basis = trained.interval_basis
    return {
        "task": trained.signature.task,
        "estimator": trained.estimator_name,
        "model_type": type(split_pipeline(trained.estimator)[1]).__name__,
        "params": dict(trained.params),
        "scale": trained.scale,
        "feature_names": list(dataset.feature_names),
        "signature": trained.signature.to_json(),
        "classes": None if trained.classes is None else list(trained.classes),
        "metrics": dict(trained.metrics),
        "coefficients": trained.coefficients,
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
        "warnings": [asdict(warning) for warning in (*dataset.warnings, *trained.warnings)],
        "profile": dict(trained.profile),
        "interval_basis": None if basis is None else basis.to_json(),
    }
