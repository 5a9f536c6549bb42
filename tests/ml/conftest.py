"""What several tests of machine learning share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from flask import Flask

from tests.conftest import dispose_app, make_app, migrate


@pytest.fixture(scope="module")
def shared_app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flask]:
    """Return one application for all tests of a module: each takes a model of its own."""
    url = f"sqlite:///{tmp_path_factory.mktemp('shared') / 'webapp.db'}"
    migrate(url)
    app = make_app(url)
    yield app
    dispose_app(app)
