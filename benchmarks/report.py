"""What a run has found: as a table to read, as JSON to keep, and in docs/performance.md."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.ratios import Kind
from benchmarks.rounds import Plan, RowResult

LIBRARIES = (
    *("flask", "gunicorn", "numpy", "orjson", "psycopg2-binary", "pyarrow", "scikit-learn"),
    "sqlalchemy",
)
RIVALS = ("fastapi", "litserve", "bentoml", "mlserver", "uvicorn", "pydantic", "scikit-learn")
BEGIN, END = "<!-- begin: make bench -->\n", "<!-- end: make bench -->\n"
SIGNS = {Kind.SPEED: "≥", Kind.COST: "≤"}
REACHED = {True: "reached", False: "not reached", None: "–"}


def describe_machine(rivals: Path) -> dict[str, Any]:
    """Return cores, Python, and the versions of libraries: ours, and those pinned for rivals."""
    return {
        "cores": os.cpu_count(),
        "architecture": platform.machine(),
        "load_before": round(os.getloadavg()[0], 2),  # of one minute: was it quiet?
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in LIBRARIES},
        "rivals": {
            path.parent.name: read_pins(path.read_text())
            for path in sorted(rivals.glob("*/requirements.txt"))
        },
    }


def read_pins(requirements: str) -> dict[str, str]:
    """Return the pinned versions that say which rival it is."""
    pins = dict(line.split("==", 1) for line in requirements.split() if "==" in line)
    return {name: pins[name] for name in RIVALS if name in pins}


def make_document(
    results: Iterable[RowResult], plan: Plan, *, busy: bool, machine: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a run as plain values: seconds per answer, and what they come to."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine,
        "busy": busy,
        "rounds": plan.rounds,
        "rows": [_describe_row(result) for result in results],
    }


def _describe_row(result: RowResult) -> dict[str, Any]:
    return {
        "name": result.row.name,
        "title": result.row.title,
        "by_rate": result.row.by_rate,
        "seconds": result.seconds,
        "failed": result.failed,
        "comparisons": [
            {
                "of": found.comparison.of,
                "against": found.comparison.against,
                "kind": found.comparison.kind.value,
                "goal": found.comparison.goal,
                "median": found.ratio.median,
                "least": found.ratio.least,
                "most": found.ratio.most,
                "reached": found.reached,
            }
            for found in result.compare()
        ],
    }


def format_section(document: Mapping[str, Any]) -> str:
    """Return what docs/performance.md shows of a document: where and when, and the table."""
    machine = document["machine"]
    rivals = {name: pins[name] for name, pins in machine["rivals"].items() if name in pins}
    load = machine["load_before"]
    quiet = "load not recorded" if load is None else f"load {load:g} beforehand"
    versions = ", ".join(f"{name} {version}" for name, version in rivals.items())
    return (
        f"Measured on {document['date']}: {machine['cores']} cores, {machine['architecture']}, "
        f"{quiet}, Python {machine['python']}, {document['rounds']} rounds; {versions}.\n\n"
        + format_table(document)
    )


def format_table(document: Mapping[str, Any]) -> str:
    """Return a document's table in Markdown: a line per comparison, and those left out."""
    lines = [
        "| what | measured | | against | | ratio (least – most) | goal | |",
        "|---|---|--:|---|--:|---|---|---|",
    ]
    for row in document["rows"]:
        lines += [_format_line(row, found) for found in row["comparisons"]]
        lines += [
            f"| {row['title']} | {name} | not measured: {reason} | | | | | |"
            for name, reason in row["failed"].items()
        ]
    return "\n".join([*lines, ""])


def _format_line(row: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    kind = Kind(found["kind"])
    goal = "–" if found["goal"] is None else f"{SIGNS[kind]} {found['goal']:g}"
    cells = [
        row["title"],
        found["of"],
        format_figure(row["seconds"][found["of"]], by_rate=row["by_rate"]),
        found["against"],
        format_figure(row["seconds"][found["against"]], by_rate=row["by_rate"]),
        f"{format_ratio(found['median'])} {kind.value} "
        f"({format_ratio(found['least'])} – {format_ratio(found['most'])})",
        goal,
        REACHED[found["reached"]],
    ]
    return f"| {' | '.join(cells)} |"


def format_ratio(ratio: float) -> str:
    """Return a ratio with as many digits as its spread can bear."""
    return f"{ratio:.0f}" if ratio >= 20 else f"{ratio:.1f}" if ratio >= 10 else f"{ratio:.2f}"


def format_figure(seconds: Sequence[float], *, by_rate: bool) -> str:
    """Return the median of the rounds: answers per second, or the time of one."""
    ordered = sorted(seconds)
    middle = len(ordered) // 2
    median = (ordered[middle] + ordered[-middle - 1]) / 2
    if by_rate:
        return f"{1 / median:,.0f} / s"
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if median >= size:
            return (
                f"{median / size:.3g} {unit}"
                if median < 100 * size
                else f"{median / size:.0f} {unit}"
            )
    return f"{median * 1e6:.0f} µs"


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Keep a document."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def put_into(readme: str, table: str) -> str:
    """Return the page with another table between its two marks."""
    before, _, rest = readme.partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        raise ValueError("the page has no place for the table")
    return before + BEGIN + table + END + after
