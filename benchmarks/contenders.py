"""The services that are measured: how each is installed, started, filled with data and ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stderr, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import requests

from benchmarks.baselines import echo
from benchmarks.competitors.common import sample
from config import SETTINGS
from tests.access.holders import make_holder
from tests.conftest import Backend, app_on, migrate
from tests.ports import hold_port, port_of
from tests.postgres import server_for_tests
from webapp.scopes import Scope

ROOT = Path(__file__).resolve().parent.parent
COMPETITORS = ROOT / "benchmarks" / "competitors"
VENVS = ROOT / ".venv" / "competitors"  # `make clean` removes it, and no tool looks into it
WORKERS = "2"
N_ITEMS = 1_000
INSTALL_TIMEOUT, START_TIMEOUT, STOP_TIMEOUT = 900, 90, 15  # seconds

# As it starts by default, request log and metrics included; every setting is given, so that no
# `.env` counts.
DEFAULTS = {setting.name: str(setting.default) for setting in SETTINGS}
DEFAULTS["WEB_CONCURRENCY"] = WORKERS
STRIPPED = {"ACCESS_LOG": "false", "METRICS": "false"}


class Unavailable(Exception):
    """A service cannot be installed or started here; the text says why."""


class Fleet(ExitStack):
    """The services that run until a block ends; each is started when it is first asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(self.enter_context(tempfile.TemporaryDirectory()))
        self._running: dict[str, Any] = {}

    @cached_property
    def postgres(self) -> Backend:
        """The PostgreSQL server that all share."""
        url = self.enter_context(server_for_tests())
        # With the driver's name: SQLAlchemy gives the URL without it to another one.
        url = url.replace("postgresql://", "postgresql+psycopg2://")
        return Backend("postgresql", self.folder, url)

    def get(self, name: str) -> Any:
        """Return a service's URL, or an application in this process; raises Unavailable."""
        if name not in self._running:
            self._running[name] = self.enter_context(SERVICES[name](self, name))
        return self._running[name]


def _answers(url: str) -> bool:
    with suppress(requests.RequestException):
        return requests.get(url, timeout=5).status_code == 200
    return False


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no output"])[-1][:200]


def install(name: str) -> Path:
    """Return the programs of a competitor's own virtual environment, made at the first call."""
    venv, wanted = VENVS / name, COMPETITORS / name / "requirements.txt"
    programs, stamp = venv / "bin", venv / "installed.txt"
    if not stamp.exists() or stamp.read_text() != wanted.read_text():
        run = partial(subprocess.run, capture_output=True, text=True, check=True)
        try:
            run([sys.executable, "-m", "venv", "--clear", venv], timeout=INSTALL_TIMEOUT)
            pip = [programs / "python", "-m", "pip", "install", "--quiet", "-r", wanted]
            run(pip, timeout=INSTALL_TIMEOUT)
        except subprocess.SubprocessError as error:
            reason = getattr(error, "stderr", None) or str(error)
            raise Unavailable(f"not installed: {_last_line(reason)}") from None
        stamp.write_text(wanted.read_text())
    return programs


def train_models(url: str) -> None:
    """Train a model of three features, and one of ten."""
    for name, (X, y) in {"default": sample.make_sample(), "wide": sample.make_rows()}.items():
        body = {"X": X.tolist(), "y": y.tolist()}
        path = f"{url}/api/v1/ml/models/{name}/train"
        requests.post(path, json=body, timeout=30).raise_for_status()


def create_items(url: str) -> None:
    """Create the items one by one, so that their ids and names go together."""
    with requests.Session() as session:
        for number in range(1, N_ITEMS + 1):
            item = {"name": f"Item {number}", "description": "Made to be read."}
            session.post(f"{url}/api/v1/items", json=item, timeout=30).raise_for_status()


@dataclass(frozen=True)
class Server:
    """A server: its command and environment, with the names in braces filled in when it starts.

    Its path ``ready`` answers 200 once it serves; it is then filled with data. A competitor runs
    in its own folder and virtual environment.
    """

    command: str
    ready: str
    environment: Mapping[str, str]
    competitor: str = ""
    fill: tuple[Callable[[str], None], ...] = ()

    @contextmanager
    def run(self, fleet: Fleet, name: str) -> Iterator[str]:
        """Run it until the block ends, with all processes it starts; raises Unavailable."""
        words = {"folder": str(fleet.folder), "python": sys.executable}
        for key in ("port", "port_2", "port_3"):
            with hold_port() as held:  # given back at once: not every competitor could share it
                words[key] = str(port_of(held))
        environment, cwd = {**os.environ, **DEFAULTS}, ROOT
        if self.competitor:  # its BLAS takes as many threads as it does by default
            words["bin"], cwd = str(install(self.competitor)), COMPETITORS / self.competitor
            environment = {key: os.environ[key] for key in os.environ if "_THREADS" not in key}
            environment["PYTHONPATH"] = str(COMPETITORS / "common")
        with ExitStack() as stack:
            if self.fill:
                words["database"] = fleet.postgres.make_empty()
                stack.callback(fleet.postgres.drop, words["database"])
            filled = {key: text.format(**words) for key, text in self.environment.items()}
            url = f"http://127.0.0.1:{words['port']}"
            command = [part.format(**words) for part in self.command.split()]
            log = fleet.folder / f"{name}.log"
            with log.open("a") as output:
                if self.fill and not self.competitor:
                    with redirect_stderr(output):
                        migrate(words["database"])
                process = subprocess.Popen(
                    command,
                    cwd=cwd,
                    env=environment | filled,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,  # so that one signal also ends what it has started
                )
            stack.callback(stop, process)
            deadline = time.monotonic() + START_TIMEOUT
            while not _answers(url + self.ready):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise Unavailable(f"does not start: {_last_line(log.read_text())}")
                time.sleep(0.1)
            for fill in self.fill:
                fill(url)
            yield url


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a server, and all processes that it has started."""
    process.send_signal(signal.SIGINT)
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=STOP_TIMEOUT)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def service(**settings: str) -> Server:
    """Return this service on PostgreSQL, with its models and items."""
    environment = {"BIND": "127.0.0.1:{port}", "DATABASE_URL": "{database}", **settings}
    fill = (train_models, create_items)
    return Server("{python} -m gunicorn", "/health/ready", environment, fill=fill)


def fastapi(log_level: str) -> Server:
    """Return the FastAPI service, with uvicorn's request log at the level `info`."""
    environment = {"DATABASE_URL": "{database}", "LOG_LEVEL": log_level}
    command = "{bin}/python service.py {port}"
    return Server(command, "/health", environment, "fastapi", (create_items,))


@contextmanager
def open_service(fleet: Fleet, name: str, **settings: str) -> Iterator[Any]:
    """Build this service's application in this process, trained, with its log in a file.

    Where it asks for API keys, what is returned sends one along.
    """
    database_url = f"sqlite:///{fleet.folder / name}.db"
    settings = {**DEFAULTS, "DATABASE_URL": database_url, **settings}
    with (
        (fleet.folder / f"{name}.log").open("a", buffering=1) as log,
        redirect_stderr(log),
        app_on(database_url, **settings) as app,
    ):
        migrate(database_url)
        sent = {}
        if settings["AUTH"] == "on":
            key = make_holder(app, "bench", Scope.ML_TRAIN, Scope.ML_PREDICT)
            sent = {"HTTP_AUTHORIZATION": f"Bearer {key}"}
        X, y = sample.make_sample()
        rows = {"X": X.tolist(), "y": y.tolist()}
        app.test_client().post("/api/v1/ml/train", json=rows, environ_base=sent)
        yield lambda environ, start: app({**environ, **sent}, start)


SERVICES: Mapping[str, Callable[[Fleet, str], Any]] = {
    "default": service().run,
    "stripped": service(**STRIPPED).run,
    "gthread": service(WORKER_CLASS="gthread").run,
    "short lease": service(MODEL_LEASE_MS="1").run,
    "echo": Server(  # under the service's own gunicorn settings
        "{python} -m gunicorn benchmarks.baselines.echo:app",
        "/health/ready",
        {"BIND": "127.0.0.1:{port}", "DATABASE_URL": "sqlite:///none"},
    ).run,
    "fastapi": fastapi("warning").run,
    "fastapi, log": fastapi("info").run,
    "bentoml": Server(
        "{bin}/bentoml serve service:Linear --host 127.0.0.1 --port {port}",
        "/readyz",
        {
            "BENTOML_DO_NOT_TRACK": "true",
            "BENTOML_HOME": "{folder}/bentoml",
            "BENTOML_CONFIG_OPTIONS": "api_server.logging.access.enabled=false",
        },
        "bentoml",
    ).run,
    "mlserver": Server(
        "{bin}/mlserver start .",
        "/v2/models/linear/ready",
        {
            "MLSERVER_HOST": "127.0.0.1",
            "MLSERVER_HTTP_PORT": "{port}",
            "MLSERVER_GRPC_PORT": "{port_2}",
            "MLSERVER_METRICS_PORT": "{port_3}",
            "MLSERVER_DEBUG": "false",
            "MLSERVER_PARALLEL_WORKERS": WORKERS,
            "MLSERVER_METRICS_DIR": "{folder}",
            "MLSERVER_ENVIRONMENTS_DIR": "{folder}/mlserver-environments",
        },
        "mlserver",
    ).run,
    "in process": open_service,
    "in process, stripped": partial(open_service, **STRIPPED),
    "in process, keys": partial(open_service, AUTH="on"),
    "echo in process": lambda _fleet, _name: nullcontext(echo.app),
}
