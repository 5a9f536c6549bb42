"""Train: from a dataset and its options to a stored version."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from webapp.db.leases import Leases
from webapp.errors import InvalidInput
from webapp.ml.core import evaluation, training
from webapp.ml.core.costs import FitLimits
from webapp.ml.core.datasets import Dataset
from webapp.ml.core.estimators import CATALOGUE, split_pipeline
from webapp.ml.core.formats import skops
from webapp.ml.core.sample_data import make_sample_data
from webapp.ml.core.training import TrainedModel, TrainingSpec
from webapp.ml.errors import ArtifactUnusable, FitTooLong
from webapp.ml.registry.models import Model, ModelVersion
from webapp.ml.registry.service import (
    DEFAULT_MODEL,
    compare_with_active,
    library_versions,
    store_version,
    warn_of_difference,
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
    version.warnings += warn_of_difference(session, name, trained.signature)
    if metric is not None:
        rows = partial(_take_held_out, trained)
        found = trained.metrics[metric]
        storing |= compare_with_active(session, name, version, metric, found, rows)
    return store_version(session, leases, name=name, version=version, artifact=artifact, **storing)


def _check_metric(metric: str, dataset: Dataset, spec: TrainingSpec) -> None:
    """Raise InvalidInput, before the fit, for a metric that nothing could be judged by."""
    evaluation.check_metric(metric, dataset.task)
    if not training.count_held_out(len(dataset.y), spec.test_size):
        message = (
            "needs rows to judge on: a training of 10 rows or more, with a test_size that holds "
            "out 2 or more"
        )
        raise InvalidInput({"metric": [message]})


def _take_held_out(trained: TrainedModel, task: evaluation.Task) -> Dataset:
    """Return the rows that a training has held out, as a task has them; raises InvalidInput."""
    assert trained.held_out is not None  # noqa: S101 (as checked before the fit)
    rows = trained.held_out.take()
    return evaluation.recode_rows(rows, trained.signature, task, trained.classes)


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
        importances=None if trained.importances is None else dict(trained.importances),
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
