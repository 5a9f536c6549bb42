"""Judge versions on rows, and keep what came of it."""

from __future__ import annotations

from dataclasses import asdict

import sqlalchemy as sa
from sqlalchemy.orm import Session

from webapp.audit.service import current_actor, record
from webapp.db.base import Page, begin_write, fetch_page
from webapp.ml.core import evaluation
from webapp.ml.core.metrics import digest_dataset
from webapp.ml.errors import VersionDeleted
from webapp.ml.evaluation.models import Evaluation
from webapp.ml.inference.serving import ModelServer
from webapp.ml.registry.service import RowReader, get_model, get_version


def evaluate_version(
    session: Session, server: ModelServer, *, name: str, number: int, rows: RowReader
) -> Evaluation:
    """Judge a version on rows, and keep the metrics.

    Raises VersionNotFound, Unavailable, and InvalidInput where the rows do not fit the version.
    """
    loaded, _ = server.get_version(name, number)
    dataset = rows(loaded.signature, loaded.classes)
    made = Evaluation(
        version_id=loaded.id,
        metrics=evaluation.evaluate(loaded.scorer, loaded.classes, dataset),
        n_rows=len(dataset.y),
        data_digest=digest_dataset(dataset),
        warnings=[asdict(warning) for warning in dataset.warnings],
        created_by=current_actor().name,
    )
    begin_write(session)
    get_model(session, name, lock=True)  # a deletion waits, or has been
    if get_version(session, name, number).id != loaded.id:
        raise VersionDeleted
    session.add(made)
    record(session, "version.evaluate", f"model {name}", {"version": number})
    session.commit()
    return made


def list_evaluations(
    session: Session, *, name: str, number: int, page: int, page_size: int
) -> Page[Evaluation]:
    """Return one page of a version's evaluations, the latest first; raises VersionNotFound."""
    version = get_version(session, name, number)
    query = sa.select(Evaluation).where(Evaluation.version_id == version.id)
    return fetch_page(session, query.order_by(Evaluation.id.desc()), number=page, size=page_size)
