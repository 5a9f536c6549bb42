"""What a training does in its own process: fit, judge, and compare with the active version."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from webapp.errors import InvalidInput
from webapp.jobs.processes import MB, Report
from webapp.ml.core import evaluation, training
from webapp.ml.core.boosting import plan_boosting
from webapp.ml.core.datasets import Dataset
from webapp.ml.core.estimators import BOOSTERS, ESTIMATORS, split_pipeline
from webapp.ml.core.formats import skops
from webapp.ml.core.gate import compare
from webapp.ml.core.packing import (
    SourceFiles,
    pack_reduced,
    unpack_dataset,
    unpack_files,
    unpack_reduced,
)
from webapp.ml.core.sources import DataSource, open_source
from webapp.ml.core.streaming import (
    Plan,
    fit_reduced,
    make_plan,
    reduce_parts,
    train_from_source,
    train_in_memory,
)
from webapp.ml.core.training import AUTO, TrainedModel, TrainingSpec
from webapp.ml.errors import ArtifactUnusable

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


@dataclass(frozen=True)
class SourceTraining:
    """A training on packed ``SourceFiles`` below a root.

    Where all rows have to be in memory, they may take ``memory`` bytes as float64. Files of more
    than ``most`` bytes are for several processes, where they can be trained in parts. ``active``
    and ``seconds`` are as for ``fit``.
    """

    packed: bytes
    root: str
    memory: float
    most: int
    active: Mapping[str, Any] | None
    seconds: float

    def open(self) -> tuple[DataSource, SourceFiles, TrainingSpec]:
        """Return the files, how to read them, and how to train; raises InvalidInput."""
        import pyarrow as pa

        pa.set_cpu_count(READING_THREADS)
        pa.set_io_thread_count(READING_THREADS)
        files, further = unpack_files(self.packed)
        source = open_source(self.root, files.pattern, dialect=files.dialect)
        return source, files, _read_spec(further, self.seconds)

    def plan_again(self, digest: str) -> tuple[Plan, TrainingSpec]:
        """Return the plan that has this digest, and how to train.

        Raises InvalidInput where the files are not what they were.
        """
        source, files, spec = self.open()
        plan = make_plan(source, files.choices, spec, memory=self.memory)
        if plan is None or plan.digest != digest:
            raise InvalidInput({"source": ["has changed while it was read: train again"]})
        return plan, spec

    def answer(
        self, trained: TrainedModel, spec: TrainingSpec, artifact: bytes | None = None
    ) -> Answer:
        """Return what ``fit`` does; raises InvalidInput where nothing can be compared.

        ``artifact`` is the file of a model that is not scikit-learn's.
        """
        metric = unpack_files(self.packed)[1]["metric"]
        if metric is not None:
            evaluation.check_metric(metric, trained.signature.task)
            if trained.held_out is None:
                raise nothing_held_out()
        return _answer(trained, spec, metric, self.active, artifact)


def fit_source(report: Report, training: SourceTraining) -> Answer:
    """Train on files; return what ``fit`` does, or the digest of a ``plan`` for several processes.

    With that come the ``sizes`` of its parts, about how many ``rows`` they have, and whether
    ``fit_in_memory`` could train on them, too. For a booster, only the number of ``parts`` is
    returned. Raises InvalidInput.
    """
    source, files, spec = training.open()
    if spec.estimator in BOOSTERS:
        return {"parts": len(plan_boosting(source, files.choices, spec).parts)}
    if source.n_bytes > training.most:
        plan = make_plan(source, files.choices, spec, memory=training.memory)
        if plan is None:
            return fit_in_memory(report, training)
        sizes = [part.size for part in plan.parts]
        return {"plan": plan.digest, "sizes": sizes, "rows": plan.n_rows, "fits": plan.fits}
    trained = train_from_source(
        source,
        files.choices,
        spec,
        clock=time.perf_counter,
        report=lambda done, total: report(done, total, "rows"),
        memory=training.memory,
    )
    return training.answer(trained, spec)


def fit_in_memory(_report: Report, training: SourceTraining) -> Answer:
    """Train on all rows of the files at once; return what ``fit`` does. Raises InvalidInput."""
    source, files, spec = training.open()
    trained = train_in_memory(source, files.choices, spec, clock=time.perf_counter)
    return training.answer(trained, spec)


def reduce_source(
    report: Report, training: SourceTraining, digest: str, start: int, end: int
) -> Answer:
    """Reduce the parts of a plan from ``start`` to ``end``; return that packed, for ``fit_plan``.

    Raises InvalidInput.
    """
    plan, _ = training.plan_again(digest)
    n_read = 0

    def note(n_rows: int) -> None:
        nonlocal n_read
        n_read += n_rows
        report(n_read, None, "rows")

    reduced = reduce_parts(plan.options, plan.parts[start:end], note)
    return {"reduced": pack_reduced(reduced), "rows": reduced.n_rows}


def fit_plan(
    _report: Report, training: SourceTraining, digest: str, seconds: float, *reduced: bytes
) -> Answer:
    """Train on the groups of a plan, reduced in so many seconds; return what ``fit`` does.

    Raises InvalidInput.
    """
    plan, spec = training.plan_again(digest)
    groups = map(unpack_reduced, reduced)
    trained = fit_reduced(plan, spec, groups, clock=time.perf_counter, seconds=seconds)
    return training.answer(trained, spec)


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


def too_heavy(estimator: str | None, excess: str) -> InvalidInput:
    """Return the error of a training that takes too much: of what, and what to change.

    The default ``estimator``, None, is as light as any.
    """
    advice = "try fewer rows or columns"
    if estimator is not None:
        lighter = LIGHTER_THAN_AUTO if estimator == AUTO else ESTIMATORS[estimator].lighter
        advice += f", or {lighter}" if lighter else ""
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
