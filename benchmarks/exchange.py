"""Sends requests: one, whose answer is looked at, or as many as are answered in some seconds.

The many are sent by wrk where it is installed, else by `hammer.py`.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

LONGEST_ANSWER = 300  # seconds
GRACE = 60  # seconds that a generator may take beyond its time

# wrk's own text rounds; `done` is given the numbers. An error of status is 400 or more.
WRK_SCRIPT = """
wrk.method = "{method}"
wrk.headers["Content-Type"] = "{content_type}"
wrk.body = io.open("{body}", "rb"):read("*a")
function done(summary)
  local e = summary.errors
  io.write(string.format(
    '\\n{{"answers": %d, "seconds": %.6f, "errors": %d}}\\n',
    summary.requests, summary.duration / 1e6,
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""


class WrongAnswer(Exception):
    """An answer is not what it should be: its time says nothing."""


@dataclass(frozen=True)
class Answer:
    """An answer, and the seconds from the request's first byte to the answer's last."""

    status: int
    body: Any
    seconds: float


@dataclass(frozen=True)
class Exchange:
    """A request, and what must be true of its answer: ``check`` raises WrongAnswer."""

    method: str
    path: str
    check: Callable[[Answer], None]
    body: bytes = b""
    content_type: str = "application/json"


def send(url: str, exchange: Exchange) -> Answer:
    """Send a request on a connection of its own; return its answer once it is checked."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=LONGEST_ANSWER)
    connection.connect()
    try:
        started = time.perf_counter()
        headers = {"Content-Type": exchange.content_type} if exchange.body else {}
        connection.request(exchange.method, exchange.path, exchange.body or None, headers)
        response = connection.getresponse()
        text = response.read()
        seconds = time.perf_counter() - started
    finally:
        connection.close()
    try:
        body = json.loads(text)
    except ValueError:
        body = text.decode(errors="replace")
    answer = Answer(response.status, body, seconds)
    exchange.check(answer)
    return answer


def drive(url: str, exchange: Exchange, *, connections: int, seconds: float) -> float:
    """Send a request again and again on kept connections; return the seconds per answer.

    That is the time over the number of answers: with more connections than one, answers overlap.
    Raises WrongAnswer where any was refused, or none came.
    """
    with tempfile.TemporaryDirectory() as folder:
        body = Path(folder) / "body"
        body.write_bytes(exchange.body)
        make_command = wrk_command if shutil.which("wrk") else hammer_command
        command = make_command(url, exchange, body, connections, max(1, round(seconds)))
        ran = subprocess.run(
            command,
            cwd=Path(__file__).parent.parent,
            capture_output=True,
            text=True,
            timeout=seconds + GRACE,
            check=False,
        )
    return read_report(ran.stdout + ran.stderr)


def wrk_command(
    url: str, exchange: Exchange, body: Path, connections: int, seconds: int
) -> list[str]:
    """Return wrk's command line; its script is written beside the body."""
    script = body.with_name("script.lua")
    content = exchange.content_type
    script.write_text(
        WRK_SCRIPT.format(method=exchange.method, content_type=content, body=body.as_posix())
    )
    options = ["-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s", "-s", str(script)]
    return ["wrk", *options, url + exchange.path]


def hammer_command(
    url: str, exchange: Exchange, body: Path, connections: int, seconds: int
) -> list[str]:
    """Return the command line of our own generator."""
    processes = min(connections, os.cpu_count() or 1)
    return [
        *(sys.executable, "-m", "benchmarks.hammer", url, exchange.method, exchange.path),
        *(exchange.content_type, str(body), str(connections), str(seconds), str(processes)),
    ]


def read_report(text: str) -> float:
    """Return the seconds per answer that a generator's last line tells of.

    Raises WrongAnswer where an answer was refused or did not come, and where the line is missing.
    """
    lines = [line for line in text.splitlines() if line.startswith('{"answers"')]
    if not lines:
        raise WrongAnswer(f"no report: {text.strip()[-200:]}")
    report = json.loads(lines[-1])
    if report["errors"] or not report["answers"]:
        raise WrongAnswer(f"{report['errors']} errors among {report['answers']} answers")
    return float(report["seconds"] / report["answers"])
