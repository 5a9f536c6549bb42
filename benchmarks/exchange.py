"""A request and the check of its answer: sent once, or again and again for some seconds."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

LONGEST_ANSWER = 300  # seconds
GRACE = 60  # seconds that the load generator may take beyond its time


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
    Raises WrongAnswer if any request was refused, or none was answered.
    """
    address = urlsplit(url)
    lines = [f"{exchange.method} {exchange.path} HTTP/1.1", f"Host: {address.netloc}"]
    if exchange.body:
        lines.append(f"Content-Type: {exchange.content_type}")
        lines.append(f"Content-Length: {len(exchange.body)}")
    processes = min(connections, os.cpu_count() or 1)
    numbers = map(str, (address.port, connections, seconds, processes))
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.load_generator", str(address.hostname), *numbers],
        input="\r\n".join([*lines, "", ""]).encode() + exchange.body,
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        timeout=seconds + GRACE,
        check=False,
    )
    if ran.returncode != 0:
        raise WrongAnswer(f"no report: {ran.stderr.decode().strip()[-200:]}")
    report = json.loads(ran.stdout)
    if report["errors"] or not report["answers"]:
        raise WrongAnswer(f"{report['errors']} errors among {report['answers']} answers")
    return float(report["seconds"] / report["answers"])
