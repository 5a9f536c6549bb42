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
from datetime import UTC, datetime

from benchmarks import report
from benchmarks.contenders import COMPETITORS, ROOT, Fleet
from benchmarks.runner import measure_work
from benchmarks.work import WORKS

RESULTS = ROOT / "benchmarks" / "results" / "quiet.json"
PAGE = ROOT / "docs" / "performance.md"


def main() -> int:
    """Run, print the table, and return 1 if a contender failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", action="append", choices=[work.name for work in WORKS])
    parser.add_argument("--quick", action="store_true", help="two short rounds; nothing is kept")
    options = parser.parse_args()
    # Ended from outside, the servers end too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    rounds, seconds = (2, 1) if options.quick else (5, 3)
    document = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": report.describe_machine(COMPETITORS),
        "rounds": rounds,
        "works": [],
    }
    for work in WORKS:
        if not options.only or work.name in options.only:
            with Fleet() as fleet:  # for each its own: nothing else runs beside it
                document["works"].append(measure_work(work, fleet, rounds=rounds, seconds=seconds))
    section = report.format_section(document)
    print(section)
    if not (options.quick or options.only):
        RESULTS.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
        PAGE.write_text(report.put_into(PAGE.read_text(), section))
    return int(any(work["failed"] for work in document["works"]))


if __name__ == "__main__":
    sys.exit(main())
