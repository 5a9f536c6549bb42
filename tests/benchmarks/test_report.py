"""The report: table, chart and docs say what was measured, and nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import chart, report
from benchmarks.ratios import Comparison, Kind
from benchmarks.rounds import Plan, RowResult
from benchmarks.rows import ROWS, Row

ROOT = Path(__file__).parent.parent.parent
RESULTS = ROOT / "benchmarks" / "results"
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def document() -> dict:
    """Return two rounds of a row with a goal that is reached, one that is not, and a failure."""
    comparisons = (
        Comparison("FastAPI", Kind.SPEED, goal=1.5),
        Comparison("arithmetic", Kind.COST, goal=1.6),
        Comparison("MLServer", Kind.SPEED),
    )
    row = Row("row", "predict <1 & 2>", {}, comparisons)
    seconds = {
        "this service": [0.002, 0.004],
        "FastAPI": [0.004, 0.008],
        "arithmetic": [0.001] * 2,
    }
    result = RowResult(row, seconds, {"MLServer": "not installed: no wheel"})
    machine: dict = {"cores": 2, "architecture": "x86_64", "python": "3.11.7", "rivals": {}}
    machine["load_before"] = 0.5
    return report.make_document([result], Plan(rounds=2), busy=False, machine=machine)


def test_the_table_has_a_line_for_each_comparison_and_for_who_was_left_out(
    document: dict,
) -> None:
    lines = report.format_table(document).splitlines()[2:]

    assert lines == [
        "| predict <1 & 2> | this service | 3 ms | FastAPI | 6 ms "
        "| 2.00 times as fast (2.00 – 2.00) | ≥ 1.5 | reached |",
        "| predict <1 & 2> | this service | 3 ms | arithmetic | 1 ms "
        "| 3.00 times the time (2.00 – 4.00) | ≤ 1.6 | not reached |",
        "| predict <1 & 2> | MLServer | not measured: not installed: no wheel | | | | | |",
    ]


@pytest.mark.parametrize(
    ("seconds", "by_rate", "figure"),
    [
        ([0.00025], True, "4,000 / s"),
        ([0.000123], False, "123 µs"),
        ([0.00123, 0.1, 0.0001], False, "1.23 ms"),
        ([0.5, 0.7], False, "600 ms"),
        ([1.234], False, "1.23 s"),
    ],
)
def test_a_figure_is_the_median_in_a_readable_unit(
    seconds: list[float], by_rate: bool, figure: str
) -> None:
    assert report.format_figure(seconds, by_rate=by_rate) == figure


def test_the_chart_is_well_formed_and_shows_dots_spreads_and_goals(document: dict) -> None:
    root = ElementTree.fromstring(chart.draw(document))  # noqa: S314 (our own)
    dots = [element.get("class") for element in root.iter(f"{SVG}circle")]
    lines = [element.get("class") for element in root.iter(f"{SVG}line")]
    texts = [element.text for element in root.iter(f"{SVG}text")]

    assert dots == ["reached", "missed"]
    assert lines.count("goal") == lines.count("spread") == 2
    assert "predict <1 & 2>: FastAPI" in texts
    assert "prefers-color-scheme: dark" in str(root.find(f"{SVG}style").text)


def test_nothing_in_the_chart_lies_outside_of_it(document: dict) -> None:
    found = document["rows"][0]["comparisons"][0]
    found["least"], found["most"] = 0.01, 4000.0

    root = ElementTree.fromstring(chart.draw(document))  # noqa: S314 (our own)
    width, height = float(root.get("width")), float(root.get("height"))
    for element in root.iter():
        for name in ("x", "x1", "x2", "cx"):
            assert 0 <= float(element.get(name, 0)) <= width
        for name in ("y", "y1", "y2", "cy"):
            assert 0 <= float(element.get(name, 0)) <= height


def test_every_label_of_the_chart_has_room() -> None:
    for row in ROWS:
        for comparison in row.comparisons:
            label = chart.label_line(row.title, comparison.of, comparison.against)
            # A letter of 13 pixels is about 7 wide.
            assert 7 * len(label) < chart.LEFT, label


def test_the_readme_gets_another_table_and_keeps_the_rest() -> None:
    readme = f"before\n{report.BEGIN}old\n{report.END}after\n"

    assert report.put_into(readme, "new\n") == f"before\n{report.BEGIN}new\n{report.END}after\n"


@pytest.mark.parametrize("readme", ["no marks", report.BEGIN, report.END + report.BEGIN])
def test_a_readme_without_a_place_for_the_table_is_left_alone(readme: str) -> None:
    with pytest.raises(ValueError, match="no place"):
        report.put_into(readme, "new")


def test_the_readme_and_the_chart_show_the_results_that_are_kept() -> None:
    kept = json.loads((RESULTS / "quiet.json").read_text())

    assert (
        report.BEGIN + report.format_section(kept) + report.END
        in (ROOT / "docs" / "performance.md").read_text()
    )
    assert (RESULTS / "quiet.svg").read_text() == chart.draw(kept)
    assert kept["rounds"] >= 5
    assert not kept["busy"]
    assert [row["name"] for row in kept["rows"]] == [row.name for row in ROWS]


def test_every_rival_is_pinned_exactly() -> None:
    for path in (ROOT / "benchmarks" / "rivals").glob("*/requirements.txt"):
        for line in path.read_text().splitlines():
            assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line), (path.parent.name, line)
