"""Measures this service beside competitors and baselines: `make bench`.

Contenders take turns within each round. A whole run is kept: in `benchmarks/results/` as JSON,
and as the table of docs/performance.md.
"""

from __future__ import annotations

import os

# As in gunicorn's workers, and before NumPy is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks import report
from benchmarks.contenders import COMPETITORS, ROOT, Fleet
from benchmarks.runner import Plan, measure_work
from benchmarks.work import WORKS

RESULTS = ROOT / "benchmarks" / "results" / "quiet.json"
PAGE = ROOT / "docs" / "performance.md"
QUICK = Plan(rounds=2, seconds=1)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = [work.name for work in WORKS]
    parser.add_argument("--only", action="append", choices=names, metavar="NAME")
    parser.add_argument("--rounds", type=int, default=Plan.rounds)
    parser.add_argument("--quick", action="store_true", help="two short rounds; nothing is kept")
    parser.add_argument("--redraw", action="store_true", help="show again what was kept")
    parser.add_argument("--list", action="store_true", help="list the names of the work")
    return parser.parse_args(arguments)


def keep(document: dict[str, Any]) -> None:
    """Keep a whole run, and show it in docs/performance.md."""
    RESULTS.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    PAGE.write_text(report.put_into(PAGE.read_text(), report.format_section(document)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print the table, and return 1 if a contender failed."""
    options = parse(arguments)
    if options.list:
        print("\n".join(f"{work.name:14} {work.title}" for work in WORKS))
        return 0
    if options.redraw:
        keep(json.loads(RESULTS.read_text()))
        return 0
    # Ended from outside, the servers end too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    plan = QUICK if options.quick else Plan(rounds=options.rounds)
    machine = report.describe_machine(COMPETITORS)
    with Fleet() as fleet:
        works = [
            # Not to sys.stderr, which the log of an application in this process is written to.
            measure_work(work, fleet, plan, lambda text: print(text, file=sys.__stderr__))
            for work in WORKS
            if not options.only or work.name in options.only
        ]
    document = report.make_document(works, plan.rounds, machine)
    print(report.format_section(document))
    if not (options.quick or options.only):
        keep(document)
    return int(any(work["failed"] for work in works))


if __name__ == "__main__":
    sys.exit(main())
