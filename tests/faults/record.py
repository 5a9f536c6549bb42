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
    sums: dict[tuple[str, str], list[int]] = {}
    for report in reports:
        for name, value in report.user_properties:
            if name == PROPERTY and report.when == "call":
                fault, database, *figures = value
                before = sums.get((fault, database), [0, 0, 0])
                sums[fault, database] = [a + b for a, b in zip(before, figures, strict=True)]
    if not sums:
        return []
    rows = [(*key, *figures) for key, figures in sorted(sums.items())]
    head = [" | ".join(COLUMNS), " | ".join("---" for _ in COLUMNS)]
    return [f"| {line} |" for line in [*head, *(" | ".join(map(str, row)) for row in rows)]]
