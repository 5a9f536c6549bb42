"""What the tests of faults have found, as a table at the end of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

import pytest

Record: TypeAlias = Callable[[str, int, int, int], None]
"""``record(fault, tried, survived, lost)``.

``tried`` counts injected faults, or operations under way at one; ``lost`` counts acknowledged
work that was not there afterwards, wrong predictions, and requests that should have had an answer.
"""

PROPERTY = "fault"
COLUMNS = ("fault", "database", "tried", "survived", "lost")


def format_table(reports: Iterable[pytest.TestReport]) -> list[str]:
    """Return the lines of a Markdown table of all that was recorded; none where nothing was."""
    rows = sorted(
        value
        for report in reports
        if report.when == "call"
        for name, value in report.user_properties
        if name == PROPERTY
    )
    if not rows:
        return []
    head = [" | ".join(COLUMNS), " | ".join("---" for _ in COLUMNS)]
    return [f"| {line} |" for line in [*head, *(" | ".join(map(str, row)) for row in rows)]]
