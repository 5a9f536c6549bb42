"""Sends a request again and again, by wrk (https://github.com/wg/wrk).

The service runs on the same cores: the less of them the load takes, the more services differ.
"""

from __future__ import annotations

import subprocess
from tempfile import NamedTemporaryFile

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


def drive(url: str, exchange: Exchange, *, connections: int, seconds: int) -> float:
    """Send a request again and again on kept connections; return the seconds per answer.

    That is the time over the number of answers: with more connections than one, answers overlap.
    Raises WrongAnswer or OSError if any request was refused, or none was answered.
    """
    with NamedTemporaryFile("w", suffix=".lua") as script:
        values = (exchange.method, exchange.content_type, exchange.body.decode())
        print(WRK_SCRIPT % values, file=script, flush=True)
        options = ["-t1", f"-c{connections}", f"-d{seconds}", "--timeout=30", "-s", script.name]
        command = ["wrk", *options, url + exchange.path]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=seconds + GRACE)
    if ran.returncode != 0:
        raise WrongAnswer(f"wrk failed: {(ran.stdout + ran.stderr).strip()[-200:]}")
    answers, took, errors = map(float, ran.stdout.splitlines()[-1].split())
    if errors or not answers:
        raise WrongAnswer(f"{errors:.0f} errors among {answers:.0f} answers")
    return took / answers
