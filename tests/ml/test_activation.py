"""Whoever activates a version holds nobody up while it is loaded, and activates what is there."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from flask import Flask
from sqlalchemy.orm import Session

from tests.conftest import dispose_app, make_app
from webapp.extensions import db
from webapp.items.service import create_item
from webapp.ml.core.datasets import make_dataset
from webapp.ml.core.training import TrainingSpec
from webapp.ml.errors import VersionNotFound, VersionUnusable
from webapp.ml.inference.serving import LoadedVersion, ModelServer
from webapp.ml.registry import service
from webapp.ml.registry.models import ModelVersion
from webapp.ml.training.service import train_model

Action = Callable[[Session, ModelServer], ModelVersion]
DuringLoad = Callable[[Callable[[], object]], list[int]]


@pytest.fixture
def app(database_url: str) -> Iterator[Flask]:
    """Return an application whose writers wait for each other no longer than a second."""
    app = make_app(database_url, DATABASE_TIMEOUT=1)
    yield app
    dispose_app(app)


@pytest.fixture
def server(app: Flask) -> ModelServer:
    """Return the application's model server."""
    return app.extensions["model_server"]


@pytest.fixture
def other(app: Flask) -> Iterator[Session]:
    """Return a session of another writer."""
    with app.app_context(), Session(db.engine, expire_on_commit=False) as session:
        yield session


@pytest.fixture
def during_load(monkeypatch: pytest.MonkeyPatch) -> DuringLoad:
    """Return a function that has something done while the first version is loaded.

    It returns the list that the ids of versions go into as they are loaded.
    """

    def arrange(act: Callable[[], object]) -> list[int]:
        loaded: list[int] = []
        load = service.load_version

        def load_slowly(session: Session, version_id: int) -> LoadedVersion:
            loaded.append(version_id)
            if len(loaded) == 1:
                act()
            return load(session, version_id)

        monkeypatch.setattr(service, "load_version", load_slowly)
        return loaded

    return arrange


def train(session: Session, server: ModelServer, count: int) -> list[ModelVersion]:
    """Train so many versions of the default model; the last is active."""
    return [
        train_model(
            session,
            server,
            name="default",
            dataset=make_dataset(np.array([[0.0], [1.0]]), np.array([value, value + 1.0])),
            spec=TrainingSpec(),
        )
        for value in range(count)
    ]


def activate_first(session: Session, server: ModelServer) -> ModelVersion:
    return service.activate_version(session, server, name="default", number=1)


def roll_back(session: Session, server: ModelServer) -> ModelVersion:
    return service.roll_back(session, server, name="default")


@pytest.mark.parametrize("action", [activate_first, roll_back])
def test_others_write_while_a_version_is_loaded_to_be_activated(
    session: Session,
    other: Session,
    server: ModelServer,
    during_load: DuringLoad,
    action: Action,
) -> None:
    train(session, server, 2)
    loaded = during_load(lambda: create_item(other, name="meanwhile", description=""))

    version = action(session, server)

    assert version.number == 1
    assert loaded == [version.id]
    active = service.get_active_version(other, "default")
    assert active is not None
    assert active.number == 1


@pytest.mark.parametrize("action", [activate_first, roll_back])
def test_a_version_deleted_while_it_is_loaded_is_not_activated(
    session: Session,
    other: Session,
    server: ModelServer,
    during_load: DuringLoad,
    action: Action,
) -> None:
    train(session, server, 2)
    during_load(lambda: service.delete_version(other, server, name="default", number=1))

    with pytest.raises((VersionNotFound, service.NothingToRollBack)):
        action(session, server)

    session.rollback()
    active = service.get_active_version(other, "default")
    assert active is not None
    assert active.number == 2


def test_a_rollback_returns_to_what_was_active_before_it_got_the_lock(
    session: Session, other: Session, server: ModelServer, during_load: DuringLoad
) -> None:
    first, _, third = train(session, server, 3)
    # While version 2 is loaded, somebody else rolls back to it: the way back is to version 1.
    loaded = during_load(lambda: roll_back(other, server))

    version = roll_back(session, server)

    assert version.number == first.number
    assert third.id not in loaded


def test_a_version_that_cannot_be_loaded_is_not_activated(
    session: Session, other: Session, server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(session, server, 2)

    def fail(*_: object) -> LoadedVersion:
        raise service.ArtifactUnusable("its bytes are missing")

    monkeypatch.setattr(service, "load_version", fail)

    with pytest.raises(VersionUnusable, match="bytes are missing"):
        activate_first(session, server)

    session.rollback()
    active = service.get_active_version(other, "default")
    assert active is not None
    assert active.number == 2
