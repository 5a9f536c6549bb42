"""Train: from a dataset and its options to a job, and from its answer to a stored version."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from sqlalchemy.orm import Session

from webapp.db.leases import Leases
from webapp.errors import InvalidInput
from webapp.jobs.processes import MB, ProcessFailed, ProcessLimits
from webapp.jobs.runner import Kind
from webapp.jobs.service import Order
from webapp.ml.core import evaluation, training
from webapp.ml.core.costs import FitLimits
from webapp.ml.core.datasets import Dataset
from webapp.ml.core.packing import pack_dataset
from webapp.ml.core.signature import Signature
from webapp.ml.core.training import TrainingSpec
from webapp.ml.registry.models import ModelVersion
from webapp.ml.registry.service import (
    describe_active,
    library_versions,
    note_comparison,
    store_version,
    warn_of_difference,
)
from webapp.ml.training import work

KIND = "train"
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
    if metric is not None:
        _check_metric(metric, dataset, spec)
    return Order(
        kind=KIND,
        model=name,
        options={
            "estimator": spec.estimator,
            "activate": activate if metric is None else "if_better",
            "metric": metric,
            "source": source,
            "rows": len(dataset.X),
        },
        payload=pack_dataset(dataset, spec=asdict(spec), metric=metric),
        holder=holder,
    )


def make_kind(leases: Leases[Any, Any], settings: Mapping[str, Any]) -> Kind:
    """Return how jobs of this kind are done."""

    def prepare(session: Session, order: Order) -> tuple[Any, ...]:
        compares = order.options["metric"] is not None
        active = describe_active(session, order.model) if compares else None
        return order.payload, active, FitLimits.from_settings(settings)

    def limit(order: Order) -> ProcessLimits:
        memory = settings["MAX_FIT_MEMORY"] * MB + ROWS_IN_MEMORY * len(order.payload)
        return ProcessLimits(memory, settings["MAX_FIT_SECONDS"])

    def store(
        session: Session, order: Order, answer: dict[str, Any], before_commit: Callable[..., Any]
    ) -> ModelVersion:
        return _store(session, leases, order, answer, before_commit=before_commit)

    def explain(order: Order, failure: ProcessFailed) -> Exception:
        if failure.reason == "memory":
            return work.too_large(order.options["estimator"])
        if failure.reason == "seconds":
            seconds = settings["MAX_FIT_SECONDS"]
            message = f"takes more than the {seconds} seconds that MAX_FIT_SECONDS allows"
            return InvalidInput({"estimator": [f"{message}: try fewer rows or columns"]})
        return failure

    return Kind(
        work=work.fit,
        limit=limit,
        prepare=prepare,
        store=store,
        describe=lambda version: {"version": version.number, "metrics": version.single_metrics},
        explain=explain,
    )


def _check_metric(metric: str, dataset: Dataset, spec: TrainingSpec) -> None:
    """Raise InvalidInput, before the fit, for a metric that nothing could be judged by."""
    evaluation.check_metric(metric, dataset.task)
    if not training.count_held_out(len(dataset.y), spec.test_size):
        message = (
            "needs rows to judge on: a training of 10 rows or more, with a test_size that holds "
            "out 2 or more"
        )
        raise InvalidInput({"metric": [message]})


def _store(
    session: Session,
    leases: Leases[Any, Any],
    order: Order,
    answer: dict[str, Any],
    **storing: Any,
) -> ModelVersion:
    """Store the version that a training has made."""
    options, described = order.options, answer["version"]
    version = ModelVersion(
        origin="trained",
        libraries=library_versions(),
        judged_rows=answer["judged"],
        source=options["source"],
        **described,
    )
    signature = Signature.from_json(described["signature"])
    # A new list: the answer may be stored a second time, after an outage.
    warned = warn_of_difference(session, order.model, signature)
    version.warnings = [*version.warnings, *warned]
    if options["metric"] is None:
        storing["activate"] = options["activate"]
    else:
        storing |= note_comparison(version, answer["comparison"])
    return store_version(
        session,
        leases,
        name=order.model,
        version=version,
        artifact=answer["artifact"],
        **storing,
    )
