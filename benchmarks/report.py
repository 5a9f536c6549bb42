"""What a run has found: as JSON to keep, and as the table that docs/performance.md shows."""

from __future__ import annotations

import os
import platform
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.runner import Kind

BEGIN, END = "<!-- begin: make bench -->\n", "<!-- end: make bench -->\n"
SIGNS = {Kind.SPEED: "≥", Kind.COST: "≤"}
REACHED = {True: "reached", False: "not reached", None: "–"}


def describe_machine(competitors: Path) -> dict[str, Any]:
    """Return cores, load, Python and the versions of competitors; requirements.txt has ours."""
    paths = sorted(competitors.glob("*/requirements.txt"))
    pins = [re.search(f"^{path.parent.name}==.*", path.read_text(), re.M) for path in paths]
    return {
        "cores": os.cpu_count(),
        "architecture": platform.machine(),
        "load_before": round(os.getloadavg()[0], 2),  # of one minute: was it quiet?
        "python": platform.python_version(),
        "competitors": [pin[0].replace("==", " ") for pin in pins if pin],
    }


def format_section(document: Mapping[str, Any]) -> str:
    """Return what docs/performance.md shows of a document: where and when, and the table."""
    machine = document["machine"]
    return (
        f"Measured on {document['date']}: {machine['cores']} cores, {machine['architecture']}, "
        f"load {machine['load_before']:g} beforehand, requests by wrk, "
        f"Python {machine['python']}, {document['rounds']} rounds; "
        f"{', '.join(machine['competitors'])}.\n\n"
        f"{format_table(document['works'])}"
    )


def format_table(works: Sequence[Mapping[str, Any]]) -> str:
    """Return a table in Markdown: a line for each comparison, and for who was left out."""
    lines = [
        "| what | measured | | against | | ratio (least – most) | goal | |",
        "|---|---|--:|---|--:|---|---|---|",
    ]
    for work in works:
        lines += [_format_line(work, found) for found in work["comparisons"]]
        lines += [
            f"| {work['title']} | {name} | not measured: {reason} | | | | | |"
            for name, reason in work["failed"].items()
        ]
    return "\n".join([*lines, ""])


def _format_line(work: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    kind = Kind(found["kind"])
    median, least, most = (format_ratio(found[name]) for name in ("median", "least", "most"))
    cells = [
        work["title"],
        found["of"],
        format_figure(work["seconds"][found["of"]], by_rate=work["by_rate"]),
        found["against"],
        format_figure(work["seconds"][found["against"]], by_rate=work["by_rate"]),
        f"{median} {kind.value} ({least} – {most})",
        "–" if found["goal"] is None else f"{SIGNS[kind]} {found['goal']:g}",
        REACHED[found["reached"]],
    ]
    return f"| {' | '.join(cells)} |"


def format_ratio(ratio: float) -> str:
    """Return a ratio with as many digits as its spread can bear."""
    return f"{ratio:.0f}" if ratio >= 20 else f"{ratio:.1f}" if ratio >= 10 else f"{ratio:.2f}"


def format_figure(seconds: Sequence[float], *, by_rate: bool) -> str:
    """Return the median of the rounds: answers per second, or the time of one."""
    median = statistics.median(seconds)
    if by_rate:
        return f"{1 / median:,.0f} / s"
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if median >= size:
            amount = median / size
            return f"{amount:.3g} {unit}" if amount < 100 else f"{amount:.0f} {unit}"
    return f"{median * 1e6:.0f} µs"


def put_into(page: str, section: str) -> str:
    """Return the page with another section between its two marks."""
    before, _, rest = page.partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        raise ValueError("the page has no place for the table")
    return before + BEGIN + section + END + after
