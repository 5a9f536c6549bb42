"""The report: table and docs say what was measured, and nothing else."""

from __future__ import annotations

import json
import re

import pytest

from benchmarks import report
from benchmarks.__main__ import PAGE, RESULTS
from benchmarks.contenders import COMPETITORS
from benchmarks.runner import Comparison, Kind
from benchmarks.work import WORKS


def test_the_table_has_a_line_for_each_comparison_and_for_who_was_left_out() -> None:
    seconds = {"ours": [0.002, 0.004], "FastAPI": [0.004, 0.008], "arithmetic": [0.001, 0.001]}
    comparisons = (
        Comparison("ours", "FastAPI", Kind.SPEED, goal=1.5),
        Comparison("ours", "arithmetic", Kind.COST, goal=1.6),
    )
    work = {
        "title": "predict",
        "by_rate": False,
        "seconds": seconds,
        "failed": {"MLServer": "not installed: no wheel"},
        "comparisons": [c.compare(seconds[c.of], seconds[c.against]) for c in comparisons],
    }

    lines = report.format_table([work]).splitlines()[2:]

    assert lines == [
        "| predict | ours | 3 ms | FastAPI | 6 ms "
        "| 2.00 times as fast (2.00 – 2.00) | ≥ 1.5 | reached |",
        "| predict | ours | 3 ms | arithmetic | 1 ms "
        "| 3.00 times the time (2.00 – 4.00) | ≤ 1.6 | not reached |",
        "| predict | MLServer | not measured: not installed: no wheel | | | | | |",
    ]


def test_a_figure_is_the_median_in_a_readable_unit() -> None:
    for seconds, by_rate, figure in (
        ([0.00025], True, "4,000 / s"),
        ([0.000123], False, "123 µs"),
        ([0.00123, 0.1, 0.0001], False, "1.23 ms"),
        ([0.5, 0.7], False, "600 ms"),
        ([1.234], False, "1.23 s"),
    ):
        assert report.format_figure(seconds, by_rate=by_rate) == figure


def test_the_page_gets_another_table_and_keeps_the_rest() -> None:
    page = f"before\n{report.BEGIN}old\n{report.END}after\n"

    assert report.put_into(page, "new\n") == page.replace("old", "new")
    with pytest.raises(ValueError, match="no place"):
        report.put_into("before", "new")


def test_the_docs_show_the_results_that_are_kept() -> None:
    kept = json.loads(RESULTS.read_text())

    assert report.BEGIN + report.format_section(kept) + report.END in PAGE.read_text()
    assert kept["rounds"] >= 5
    assert {work["name"] for work in kept["works"]} == {work.name for work in WORKS}


def test_every_work_compares_its_own_contenders() -> None:
    for work in WORKS:
        compared = {name for c in work.comparisons for name in (c.of, c.against)}
        assert compared == set(work.contenders), work.name


def test_every_competitor_is_pinned_exactly() -> None:
    for path in COMPETITORS.glob("*/requirements.txt"):
        for line in path.read_text().splitlines():
            assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line), (path.parent.name, line)
