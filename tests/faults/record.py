"""What the tests of faults have found, as tables at the end of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import pytest

from tests.faults.attacks import Cost

Record: TypeAlias = Callable[[str, int, int, int], None]
"""``record(fault, tried, survived, lost)``.

``tried`` counts injected faults, or operations under way at one; ``lost`` counts acknowledged
work that was not there afterwards, wrong predictions, and requests that should have had an answer.
"""

RecordAttack: TypeAlias = Callable[[str, Cost], None]
"""``record_attack(attack, cost)``: puts what an attack cost into a table of its own."""

PROPERTY, ATTACK = "fault", "attack"
COLUMNS = ("fault", "database", "tried", "survived", "lost")
ATTACK_COLUMNS = ("attack", "sent", "answered", "seconds", "memory", "slowest health")


def format_table(reports: Iterable[pytest.TestReport]) -> list[str]:
    """Return the lines of a Markdown table of all that was recorded; none where nothing was."""
    sums: dict[tuple[str, str], list[int]] = {}
    for fault, database, *figures in _values(reports, PROPERTY):
        before = sums.get((fault, database), [0, 0, 0])
        sums[fault, database] = [a + b for a, b in zip(before, figures, strict=True)]
    return _format(COLUMNS, [(*key, *figures) for key, figures in sums.items()])


def format_attacks(reports: Iterable[pytest.TestReport]) -> list[str]:
    """Return the lines of a Markdown table of what attacks cost; none where there were none."""
    rows = []
    for name, sent, got, seconds, peak, health in _values(reports, ATTACK):
        sizes = [f"{size / 1e6:.2f} MB" for size in (sent, got, peak)]
        rows.append((name, *sizes[:2], f"{seconds:.1f}", sizes[2], f"{health:.2f}"))
    return _format(ATTACK_COLUMNS, rows)


def _values(reports: Iterable[pytest.TestReport], name: str) -> list[Any]:
    # The last report of a test has what its fixtures recorded too.
    last = (report for report in reports if report.when == "teardown")
    return [value for r in last for key, value in r.user_properties if key == name]


def _format(columns: Iterable[str], rows: list[tuple[object, ...]]) -> list[str]:
    if not rows:
        return []
    head: list[Iterable[object]] = [columns, ["---" for _ in columns]]
    return [f"| {' | '.join(map(str, row))} |" for row in [*head, *sorted(rows, key=str)]]
