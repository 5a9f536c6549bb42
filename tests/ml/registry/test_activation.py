"""Storing, activating and deleting versions beside other writers, and when something fails."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from unittest.mock import Mock

import numpy as np
import pytest
import sqlalchemy as sa
from flask import Flask
from sqlalchemy.orm import Session

from tests.conftest import dispose_app, make_app
from webapp.db.leases import Leases
from webapp.extensions import db
from webapp.items.service import create_item
from webapp.ml.blueprint import model_leases
from webapp.ml.core.datasets import make_dataset
from webapp.ml.core.training import TrainingSpec
from webapp.ml.errors import NothingToRollBack, VersionNotFound
from webapp.ml.registry import service
from webapp.ml.registry.models import Activation, Artifact, ModelVersion
from webapp.ml.training.service import train_model

Action = Callable[[Session, Leases], ModelVersion]
DuringLoad = Callable[[Callable[[], object]], list[str]]


@pytest.fixture
def app(database_url: str) -> Iterator[Flask]:
    """Return an application whose writers wait for each other no longer than a second."""
    app = make_app(database_url, DATABASE_TIMEOUT=1)
    yield app
    dispose_app(app)


@pytest.fixture
def leases(app: Flask) -> Leases:
    """Return the leases of the application's model server."""
    with app.app_context():
        return model_leases()


@pytest.fixture
def other(app: Flask) -> Iterator[Session]:
    """Return a session of another writer."""
    with app.app_context(), Session(db.engine, expire_on_commit=False) as session:
        yield session


@pytest.fixture
def during_load(monkeypatch: pytest.MonkeyPatch) -> DuringLoad:
    """Return a function that has something done while the first artifact is loaded.

    It returns the list that the digests of artifacts go into as they are loaded.
    """

    def arrange(act: Callable[[], object]) -> list[str]:
        loaded: list[str] = []
        load = service.load_estimator

        def load_slowly(session: Session, digest: str) -> object:
            loaded.append(digest)
            if len(loaded) == 1:
                act()
            return load(session, digest)

        monkeypatch.setattr(service, "load_estimator", load_slowly)
        return loaded

    return arrange


def train(session: Session, leases: Leases, value: float, **arguments: object) -> ModelVersion:
    dataset = make_dataset(np.array([[0.0], [1.0]]), np.array([value, value]))
    options = {"name": "default", "spec": TrainingSpec(), **arguments}
    return train_model(session, leases, dataset=dataset, **options)


def activate_first(session: Session, leases: Leases) -> ModelVersion:
    return service.activate_version(session, leases, name="default", number=1)


def roll_back(session: Session, leases: Leases) -> ModelVersion:
    return service.roll_back(session, leases, name="default")


def active_number(session: Session) -> int | None:
    session.rollback()
    active = service.get_active_version(session, "default")
    return active and active.number


def count(session: Session, table: type) -> int:
    return session.scalar(sa.select(sa.func.count()).select_from(table)) or 0


@pytest.mark.parametrize("action", [activate_first, roll_back])
def test_others_write_while_a_version_is_loaded_to_be_activated(
    session: Session, other: Session, leases: Leases, during_load: DuringLoad, action: Action
) -> None:
    first, _ = train(session, leases, 0), train(session, leases, 1)
    loaded = during_load(lambda: create_item(other, name="meanwhile", description=""))

    assert action(session, leases).number == 1
    assert loaded == [first.artifact_digest]
    assert active_number(other) == 1


@pytest.mark.parametrize("action", [activate_first, roll_back])
def test_a_version_deleted_while_it_is_loaded_is_not_activated(
    session: Session, other: Session, leases: Leases, during_load: DuringLoad, action: Action
) -> None:
    for value in (0, 1):
        train(session, leases, value)
    during_load(lambda: service.delete_version(other, leases, name="default", number=1))

    with pytest.raises((VersionNotFound, NothingToRollBack)):
        action(session, leases)

    session.rollback()
    assert active_number(other) == 2


def test_a_rollback_returns_to_what_was_active_before_it_got_the_lock(
    session: Session, other: Session, leases: Leases, during_load: DuringLoad
) -> None:
    first, _, third = (train(session, leases, value) for value in (0, 1, 2))
    # While version 2 is loaded, another writer rolls back to it: the way back is to version 1.
    loaded = during_load(lambda: roll_back(other, leases))

    assert roll_back(session, leases).number == first.number
    assert third.artifact_digest not in loaded


def test_a_training_stores_version_artifact_and_activation_together_or_not_at_all(
    session: Session, leases: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(session, leases, 7)
    with monkeypatch.context() as patch:
        patch.setattr(service, "_activate", Mock(side_effect=RuntimeError("killed here")))
        with pytest.raises(RuntimeError):
            train(session, leases, 11)

    assert active_number(session) == 1
    assert [count(session, table) for table in (ModelVersion, Artifact, Activation)] == [1, 1, 1]
    assert train(session, leases, 11).number == 2


def test_bytes_that_a_training_is_about_to_share_are_not_deleted(
    app: Flask, session: Session, leases: Leases
) -> None:
    train(session, leases, 7, name="a", activate=False)
    stored, deleting = threading.Event(), threading.Event()

    def wait_for_deletion(_: ModelVersion) -> None:
        stored.set()
        deleting.wait(10)
        time.sleep(0.1)  # the deletion is now waiting for this transaction

    def train_the_same() -> None:
        with app.app_context(), Session(db.engine, expire_on_commit=False) as own:
            train(own, leases, 7, name="b", before_commit=wait_for_deletion)

    training = threading.Thread(target=train_the_same)
    training.start()
    assert stored.wait(10)
    deleting.set()
    service.delete_version(session, leases, name="a", number=1)
    training.join()

    assert service.get_artifact(session, "b", 1).data
    assert count(session, Artifact) == count(session, ModelVersion) == 1
