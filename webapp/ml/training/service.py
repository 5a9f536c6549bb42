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
from webapp.ml.core import training
from webapp.ml.core.datasets import Dataset
from webapp.ml.core.metrics import METRICS
from webapp.ml.core.packing import pack_dataset
from webapp.ml.core.signature import Signature, read_signature
from webapp.ml.core.training import TrainingSpec
from webapp.ml.errors import ArtifactUnusable, VersionDeleted
from webapp.ml.registry.models import ModelVersion
from webapp.ml.registry.service import (
    get_active_version,
    library_versions,
    read_artifact,
    store_version,
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
    memory, seconds = settings["MAX_FIT_MEMORY"], settings["MAX_FIT_SECONDS"]

    def prepare(session: Session, order: Order) -> tuple[Any, ...]:
        compares = order.options["metric"] is not None
        active = _describe_active(session, order.model) if compares else None
        return order.payload, active, (memory * 1e6, seconds)

    def limit(order: Order) -> ProcessLimits:
        rows = ROWS_IN_MEMORY * len(order.payload)
        return ProcessLimits(memory=memory * MB + rows, seconds=seconds)

    def store(
        session: Session, order: Order, answer: dict[str, Any], before_commit: Callable[..., Any]
    ) -> ModelVersion:
        return _store(session, leases, order, answer, before_commit=before_commit)

    def explain(order: Order, failure: ProcessFailed) -> Exception:
        if failure.reason == "memory":
            return work.too_large(order.options["estimator"])
        if failure.reason == "seconds":
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
    if metric not in METRICS[dataset.task]:
        known = ", ".join(METRICS[dataset.task])
        raise InvalidInput({"metric": [f"is none of a {dataset.task}, which are {known}"]})
    if not training.count_held_out(len(dataset.y), spec.test_size):
        message = (
            "needs rows to judge on: a training of 10 rows or more, with a test_size that holds "
            "out 2 or more"
        )
        raise InvalidInput({"metric": [message]})


def _describe_active(session: Session, name: str) -> dict[str, Any] | None:
    """Return what a comparison needs of the active version; None where there is none."""
    active = get_active_version(session, name)
    if active is None:
        return None
    described = {
        "id": active.id,
        "number": active.number,
        "format": active.format,
        "signature": read_signature(active).to_json(),
        "profile": active.profile,
        "classes": active.classes,
    }
    try:
        return {**described, "artifact": read_artifact(session, active.artifact_digest)}
    except (ArtifactUnusable, VersionDeleted) as error:
        return {**described, "artifact": b"", "fault": str(error)}


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
    version.warnings += _find_difference(session, order.model, signature)
    if options["metric"] is None:
        storing["activate"] = options["activate"]
    else:
        comparison = dict(answer["comparison"])
        obstacle, over = comparison.pop("obstacle"), comparison.pop("over")
        if obstacle:
            number = comparison["version"]
            message = f"was not compared with the active version {number}, which stays: {obstacle}"
            version.warnings = [*version.warnings, {"column": "", "message": message}]
        version.metrics = {**version.metrics, "comparison": comparison}
        storing |= {"activate": comparison["better"], "over": over}
    return store_version(
        session,
        leases,
        name=order.model,
        version=version,
        artifact=answer["artifact"],
        **storing,
    )


def _find_difference(session: Session, name: str, signature: Signature) -> list[dict[str, str]]:
    """Return a warning where the active version takes other columns, in a list."""
    active = get_active_version(session, name)
    difference = "" if active is None else signature.find_difference(read_signature(active))
    if active is None or not difference:
        return []
    message = f"differs from the active version {active.number}: it {difference}"
    return [{"column": "", "message": message}]
