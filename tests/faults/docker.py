#!/usr/bin/env python3
"""Stands in for the `docker` command where there is no engine: a web container is a gunicorn.

It knows what deploy/upgrade.sh asks of Docker, and does it with real processes, so that the order
in which the script does things can lose requests as it would with an engine. PORTS lists the
ports that the proxy knows of; FOLDER holds a file for each container that runs.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import psutil

ROOT = Path(__file__).parent.parent.parent
FOLDER = Path(os.environ["FOLDER"])
PORTS = os.environ["PORTS"].split()


def running() -> list[str]:
    """Return the ports of the containers that run, which are their names too."""
    return sorted(path.name for path in FOLDER.iterdir() if path.name in PORTS)


def start(port: str) -> None:
    """Start a container."""
    with (FOLDER / f"{port}.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "-c", str(ROOT / "gunicorn.conf.py")],
            cwd=FOLDER,
            env={**os.environ, "BIND": f"127.0.0.1:{port}"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    (FOLDER / port).write_text(str(process.pid))


def wait_until_healthy(port: str) -> None:
    """Wait until a container answers."""
    for _ in range(1200):
        with suppress(OSError):
            url = f"http://127.0.0.1:{port}/health/live"
            if urllib.request.urlopen(url, timeout=5).status == 200:
                return
        time.sleep(0.05)
    raise SystemExit(f"{port} does not become healthy")


def stop(port: str) -> None:
    """Stop a container, and wait until it has ended; who started it may not have noticed yet."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(int((FOLDER / port).read_text()))
        process.terminate()
        while process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.02)


def main(words: list[str]) -> None:
    """Do what a command line of the script asks for."""
    match words:
        case ["compose", "ps", *_, "--quiet", "web"]:
            print("\n".join(running()))
        case ["compose", "build", "migrate"] | ["compose", "up", *_, "--no-recreate", "web"]:
            pass
        case ["compose", "run", "--rm", "--no-deps", "migrate"]:
            subprocess.run([sys.executable, "-m", "flask", "db", "upgrade"], cwd=ROOT, check=True)
        case ["compose", "up", *_, "--no-recreate", "--scale", scale, "web"]:
            free = [port for port in PORTS if port not in running()]
            for port in free[: int(scale.removeprefix("web=")) - len(running())]:
                start(port)
            for port in running():
                wait_until_healthy(port)
        case ["stop", "--timeout", _, port]:
            stop(port)
        case ["rm", port]:
            (FOLDER / port).unlink()
        case _:
            raise SystemExit(f"not known here: docker {' '.join(words)}")


if __name__ == "__main__":
    main(sys.argv[1:])
