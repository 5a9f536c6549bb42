"""A real nginx with the configuration of the compose file, in front of servers on loopback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.gunicorn_server import wait_until
from tests.ports import hold_port, listens, port_of

FOLDER = Path(__file__).parent.parent / "docker" / "nginx"
BINARY = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/bin")
START_TIMEOUT = 20


def render_configuration(**settings: str) -> str:
    """Return nginx.conf as the image makes it of the template and the environment."""
    command = ["sh", "-euc", ". ./18-trusted.envsh; env"]
    given = {"MAX_CONTENT_LENGTH": "268435456", **settings}
    environment = subprocess.check_output(command, cwd=FOLDER, env=given, text=True)
    values = dict(line.partition("=")[::2] for line in environment.splitlines())
    text = (FOLDER / "nginx.conf.template").read_text()
    for name in ("MAX_CONTENT_LENGTH", "TRUSTED_FROM", "TRUSTED_GEO"):
        text = text.replace(f"${{{name}}}", values[name])
    return text


class Proxy:
    """A running nginx; ``url`` is where it listens, ``log`` and ``errors`` what it has written."""

    def __init__(self, folder: Path, upstreams: Sequence[str], settings: dict[str, str]) -> None:
        self._held_port = hold_port()
        self.folder, self.port = folder, port_of(self._held_port)
        self.url = f"http://127.0.0.1:{self.port}"
        self.log, self.errors = folder / "access.log", folder / "error.log"
        # Only where things are is another here: no DNS, no folder that is the image's own.
        servers = "\n".join(f"server {name} max_fails=1 fail_timeout=2s;" for name in upstreams)
        text = render_configuration(**settings)
        for there, here in {
            " /tmp/": f" {folder}/",
            "resolver 127.0.0.11 valid=2s ipv6=off;": "",
            "server web:8000 resolve max_fails=1 fail_timeout=2s;": servers,
            "listen 8080 ": f"listen 127.0.0.1:{self.port} ",
            "/dev/stdout": str(self.log),
            "error_log stderr": f"error_log {self.errors}",
        }.items():
            assert there in text, there
            text = text.replace(there, here)
        (folder / "nginx.conf").write_text(text)
        # As root, nginx would give its workers to a user who may not enter the folder.
        user = "" if os.geteuid() else " user root;"
        command = [str(BINARY), "-c", str(folder / "nginx.conf"), "-e", str(self.errors)]
        command += ["-g", f"daemon off;{user}"]
        self.process = subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL)

    def read_log(self) -> dict[str, Any]:
        """Return the last line of the access log; nginx writes it after it has answered."""
        wait_until(lambda: self.log.read_text().endswith("\n"), START_TIMEOUT)
        return dict(json.loads(self.log.read_text().splitlines()[-1]))

    def stop(self) -> None:
        """End nginx, and give the port back."""
        self.process.terminate()
        self.process.wait(timeout=START_TIMEOUT)
        self._held_port.close()


@contextmanager
def running_proxy(folder: Path, upstreams: Sequence[str], **settings: str) -> Iterator[Proxy]:
    """Run nginx before servers (``HOST:PORT``) until the block ends.

    ``settings`` are those that the compose file gives its container.
    """
    proxy = Proxy(folder, upstreams, settings)
    try:
        wait_until(lambda: listens(proxy.port) or proxy.process.poll() is not None, START_TIMEOUT)
        assert proxy.process.poll() is None, proxy.errors.read_text()
        yield proxy
    finally:
        proxy.stop()
