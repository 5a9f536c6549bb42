"""Measures this service beside its rivals and the floors under it: `make bench`.

Every row is measured in rounds that interleave its contenders. A whole run on a quiet machine is
kept: as JSON and as a chart in `benchmarks/results/`, and as the table of docs/performance.md.
"""

from __future__ import annotations

import os

# As in gunicorn's workers, and before NumPy is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import json
import logging
import signal
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from benchmarks import chart, report
from benchmarks.rounds import Plan, busy_process, measure_row
from benchmarks.rows import ROWS
from benchmarks.services import RIVALS, ROOT, Fleet

RESULTS = ROOT / "benchmarks" / "results"
QUICK = Plan(rounds=2, seconds=1)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = [row.name for row in ROWS]
    parser.add_argument("--only", action="append", choices=names, metavar="NAME")
    parser.add_argument("--rounds", type=int, default=Plan.rounds)
    parser.add_argument("--quick", action="store_true", help="two short rounds; nothing is kept")
    parser.add_argument("--busy", action="store_true", help="beside a process that never rests")
    parser.add_argument("--redraw", action="store_true", help="show anew what was kept")
    parser.add_argument("--list", action="store_true", help="name the rows")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure what the options ask for; return it as a document."""
    plan = QUICK if options.quick else Plan(rounds=options.rounds)
    rows = [row for row in ROWS if not options.only or row.name in options.only]
    machine = report.describe_machine(RIVALS)
    load = busy_process(sys.executable) if options.busy else nullcontext()
    with load, Fleet() as fleet:
        results = [
            measure_row(row, fleet, plan, lambda text: print(text, file=sys.stderr))
            for row in rows
        ]
    return report.make_document(results, plan, busy=options.busy, machine=machine)


def keep(document: dict[str, Any]) -> None:
    """Keep a whole run; that of a quiet machine is also shown in docs/performance.md."""
    name = "busy" if document["busy"] else "quiet"
    report.write_json(RESULTS / f"{name}.json", document)
    (RESULTS / f"{name}.svg").write_text(chart.draw(document))
    if not document["busy"]:
        page = ROOT / "docs" / "performance.md"
        page.write_text(report.put_into(page.read_text(), report.format_section(document)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print the table, and return 1 where a contender failed."""
    options = parse(arguments)
    if options.list:
        print("\n".join(f"{row.name:14} {row.title}" for row in ROWS))
        return 0
    if options.redraw:
        keep(json.loads((RESULTS / "quiet.json").read_text()))
        return 0
    logging.disable(logging.INFO)  # which migrations run
    # Ended from outside, the servers end too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    document = run(options)
    print(report.format_section(document))
    if not (options.quick or options.only):
        keep(document)
    return int(any(row["failed"] for row in document["rows"]))


if __name__ == "__main__":
    sys.exit(main())
