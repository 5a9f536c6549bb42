"""Sends a request again and again: by wrk where it is installed, else by asyncio.

The service runs on the same cores: the less of them the load takes, the more services differ.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import time
from contextlib import closing
from tempfile import NamedTemporaryFile
from urllib.parse import urlsplit

from benchmarks.exchange import Exchange, WrongAnswer

GRACE = 60  # seconds that a load may take beyond its time
# wrk counts answers of 400 and above as errors of status.
WRK_SCRIPT = """\
wrk.method = "%s"
wrk.headers["Content-Type"] = "%s"
wrk.body = [==[%s]==]
function done(summary)
  local e = summary.errors
  local errors = e.connect + e.read + e.write + e.status + e.timeout
  io.write("\\n", summary.requests, " ", summary.duration / 1e6, " ", errors)
end
"""
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.I)


def find_load_generator() -> str:
    """Return the name of the load generator that is used on this machine."""
    return "wrk" if shutil.which("wrk") else "asyncio"


def drive(url: str, exchange: Exchange, *, connections: int, seconds: int) -> float:
    """Send a request again and again on kept connections; return the seconds per answer.

    That is the time over the number of answers: with more connections than one, answers overlap.
    Raises WrongAnswer or OSError if any request was refused, or none was answered.
    """
    run = _run_wrk if find_load_generator() == "wrk" else _run_async
    answers, took = run(url, exchange, connections, seconds)
    if not answers:
        raise WrongAnswer("no answers")
    return took / answers


def _run_wrk(url: str, exchange: Exchange, connections: int, seconds: int) -> tuple[float, float]:
    with NamedTemporaryFile("w", suffix=".lua") as script:
        values = (exchange.method, exchange.content_type, exchange.body.decode())
        print(WRK_SCRIPT % values, file=script, flush=True)
        options = ["-t1", f"-c{connections}", f"-d{seconds}", "--timeout=30", "-s", script.name]
        command = ["wrk", *options, url + exchange.path]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=seconds + GRACE)
    if ran.returncode != 0:
        raise WrongAnswer(f"wrk failed: {(ran.stdout + ran.stderr).strip()[-200:]}")
    answers, took, errors = map(float, ran.stdout.splitlines()[-1].split())
    if errors:
        raise WrongAnswer(f"{errors:.0f} errors among {answers:.0f} answers")
    return answers, took


def _run_async(url: str, exchange: Exchange, connections: int, seconds: int) -> tuple[int, float]:
    address = urlsplit(url)
    head = f"{exchange.method} {exchange.path} HTTP/1.1\r\nHost: {address.netloc}\r\n"
    head += f"Content-Type: {exchange.content_type}\r\nContent-Length: {len(exchange.body)}\r\n"
    request = f"{head}\r\n".encode() + exchange.body
    started = time.monotonic()

    async def keep_busy() -> int:
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        answers = 0
        with closing(writer):
            while time.monotonic() < started + seconds:
                writer.write(request)
                head = await reader.readuntil(b"\r\n\r\n")
                length = _LENGTH.search(head)
                if head[9:10] != b"2" or length is None:
                    raise WrongAnswer(head.decode(errors="replace")[:200])
                await reader.readexactly(int(length[1]))
                answers += 1
        return answers

    async def keep_all_busy() -> list[int]:
        return await asyncio.gather(*(keep_busy() for _ in range(connections)))

    answers = asyncio.run(asyncio.wait_for(keep_all_busy(), seconds + GRACE))
    return sum(answers), time.monotonic() - started
