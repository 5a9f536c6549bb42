"""Train: from a dataset and its options to a job, and from its answer to a stored version."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

from sqlalchemy.orm import Session

from webapp.db.leases import Leases
from webapp.errors import InvalidInput
from webapp.jobs.processes import MB, ProcessFailed, ProcessLimits, Work
from webapp.jobs.runner import Kind
from webapp.jobs.service import Order
from webapp.jobs.steps import Answer, Steps
from webapp.ml.core import evaluation, training
from webapp.ml.core.boosting import check_cluster
from webapp.ml.core.datasets import Dataset
from webapp.ml.core.estimators import BOOSTERS
from webapp.ml.core.packing import SourceFiles, pack_dataset, pack_files
from webapp.ml.core.sources import SPLIT_BYTES
from webapp.ml.core.streaming import cut
from webapp.ml.core.training import TrainingSpec
from webapp.ml.registry.models import ModelVersion
from webapp.ml.registry.service import describe_active, store_version
from webapp.ml.training import boosting, work

KIND, SOURCE_KIND, IF_BETTER = "train", "train_source", "if_better"
ROWS_IN_MEMORY = 4  # times: as they come, unpacked, split, and judged


def order_training(
    *,
    name: str,
    dataset: Dataset,
    spec: TrainingSpec,
    activate: bool = True,
    metric: str | None = None,
    source: str | None = None,
    holder: str = "",
) -> Order:
    """Return the order for a training of a model.

    With a ``metric``, its version is activated only if it is better than the active one on the
    rows that are held out; ``comparison`` in its metrics says what was compared. ``source`` is
    the name of the file that the rows came in. Raises InvalidInput for a metric that nothing could
    be judged by.
    """
    check_cluster(spec.estimator, None)
    if metric is not None:
        check_gate(metric, dataset, spec)
    return Order(
        kind=KIND,
        model=name,
        options={
            "estimator": spec.estimator or training.DEFAULT_ESTIMATORS[dataset.task],
            "activate": activate if metric is None else IF_BETTER,
            "metric": metric,
            "source": source,
            "rows": len(dataset.X),
        },
        payload=pack_dataset(dataset, spec=asdict(spec), metric=metric),
        holder=holder,
    )


def order_source_training(
    *,
    name: str,
    files: SourceFiles,
    spec: TrainingSpec,
    root: str | None,
    engine: str = "local",
    activate: bool = True,
    metric: str | None = None,
    holder: str = "",
) -> Order:
    """Return the order for a training on files below the ``root``, which are not read yet.

    ``engine`` is the setting TRAINING_ENGINE. All else is as of ``order_training``. Raises
    InvalidInput where there is no root, and for a booster where it cannot be trained.
    """
    _check_root(root)
    check_cluster(spec.estimator, engine)
    if metric is not None and files.choices.task is not None:
        evaluation.check_metric(metric, files.choices.task)
    if metric is not None and not spec.test_size:
        raise work.nothing_held_out()
    return Order(
        kind=SOURCE_KIND,
        model=name,
        options={
            "estimator": spec.estimator,
            "activate": activate if metric is None else IF_BETTER,
            "metric": metric,
            "source": files.pattern,
            "rows": None,
        },
        payload=pack_files(files, spec=asdict(spec), metric=metric),
        holder=holder,
    )


def make_kinds(leases: Leases[Any, Any], settings: Mapping[str, Any]) -> dict[str, Kind]:
    """Return how jobs of training are done: on rows that came with them, and on files."""
    of_rows = make_kind(leases, settings)

    def prepare(session: Session, order: Order) -> tuple[work.SourceTraining]:
        packed, active, seconds = of_rows.prepare(session, order)
        memory = settings["MAX_FIT_MEMORY"] * MB / ROWS_IN_MEMORY
        root = _check_root(settings["DATA_ROOT"])
        return (work.SourceTraining(packed, root, memory, SPLIT_BYTES, active, seconds),)

    def limit(_order: Order) -> ProcessLimits:
        # As for rows that were sent: what a fit may take, and as much for the rows.
        memory = 2 * settings["MAX_FIT_MEMORY"] * MB + work.READING_MEMORY
        return ProcessLimits(memory, settings["MAX_FIT_SECONDS"])

    def further(
        steps: Steps, answer: Answer, order: Order, prepare: Callable[[], tuple[Any, ...]]
    ) -> Answer:
        if order.options["estimator"] in BOOSTERS:
            return boosting.train(steps, prepare()[0], answer["parts"], limit(order))
        return train_in_steps(steps, answer, limits=limit(order), prepare=prepare)

    def explain(order: Order, failure: ProcessFailed) -> Exception:
        if failure.reason != "memory":
            return of_rows.explain(order, failure)
        advice = "smaller files or row groups, or fewer columns"
        if order.options["estimator"] in BOOSTERS:
            advice += ", or more workers in the cluster"
        message = (
            f"takes more than twice the {settings['MAX_FIT_MEMORY']} MB that MAX_FIT_MEMORY "
            f"allows: try {advice}"
        )
        return InvalidInput({"source": [message]})

    of_files = replace(
        of_rows,
        work=work.fit_source,
        limit=limit,
        prepare=prepare,
        explain=explain,
        further=further,
    )
    return {KIND: of_rows, SOURCE_KIND: of_files}


def train_in_steps(
    steps: Steps,
    answer: Answer,
    *,
    limits: ProcessLimits,
    prepare: Callable[[], tuple[Any, ...]],
) -> Answer:
    """Return what a training on files answers, whose ``plan`` several processes carry out.

    ``prepare()`` returns the arguments of ``work.fit_source``. Raises what a step raises.
    """
    if "plan" not in answer:
        return answer
    plan, started = answer["plan"], time.monotonic()
    # Two for each process: one that is slower than the others has fewer.
    groups = cut(answer["sizes"], 1 if steps.at_once == 1 else 2 * steps.at_once)
    try:
        calls = [(work.reduce_source, *prepare(), plan, *group) for group in groups]
        found = steps.run_all(calls, limits=limits, total=answer["rows"], unit="rows")
        n_rows = sum(group["rows"] for group in found)
        steps.report(n_rows, n_rows, "rows")
        reduced = [group["reduced"] for group in found]
        seconds = time.monotonic() - started
        step = steps.submit(work.fit_plan, *prepare(), plan, seconds, *reduced, limits=limits)
        return step.result()
    except InvalidInput:  # a gap further on, say, which a training in memory may fill
        if not answer["fits"]:
            raise
    return steps.submit(work.fit_in_memory, *prepare(), limits=limits).result()


def _check_root(root: str | None) -> str:
    """Return the data folder; raises InvalidInput where there is none."""
    if root is None:
        message = "needs a data folder, and this service has none: an operator sets DATA_ROOT"
        raise InvalidInput({"source": [message]})
    return root


def make_kind(leases: Leases[Any, Any], settings: Mapping[str, Any]) -> Kind:
    """Return how trainings on rows that came with them are done."""

    def make(order: Order, answer: Answer) -> tuple[ModelVersion, bytes]:
        version = ModelVersion(
            origin="trained",
            judged_rows=answer["judged"],
            source=order.options["source"],
            **answer["version"],
        )
        return version, answer["artifact"]

    def explain(order: Order, failure: ProcessFailed) -> Exception:
        if failure.reason in ("died", "error"):
            return failure
        memory, seconds = settings["MAX_FIT_MEMORY"], settings["MAX_FIT_SECONDS"]
        excess = {
            "memory": f"needs more memory than the {memory} MB that MAX_FIT_MEMORY allows",
            "seconds": f"takes longer than the {seconds} seconds that MAX_FIT_SECONDS allows",
        }
        return work.too_heavy(order.options["estimator"], excess[failure.reason])

    return make_version_kind(
        leases,
        work=work.fit,
        bound=settings["MAX_FIT_SECONDS"],
        limit=lambda order: limit_fit(settings, order),
        make=make,
        explain=explain,
    )


def make_version_kind(
    leases: Leases[Any, Any],
    *,
    work: Work,
    bound: float,
    limit: Callable[[Order], ProcessLimits],
    make: Callable[[Order, Answer], tuple[ModelVersion, bytes]],
    explain: Callable[[Order, ProcessFailed], Exception],
) -> Kind:
    """Return how jobs are done that store a version, and may compare it with the active one.

    ``work`` gets the payload, the version to compare with, if any, and the ``bound``.
    ``make(order, answer)`` returns the version and its artifact.
    """

    def prepare(session: Session, order: Order) -> tuple[Any, ...]:
        compares = order.options["activate"] == IF_BETTER
        active = describe_active(session, order.model) if compares else None
        return order.payload, active, bound

    def store(
        session: Session, order: Order, answer: Answer, before_commit: Callable[..., Any]
    ) -> ModelVersion:
        version, artifact = make(order, answer)
        return store_version(
            session,
            leases,
            name=order.model,
            version=version,
            artifact=artifact,
            activate=order.options["activate"],
            comparison=answer.get("comparison"),
            before_commit=before_commit,
        )

    return Kind(
        work=work,
        limit=limit,
        prepare=prepare,
        store=store,
        describe=lambda version: {"version": version.number, "metrics": version.single_metrics},
        explain=explain,
    )


def limit_fit(settings: Mapping[str, Any], order: Order) -> ProcessLimits:
    """Return what work on the rows of an order may take."""
    memory = settings["MAX_FIT_MEMORY"] * MB + ROWS_IN_MEMORY * len(order.payload)
    return ProcessLimits(memory, settings["MAX_FIT_SECONDS"])


def check_gate(metric: str, dataset: Dataset, spec: TrainingSpec) -> None:
    """Raise InvalidInput, before the fit, for a metric that nothing could be judged by."""
    evaluation.check_metric(metric, dataset.task)
    if not training.count_held_out(len(dataset.y), spec.test_size):
        raise work.nothing_held_out()
