"""Judge versions on rows: from rows to a job, and from its answer to what is kept of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from webapp.audit.service import current_actor, record
from webapp.db.base import Page, begin_write, fetch_page
from webapp.errors import InvalidInput
from webapp.jobs.processes import ProcessFailed, ProcessLimits
from webapp.jobs.runner import Kind
from webapp.jobs.service import Order
from webapp.ml.core.packing import pack_dataset, unpack_dataset
from webapp.ml.core.signature import read_signature
from webapp.ml.errors import ArtifactUnusable, VersionDeleted
from webapp.ml.evaluation import work
from webapp.ml.evaluation.models import Evaluation
from webapp.ml.inference.serving import ModelServer, VersionRef
from webapp.ml.registry.models import take_single
from webapp.ml.registry.service import RowReader, describe_version, get_model, get_version
from webapp.ml.training.service import limit_fit

KIND = "evaluate"
# Of packed rows, 20,000 of ten columns: a forest of 100 trees judges them in 0.2 s, which is what
# it takes to load one in a process of its own. Gradient boosting judges 60 rows in 7 ms, or 120.
QUICK_BYTES = 2**21


def order_evaluation(
    session: Session, *, name: str, number: int, rows: RowReader, holder: str = ""
) -> Order:
    """Return the order to judge a version on rows, which are read as it takes them.

    Raises VersionNotFound, and InvalidInput where the rows do not fit the version.
    """
    version = get_version(session, name, number, is_shown=False)
    ids = {"version": version.id, "model": version.model_id}
    signature, classes = read_signature(version), version.classes
    session.rollback()  # others need the connection while the rows are read
    dataset = rows(signature, classes)
    return Order(
        kind=KIND,
        model=name,
        options={"version": number, "rows": len(dataset.y)},
        # The number may be another version's by then: of a new model with the same name.
        payload=pack_dataset(dataset, **ids),
        holder=holder,
    )


def make_kind(server: ModelServer, settings: Mapping[str, Any]) -> Kind:
    """Return how jobs of this kind are done; few rows are judged by what a server has loaded."""

    def do_at_once(order: Order) -> dict[str, Any] | None:
        if len(order.payload) > QUICK_BYTES:
            return None
        dataset, ids = unpack_dataset(order.payload)
        ref = VersionRef(ids["version"], order.options["version"], ids["model"])
        loaded = server.cache.get(ref)
        judged = work.make_evaluation(loaded.scorer, loaded.classes, dataset)
        return {"version": loaded.id, "evaluation": judged}

    def prepare(session: Session, order: Order) -> tuple[Any, ...]:
        version = get_version(session, order.model, order.options["version"], is_shown=False)
        return order.payload, describe_version(session, version)

    def limit(order: Order) -> ProcessLimits:
        return limit_fit(settings, order)

    def explain(order: Order, failure: ProcessFailed) -> Exception:
        if failure.reason not in ("memory", "seconds"):
            return failure
        allowed = f"{limit(order)} (MAX_FIT_MEMORY, MAX_FIT_SECONDS)"
        return InvalidInput([f"cannot be judged within {allowed}: try fewer rows"])

    return Kind(
        work=work.evaluate,
        limit=limit,
        prepare=prepare,
        store=_store,
        describe=lambda made: {
            "version": made.version.number,
            "metrics": take_single(made.metrics),
        },
        explain=explain,
        do_at_once=do_at_once,
    )


def _store(
    session: Session,
    order: Order,
    answer: dict[str, Any],
    before_commit: Callable[[Evaluation], object],
) -> Evaluation:
    """Store what came of an evaluation.

    Raises VersionNotFound, VersionDeleted, and ArtifactUnusable where it could not be loaded.
    """
    number = order.options["version"]
    begin_write(session)
    get_model(session, order.model, lock=True)  # a deletion waits, or has been
    version = get_version(session, order.model, number, is_shown=False)
    if version.id != answer["version"]:
        raise VersionDeleted
    if "fault" in answer:
        raise ArtifactUnusable(answer["fault"])
    made = Evaluation(version=version, created_by=current_actor().name, **answer["evaluation"])
    session.add(made)
    session.flush()
    record(session, "version.evaluate", f"model {order.model}", {"version": number})
    before_commit(made)
    session.commit()
    return made


def list_evaluations(
    session: Session, *, name: str, number: int, page: int, page_size: int
) -> Page[Evaluation]:
    """Return one page of a version's evaluations, the latest first; raises VersionNotFound."""
    version = get_version(session, name, number)
    query = sa.select(Evaluation).where(Evaluation.version_id == version.id)
    return fetch_page(session, query.order_by(Evaluation.id.desc()), number=page, size=page_size)
