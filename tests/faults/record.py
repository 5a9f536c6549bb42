"""What the tests of faults have found, as a table at the end of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

import pytest

from tests.faults.attacks import Cost

Record: TypeAlias = Callable[[str, int, int, int], None]
"""``record(fault, tried, survived, lost)``.

``tried`` counts injected faults, or operations under way at one; ``lost`` counts acknowledged
work that was not there afterwards, wrong predictions, and requests that should have had an answer.
"""

RecordAttack: TypeAlias = Callable[[str, Cost], None]
"""``record_attack(attack, cost)``: puts what an attack cost into a table of its own."""

PROPERTY = "fault"
COLUMNS = ("fault", "database", "tried", "survived", "lost")
ATTACK = "attack"
ATTACK_COLUMNS = ("attack", "sent", "answered", "seconds", "memory", "slowest health")


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
    return _format(COLUMNS, [(*key, *figures) for key, figures in sorted(sums.items())])


def format_attacks(reports: Iterable[pytest.TestReport]) -> list[str]:
    """Return the lines of a Markdown table of what attacks cost; none where there were none."""
    rows = [
        (
            name,
            _megabytes(sent),
            _megabytes(got),
            f"{seconds:.1f}",
            _megabytes(peak),
            f"{health:.2f}",
        )
        for report in reports
        for key, value in report.user_properties
        if key == ATTACK and report.when == "call"
        for name, sent, got, seconds, peak, health in [value]
    ]
    return _format(ATTACK_COLUMNS, sorted(rows)) if rows else []


def _format(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> list[str]:
    head = [list(columns), ["---" for _ in columns]]
    return [f"| {' | '.join(map(str, row))} |" for row in [*head, *rows]]


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.2f} MB"
