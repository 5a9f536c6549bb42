"""The use cases of machine learning against a session."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import sqlalchemy as sa
from flask import Flask
from sqlalchemy.orm import Session

from webapp.errors import InvalidInput
from webapp.extensions import db
from webapp.ml.core import artifacts
from webapp.ml.core.datasets import make_dataset
from webapp.ml.core.training import TrainingSpec
from webapp.ml.errors import ArtifactUnusable, ModelNotFound, ModelNotTrained, VersionNotFound
from webapp.ml.inference import service as inference
from webapp.ml.inference.serving import Absence, ModelServer, VersionRef
from webapp.ml.registry import service
from webapp.ml.registry.models import Activation, Artifact, Model, ModelVersion
from webapp.ml.training.service import seed_default_model, train_model


@pytest.fixture
def server(app: Flask) -> ModelServer:
    """Return the application's model server."""
    return app.extensions["model_server"]


def train_constant(
    session: Session, server: ModelServer, value: float, **arguments: object
) -> ModelVersion:
    dataset = make_dataset(np.array([[0.0], [1.0]]), np.array([value, value]))
    return train_model(
        session,
        server,
        **{"name": "default", "dataset": dataset, "spec": TrainingSpec(), **arguments},
    )


def fail(*_: object, **__: object) -> None:
    raise RuntimeError("killed here")


def count(session: Session, table: type) -> int:
    return session.scalar(sa.select(sa.func.count()).select_from(table)) or 0


def test_a_training_stores_version_artifact_and_activation_together(
    session: Session, server: ModelServer
) -> None:
    version = train_constant(session, server, 7)

    active = session.scalars(sa.select(Activation).where(Activation.ended_at.is_(None))).one()
    artifact = session.get_one(Artifact, version.artifact_digest)
    assert (active.version_id, active.version_number) == (version.id, 1)
    estimator = artifacts.loads(artifact.data, version.artifact_digest)
    assert estimator.predict([[0.5]])[0] == pytest.approx(7)


def test_a_training_that_fails_leaves_nothing(session: Session, server: ModelServer) -> None:
    train_constant(session, server, 7)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(service, "_activate", fail)
        with pytest.raises(RuntimeError):
            train_constant(session, server, 11)
    session.rollback()

    assert (count(session, ModelVersion), count(session, Artifact)) == (1, 1)
    assert session.scalars(sa.select(Model.last_version)).one() == 1
    assert train_constant(session, server, 11).number == 2


def test_models_count_their_versions_apart(session: Session, server: ModelServer) -> None:
    numbers = [
        train_constant(session, server, 7, name=name).number for name in ("a", "b", "a", "b", "a")
    ]

    assert numbers == [1, 1, 2, 2, 3]


def test_concurrent_trainings_number_their_versions_without_gap_or_double(
    app: Flask, session: Session, server: ModelServer
) -> None:
    def train() -> None:
        with app.app_context(), Session(db.engine, expire_on_commit=False) as own:
            train_constant(own, server, 7)

    threads = [threading.Thread(target=train) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    numbers = session.scalars(sa.select(ModelVersion.number).order_by(ModelVersion.number)).all()
    active = session.scalars(sa.select(Activation).where(Activation.ended_at.is_(None))).all()
    assert numbers == [1, 2, 3, 4, 5, 6]
    assert len(active) == 1


def test_predictions_follow_the_active_version(session: Session, server: ModelServer) -> None:
    row = np.array([[0.5]])

    for value in (7.0, 11.0):
        train_constant(session, server, value)
        predictions = inference.predict(server, name="default", rows=row)
        assert predictions.scores.values == pytest.approx([value])
        assert predictions.stale is False


def test_a_model_without_versions_is_not_trained(server: ModelServer) -> None:
    with pytest.raises(ModelNotTrained):
        inference.predict(server, name="default", rows=np.array([[0.5]]))
    with pytest.raises(ModelNotFound):
        inference.predict(server, name="nobody", rows=np.array([[0.5]]))


def test_a_damaged_artifact_is_refused(session: Session, server: ModelServer) -> None:
    version = train_constant(session, server, 7)
    session.execute(sa.update(Artifact).values(data=b"damaged"))
    session.commit()

    with pytest.raises(ArtifactUnusable, match="digest"):
        service.load_version(session, version.id)


def test_a_damaged_new_version_leaves_the_one_before_serving(
    session: Session, server: ModelServer
) -> None:
    row = np.array([[0.5]])
    train_constant(session, server, 7)
    inference.predict(server, name="default", rows=row)
    version = train_constant(session, server, 11)
    session.execute(
        sa.update(Artifact)
        .where(Artifact.digest == version.artifact_digest)
        .values(data=b"damaged")
    )
    session.commit()

    predictions = inference.predict(server, name="default", rows=row)

    assert predictions.scores.values == pytest.approx([7])
    assert predictions.stale is True


def test_seeding_trains_once(session: Session, server: ModelServer) -> None:
    first = seed_default_model(session, server)
    second = seed_default_model(session, server)

    assert first is not None
    assert first.number == 1
    assert second is None


def test_a_version_is_found_by_its_number(session: Session, server: ModelServer) -> None:
    version = train_constant(session, server, 7)

    assert service.get_version(session, "default", 1).id == version.id
    with pytest.raises(VersionNotFound):
        service.get_version(session, "default", 2)
    with pytest.raises(VersionNotFound):
        service.get_version(session, "nobody", 1)


def test_the_lease_query_finds_the_active_version(session: Session, server: ModelServer) -> None:
    assert service.find_version(session, "default", None) == Absence(ModelNotTrained, ("default",))

    version = train_constant(session, server, 7)

    assert service.find_version(session, "default", None) == VersionRef(version.id, 1)


def test_training_refuses_rows_that_cannot_be_split(session: Session, server: ModelServer) -> None:
    dataset = make_dataset(np.ones((10, 1)), np.ones(10))

    with pytest.raises(InvalidInput, match="test_size"):
        train_constant(session, server, 7, dataset=dataset, spec=TrainingSpec(test_size=0.99))


def test_bytes_that_a_training_is_about_to_share_are_not_deleted(
    app: Flask, session: Session, server: ModelServer
) -> None:
    train_constant(session, server, 7, name="a", activate=False)
    stored, deleting = threading.Event(), threading.Event()

    def wait_for_deletion(_: ModelVersion) -> None:
        stored.set()
        deleting.wait(10)
        time.sleep(0.1)  # the deletion is now waiting for this transaction

    def train_the_same() -> None:
        with app.app_context(), Session(db.engine, expire_on_commit=False) as own:
            train_constant(own, server, 7, name="b", before_commit=wait_for_deletion)

    training = threading.Thread(target=train_the_same)
    training.start()
    assert stored.wait(10)
    deleting.set()
    service.delete_version(session, server, name="a", number=1)
    training.join()

    assert service.get_artifact(session, "b", 1).data
    assert count(session, Artifact) == count(session, ModelVersion) == 1
