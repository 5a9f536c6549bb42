"""Train: from a dataset and its options to a stored version."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from webapp.db.leases import Leases
from webapp.errors import InvalidInput
from webapp.ml.core import evaluation, training
from webapp.ml.core.costs import FitLimits
from webapp.ml.core.datasets import Dataset
from webapp.ml.core.estimators import CATALOGUE, split_pipeline
from webapp.ml.core.evaluation import is_better
from webapp.ml.core.formats import skops
from webapp.ml.core.metrics import METRICS
from webapp.ml.core.sample_data import make_sample_data
from webapp.ml.core.signature import Signature, read_signature
from webapp.ml.core.training import TrainedModel, TrainingSpec
from webapp.ml.errors import ArtifactUnusable, FitTooLong, VersionDeleted
from webapp.ml.registry.models import Model, ModelVersion
from webapp.ml.registry.service import (
    DEFAULT_MODEL,
    get_active_version,
    library_versions,
    load_model,
    store_version,
)

NORMAL_LIMITS = FitLimits()


def train_model(
    session: Session,
    leases: Leases[Any, Any],
    *,
    name: str,
    dataset: Dataset,
    spec: TrainingSpec,
    limits: FitLimits = NORMAL_LIMITS,
    metric: str | None = None,
    source: str | None = None,
    **storing: Any,
) -> ModelVersion:
    """Train a model and store it as its next version.

    With a ``metric``, it is activated only if it is better than the active version on the rows
    that are held out; ``comparison`` in its metrics says what was compared. ``source`` is the
    name of the file that the rows came in. ``storing`` goes to
    ``registry.service.store_version``. Raises InvalidInput where the data cannot be fitted, or
    not within ``limits``.
    """
    if metric is not None:
        _check_metric(metric, dataset, spec)
    try:
        with fit_time_limit(limits.seconds):
            trained = training.train(dataset, spec, clock=time.perf_counter, limits=limits)
        artifact = skops.dumps(trained.estimator)
    except (MemoryError, ArtifactUnusable):  # the latter: too large to be stored
        entry = CATALOGUE.get(spec.estimator or "")
        lighter = "" if entry is None else entry.lighter
        message = "makes a model that is too large: try fewer rows or columns"
        faults = {"estimator": [f"{message}, or {lighter}" if lighter else message]}
        raise InvalidInput(faults) from None
    version = _describe_training(trained, dataset, spec)
    version.source = source
    version.warnings += _find_difference(session, name, trained.signature)
    if metric is not None:
        storing |= _compare_with_active(session, name, trained, version, metric)
    return store_version(session, leases, name=name, version=version, artifact=artifact, **storing)


def _find_difference(session: Session, name: str, signature: Signature) -> list[dict[str, str]]:
    """Return a warning where the active version takes other columns, in a list."""
    active = get_active_version(session, name)
    difference = "" if active is None else signature.find_difference(read_signature(active))
    if active is None or not difference:
        return []
    message = f"differs from the active version {active.number}: it {difference}"
    return [{"column": "", "message": message}]


def _check_metric(metric: str, dataset: Dataset, spec: TrainingSpec) -> None:
    """Raise InvalidInput, before the fit, for a metric that nothing could be judged by."""
    if metric not in METRICS[dataset.task]:
        known = ", ".join(METRICS[dataset.task])
        raise InvalidInput({"metric": [f"is none of a {dataset.task}, which are {known}"]})
    if not training.count_held_out(len(dataset.y), spec.test_size):
        message = (
            "needs rows to judge on: a training of 10 rows or more, with a test_size that holds "
            "out 2 or more"
        )
        raise InvalidInput({"metric": [message]})


def _compare_with_active(
    session: Session, name: str, trained: TrainedModel, version: ModelVersion, metric: str
) -> dict[str, Any]:
    """Return whether to activate a new version, and over which; its metrics say why."""
    active, candidate = get_active_version(session, name), trained.metrics[metric]
    comparison = {"metric": metric, "candidate": candidate, "active": None, "version": None}
    if active is None:
        version.metrics = {**version.metrics, "comparison": {**comparison, "better": True}}
        return {"activate": True, "over": None}
    active_id, number = active.id, active.number
    try:
        comparison["active"] = _judge(session, active, trained)[metric]
        undefined = candidate is None or comparison["active"] is None
        obstacle = f"{metric} is undefined for the rows that were held out" if undefined else ""
    except InvalidInput as error:
        obstacle = str(error)
    except (ArtifactUnusable, VersionDeleted) as error:
        obstacle = f"it cannot be loaded: {error}"
    if obstacle:
        message = f"was not compared with the active version {number}, which stays: {obstacle}"
        version.warnings = [*version.warnings, {"column": "", "message": message}]
    better = is_better(metric, candidate, comparison["active"])
    comparison |= {"version": number, "better": better}
    version.metrics = {**version.metrics, "comparison": comparison}
    return {"activate": better, "over": active_id}


def _judge(session: Session, active: ModelVersion, trained: TrainedModel) -> dict[str, Any]:
    """Return the metrics of the active version on the rows that a training has held out.

    Raises InvalidInput where it cannot be judged on them, VersionDeleted and ArtifactUnusable.
    """
    assert trained.held_out is not None  # noqa: S101 (as checked before the fit)
    signature, classes = read_signature(active), active.classes
    task = evaluation.Task(signature, classes)
    rows = trained.held_out.take()
    rows = evaluation.recode_rows(rows, trained.signature, task, trained.classes)
    return evaluation.evaluate(load_model(session, active).scorer, classes, rows)


def seed_default_model(session: Session, leases: Leases[Any, Any]) -> ModelVersion | None:
    """Train the default model on the sample data, unless it has a version; return the new one."""
    if session.scalar(sa.select(Model.last_version).where(Model.name == DEFAULT_MODEL)):
        return None
    return train_model(
        session, leases, name=DEFAULT_MODEL, dataset=make_sample_data(), spec=TrainingSpec()
    )


@contextmanager
def fit_time_limit(seconds: float) -> Iterator[None]:
    """Raise FitTooLong in this block when it takes longer than ``seconds``.

    A thread cannot be killed; CPython can make it raise an exception at its next step of Python
    code. A single call into compiled code ends first: ``webapp.ml.core.costs`` estimates those.
    """
    thread = ctypes.c_ulong(threading.get_ident())
    lock = threading.Lock()
    finished = False

    def interrupt() -> None:
        with lock:  # so that nothing is raised in a thread that has left the block
            if not finished:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(FitTooLong))

    timer = threading.Timer(seconds, interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        with lock:
            finished = True
        timer.cancel()


def _describe_training(
    trained: TrainedModel, dataset: Dataset, spec: TrainingSpec
) -> ModelVersion:
    basis, means = trained.interval_basis, trained.mean_contributions
    return ModelVersion(
        origin="trained",
        task=trained.signature.task,
        estimator=trained.estimator_name,
        model_type=type(split_pipeline(trained.estimator)[1]).__name__,
        params=dict(trained.params),
        scale=trained.scale,
        feature_names=list(dataset.feature_names),
        signature=trained.signature.to_json(),
        classes=None if trained.classes is None else list(trained.classes),
        metrics=dict(trained.metrics),
        coefficients=trained.coefficients,
        libraries=library_versions(),
        evaluated_on=trained.evaluated_on,
        n_train=trained.n_train,
        n_test=trained.n_test,
        test_size=spec.test_size,
        random_state=spec.random_state,
        refit=spec.refit,
        stratify=spec.stratify if trained.signature.task == "classification" else None,
        fit_seconds=trained.fit_seconds,
        converged=trained.converged,
        data_digest=trained.data_digest,
        warnings=[asdict(warning) for warning in (*dataset.warnings, *trained.warnings)],
        profile=dict(trained.profile),
        interval_basis=None if basis is None else basis.to_json(),
        judged_rows=trained.judged.to_bytes(),
        mean_contributions=None if means is None else means.tolist(),
    )
