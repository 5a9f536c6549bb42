"""Search: from a dataset and candidates to a job, and to a version that the best one makes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, replace
from typing import Any

from webapp.db.leases import Leases
from webapp.errors import InvalidInput
from webapp.jobs.processes import ProcessFailed, ProcessLimits, Task
from webapp.jobs.runner import Kind
from webapp.jobs.service import Order
from webapp.jobs.steps import Answer, Steps
from webapp.ml.core.datasets import Dataset
from webapp.ml.core.estimators import CATALOGUE
from webapp.ml.core.packing import pack_dataset
from webapp.ml.core.search import (
    DEFAULT_METRICS,
    Params,
    Search,
    SearchSpec,
    list_candidates,
    run_search,
)
from webapp.ml.core.training import DEFAULT_ESTIMATORS, TrainingSpec
from webapp.ml.registry.models import ModelVersion
from webapp.ml.search import work
from webapp.ml.training import service as training
from webapp.ml.training.service import IF_BETTER
from webapp.ml.training.work import fit

KIND = "search"
MOST_SHOWN = 100  # candidates in the result of a job; the version has all


def order_search(
    *,
    name: str,
    dataset: Dataset,
    spec: SearchSpec,
    activate: bool | str = True,
    source: str | None = None,
    holder: str = "",
) -> Order:
    """Return the order for a search, whose best candidate becomes a version of a model.

    With "if_better" for ``activate``, that is activated only if it is better than the active one
    by the metric of the search, on the rows that are held out. ``source`` is the name of the file
    that the rows came in. Raises InvalidInput for candidates that the catalogue does not allow.
    """
    entry = CATALOGUE[spec.training.estimator or DEFAULT_ESTIMATORS[dataset.task]]
    candidates = list_candidates(entry, spec)
    metric = spec.metric or DEFAULT_METRICS[dataset.task]
    gate = metric if activate == IF_BETTER else None
    if gate is not None:
        training.check_gate(gate, dataset, spec.training)
    described = asdict(spec)
    return Order(
        kind=KIND,
        model=name,
        options={
            "estimator": entry.name,
            "candidates": len(candidates),
            "cv": spec.cv,
            "metric": metric,
            "activate": activate,
            "source": source,
            "rows": len(dataset.X),
        },
        payload=pack_dataset(
            dataset, spec=described.pop("training"), search=described, metric=gate
        ),
        holder=holder,
    )


def make_kind(leases: Leases[Any, Any], settings: Mapping[str, Any]) -> Kind:
    """Return how jobs of this kind are done: candidate by candidate, and then a training."""
    trained = training.make_kind(leases, settings)

    def further(
        steps: Steps, answer: Answer, order: Order, prepare: Callable[[], tuple[Any, ...]]
    ) -> Answer:
        limits = trained.limit(order)
        search = Search(
            candidates=tuple(answer["candidates"]),
            training=TrainingSpec(**answer["training"]),
            cv=order.options["cv"],
            metric=answer["metric"],
            clock=time.monotonic,
            rows=order.payload,
        )
        ranking = run_search(
            search,
            _Processes(steps, limits),
            at_once=steps.at_once,
            report=lambda done, total: steps.report(done, total, "candidates"),
            explain=lambda error: _explain(error, settings["MAX_FIT_SECONDS"]),
        )
        # What is active now is what the best one must be better than.
        fitted = steps.submit(fit, *prepare(), ranking.training, limits=limits).result()
        fitted["version"]["metrics"]["candidates"] = [
            {"metric": ranking.metric, **candidate} for candidate in ranking.candidates
        ]
        return fitted

    def describe(version: ModelVersion) -> dict[str, Any]:
        shown = version.metrics["candidates"][:MOST_SHOWN]
        return {**trained.describe(version), "candidates": shown}

    return replace(trained, work=work.prepare, further=further, describe=describe)


@dataclass(frozen=True)
class _Processes(Executor):
    """Scores candidates, each in a step of a job."""

    steps: Steps
    limits: ProcessLimits

    def submit(  # type: ignore[override] # for this work alone
        self, _score: Any, /, packed: bytes, params: Params, seconds: float
    ) -> Task:
        return self.steps.submit(work.score, packed, params, seconds, limits=self.limits)


def _explain(error: BaseException, seconds: float) -> str | None:
    """Return why a candidate has no scores; None for a fault of ours, and a job that must end."""
    if isinstance(error, InvalidInput):
        return str(error)
    if not isinstance(error, ProcessFailed) or error.reason == "error":
        return None
    return {
        "memory": "needs more memory than MAX_FIT_MEMORY allows",
        "seconds": f"takes longer than the {seconds} seconds that MAX_FIT_SECONDS allows",
        "died": "its process died",
    }[error.reason]
