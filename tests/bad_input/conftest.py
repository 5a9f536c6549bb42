"""The application that the census is taken of."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.bad_input.census import Census, list_operations
from tests.conftest import dispose_app, make_app
from tests.faults.record import Record
from webapp import API_PREFIX


@pytest.fixture
def census(database_url: str, record: Record) -> Iterator[Census]:
    """Return a census of an application that holds an item and a trained default model."""
    app = make_app(database_url)
    client = app.test_client()
    body = {"X": [[i, i * i % 7, -i] for i in range(1, 5)], "y": [1, 2, 4, 3], "refit": True}
    assert client.post(f"{API_PREFIX}/items", json={"name": "kept"}).status_code == 201
    assert client.post(f"{API_PREFIX}/ml/train", json=body).status_code == 201
    artifact = client.get(f"{API_PREFIX}/ml/models/default/versions/1/artifact").data
    yield Census(record, app, client, list_operations(app), artifact)
    dispose_app(app)
