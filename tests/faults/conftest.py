"""What the tests of faults share: the recorder of figures."""

from __future__ import annotations

from collections.abc import Callable

import pytest


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Callable[[str, int, int, int], None]:
    """Return the function that prints a fault's figures."""

    def note(fault: str, tried: int, survived: int, lost: int) -> None:
        print(f"| {request.node.name} | {fault} | {tried} | {survived} | {lost} |")

    return note
