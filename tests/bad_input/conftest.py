"""The application that the census is taken of."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from flask import Flask

from tests.bad_input.census import Census, list_operations, snapshot
from tests.faults.record import Record
from webapp import API_PREFIX


@pytest.fixture
def census(own_app: Flask, record: Record) -> Iterator[Census]:
    """Return a census of an application that holds an item and a trained default model."""
    client = own_app.test_client()
    body = {"X": [[i, i * i % 7, -i] for i in range(1, 5)], "y": [1, 2, 4, 3], "refit": True}
    later = client.post(
        f"{API_PREFIX}/ml/train",
        json={"X": [[1, 2, 3], [4, 5, 6]], "y": [10, 20]},
        headers={"Prefer": "respond-async"},
    )
    assert later.status_code == 202  # nobody works off the queue: it stays job 1
    assert client.post(f"{API_PREFIX}/items", json={"name": "kept"}).status_code == 201
    assert client.post(f"{API_PREFIX}/ml/train", json=body).status_code == 201
    alias = f"{API_PREFIX}/ml/models/default/aliases/champion"
    assert client.put(alias, json={"version": 1}).status_code == 200
    artifact = client.get(f"{API_PREFIX}/ml/models/default/versions/1/artifact").data
    census = Census(own_app, client, list_operations(own_app), artifact)
    yield census
    record("bad input: answers that are 5xx", census.inputs, census.inputs, 0)


@pytest.fixture
def fruitless(census: Census) -> Iterator[Census]:
    """Return a census none of whose inputs may change what is stored."""
    before = snapshot(census.app)
    yield census
    assert snapshot(census.app) == before
