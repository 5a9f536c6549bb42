"""What the tests of faults share: processes to kill."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.kill_points import KillPoints


@pytest.fixture
def kill_points(tmp_path: Path) -> Iterator[KillPoints]:
    """Return a process whose children die where they are told to."""
    process = KillPoints(tmp_path / "kill_points.log")
    yield process
    process.close()
