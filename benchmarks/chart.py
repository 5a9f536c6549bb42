"""Draws a run's comparisons as an SVG: a dot per median, its spread, and its goal.

Its colours follow the reader's light or dark mode; it brings its own background.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

from benchmarks.ratios import Kind
from benchmarks.report import SIGNS, format_ratio

WIDTH, LEFT, RIGHT = 900, 430, 100  # pixels: all, the labels, the figures
LINE, HEAD, FOOT, MARGIN = 24, 46, 30, 12
TICKS = (0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)
HEADINGS = {
    Kind.SPEED: "Times as fast as another: more is better",
    Kind.COST: "Times the time of a floor: less is better",
}
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #24292f; }
  .heading { font-weight: 600; font-size: 15px; }
  .faint { fill: #57606a; font-size: 11px; }
  .background { fill: #ffffff; stroke: #d0d7de; }
  .grid { stroke: #d8dee4; }
  .one { stroke: #8c959f; }
  .spread { stroke-width: 3; stroke: #57606a; }
  .reached { fill: #0969da; } .missed { fill: #bc4c00; } .plain { fill: #57606a; }
  .goal { stroke: #24292f; stroke-width: 2; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; }
    .faint { fill: #9198a1; }
    .background { fill: #0d1117; stroke: #3d444d; }
    .grid { stroke: #2a313c; }
    .one { stroke: #656c76; }
    .spread { stroke: #9198a1; }
    .reached { fill: #58a6ff; } .missed { fill: #f0883e; } .plain { fill: #9198a1; }
    .goal { stroke: #e6edf3; }
  }
"""
CLASSES = {True: "reached", False: "missed", None: "plain"}


def draw(document: Mapping[str, Any]) -> str:
    """Return the chart of a document that `report.make_document` made."""
    parts: list[str] = []
    top = MARGIN
    for kind in Kind:
        lines = [
            (row["title"], found)
            for row in document["rows"]
            for found in row["comparisons"]
            if found["kind"] == kind.value
        ]
        if lines:
            parts += _draw_panel(kind, lines, top)
            top += HEAD + LINE * len(lines) + FOOT
    legend = "dot: median of the rounds; bar: least to most; upright: goal; orange: not reached"
    parts.append(_text(LEFT, top + 8, legend, "faint"))
    height = top + 8 + MARGIN
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"'
            f' width="{WIDTH}" height="{height}" role="img">',
            f"<title>{escape(_title(document))}</title>",
            f"<style>{STYLE}</style>",
            f'<rect class="background" x="0.5" y="0.5" rx="6" '
            f'width="{WIDTH - 1}" height="{height - 1}"/>',
            *parts,
            "</svg>",
            "",
        ]
    )


def _title(document: Mapping[str, Any]) -> str:
    machine = "busy" if document["busy"] else "quiet"
    return f"Ratios of {document['date']}, {document['rounds']} rounds, {machine} machine"


def _draw_panel(kind: Kind, lines: Sequence[tuple[str, Any]], top: float) -> list[str]:
    values = [
        value
        for _, found in lines
        for value in (found["least"], found["most"], found["goal"])
        if value is not None
    ]
    ticks = _choose_ticks(min(values), max(values))

    def x(value: float) -> float:
        share = math.log(value / ticks[0]) / math.log(ticks[-1] / ticks[0])
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    first, last = top + HEAD - 8, top + HEAD + LINE * len(lines)
    parts = [_text(MARGIN, top + 20, HEADINGS[kind], "heading")]
    for tick in ticks:
        style = "one" if tick == 1 else "grid"
        parts.append(_upright(x(tick), first, last, style))
        parts.append(_text(x(tick), last + 14, f"{tick:g}", "faint", "middle"))
    for number, (title, found) in enumerate(lines):
        parts += _draw_line(title, found, top + HEAD + LINE * (number + 0.5), x)
    return parts


def label_line(title: str, of: str, against: str) -> str:
    """Return what a line is called; a kind of this service that is not the usual one is named."""
    _, _, special = of.partition(", ")
    return f"{title} ({special}): {against}" if special else f"{title}: {against}"


def _draw_line(title: str, found: Mapping[str, Any], y: float, x: Any) -> list[str]:
    label = label_line(title, found["of"], found["against"])
    style = CLASSES[found["reached"]]
    least, median, most = (x(found[name]) for name in ("least", "median", "most"))
    parts = [
        _text(LEFT - 12, y + 4, label, "", "end"),
        f'<line class="spread" x1="{least}" x2="{most}" y1="{y}" y2="{y}"/>',
        f'<circle class="{style}" cx="{median}" cy="{y}" r="5"/>',
    ]
    figure = format_ratio(found["median"])
    if found["goal"] is not None:
        parts.append(_upright(x(found["goal"]), y - 9, y + 9, "goal"))
        figure += f" ({SIGNS[Kind(found['kind'])]} {found['goal']:g})"
    parts.append(_text(WIDTH - RIGHT + 10, y + 4, figure, ""))
    return parts


def _choose_ticks(least: float, most: float) -> list[float]:
    """Return round values, the first at or below the least, the last at or above the most."""
    inside = [tick for tick in TICKS if least < tick < most]
    below = max((tick for tick in TICKS if tick <= least), default=least)
    above = min((tick for tick in TICKS if tick >= most), default=most)
    return [below, *inside, above] if below < above else [below / 2, below, below * 2]


def _text(x: float, y: float, text: str, style: str, anchor: str = "start") -> str:
    return f'<text class="{style}" x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'


def _upright(x: float, y1: float, y2: float, style: str) -> str:
    return f'<line class="{style}" x1="{x}" x2="{x}" y1="{y1}" y2="{y2}"/>'
