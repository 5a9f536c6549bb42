"""What the tests of faults share: the recorder of figures, and processes to kill."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.kill_points import KillPoints
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


@pytest.fixture
def kill_points(tmp_path: Path) -> Iterator[KillPoints]:
    """Return a process whose children die where they are told to."""
    process = KillPoints(tmp_path / "kill_points.log")
    yield process
    process.close()
