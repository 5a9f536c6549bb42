"""What the tests of faults share: the recorder of figures."""

from __future__ import annotations

import pytest

from tests.faults.record import PROPERTY, Record


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Record:
    """Return the function that puts a fault's figures into the table at the end of the run."""
    database = "postgresql"
    if "backend" in request.fixturenames:
        database = request.getfixturevalue("backend").name

    def note(fault: str, tried: int, survived: int, lost: int) -> None:
        # Reports carry the properties from the process that ran the test to the one that prints.
        row = (fault, database, tried, survived, lost)
        request.node.user_properties.append((PROPERTY, row))

    return note
