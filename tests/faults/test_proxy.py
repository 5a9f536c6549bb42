"""An upgrade under load: real nginx before real gunicorn masters, started by a stand-in Docker."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.faults import on_postgresql, scaled
from tests.faults.load import load, train_default
from tests.faults.losses import find_lost
from tests.faults.record import Record
from tests.nginx import BINARY, running_proxy
from tests.ports import hold_port, port_of

ROOT = Path(__file__).parent.parent.parent

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BINARY is None, reason="nginx is not installed"),
    pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed"),
    on_postgresql,
]


@pytest.fixture
def containers(tmp_path: Path, database_url: str) -> Iterator[dict[str, str]]:
    """Return the environment in which `docker` runs web containers as gunicorn masters."""
    commands, folder = tmp_path / "bin", tmp_path / "containers"
    commands.mkdir()
    folder.mkdir()
    (commands / "docker").write_text(
        f'#!/bin/sh\nexec "{sys.executable}" "{ROOT / "tests/faults/docker.py"}" "$@"\n'
    )
    (commands / "docker").chmod(0o755)
    held = [hold_port() for _ in range(4)]
    yield {
        **os.environ,
        "PATH": f"{commands}:{os.environ['PATH']}",
        "FOLDER": str(folder),
        "PORTS": " ".join(str(port_of(port)) for port in held),
        "APP_ENV": "testing",
        "DATABASE_URL": database_url,
        "WEB_CONCURRENCY": "2",
    }
    for path in folder.iterdir():
        if path.suffix != ".log":
            with suppress(ProcessLookupError):
                os.kill(int(path.read_text()), signal.SIGTERM)
    for port in held:
        port.close()


def test_an_upgrade_under_load_loses_no_request(
    containers: dict[str, str], tmp_path: Path, record: Record
) -> None:
    ports, folder = containers["PORTS"].split(), Path(containers["FOLDER"])
    up = ["docker", "compose", "up", "--no-recreate", "--scale", "web=2", "web"]
    subprocess.run(up, env=containers, check=True)
    before = sorted(path.name for path in folder.iterdir() if path.name in ports)
    proxied = tmp_path / "proxy"
    proxied.mkdir()
    with ExitStack() as stack:
        proxy = stack.enter_context(running_proxy(proxied, [f"127.0.0.1:{p}" for p in ports]))
        train_default(proxy.url)
        with load(proxy.url, clients=6) as ledger:
            for _ in range(scaled(1, 5)):
                time.sleep(1)
                subprocess.run(["make", "upgrade"], cwd=ROOT, env=containers, check=True)
            time.sleep(1)
        lost = find_lost(proxy.url, ledger)
    errors = [line for line in proxy.log.read_text().splitlines() if '"status":"5' in line]
    errors += proxy.errors.read_text().splitlines()[-20:]
    after = sorted(path.name for path in folder.iterdir() if path.name in ports)

    failed = len(ledger.refused) + len(ledger.unanswered)
    tried = ledger.acknowledged() + failed
    record("upgrade of two web containers under load: requests", tried, tried - failed, len(lost))
    assert len(after) == 2
    assert before != after or scaled(1, 5) % 2 == 0
    assert ledger.acknowledged() > 100
    assert (ledger.refused, ledger.unanswered, lost) == ([], [], []), errors
