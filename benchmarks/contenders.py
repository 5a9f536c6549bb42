"""The services that are measured: how each is installed, started, filled with data and ended."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import orjson
import requests
import sqlalchemy as sa

from benchmarks.competitors.common import sample
from benchmarks.exchange import Answer, Exchange, WrongAnswer, send
from config import SETTINGS
from tests.access.holders import make_holder
from tests.conftest import dispose_app, execute_on_server, make_app, migrate
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


class Fleet:
    """The services that run at present; each is started when it is first asked for.

    ``get`` returns a URL, or for an application in this process the application.
    """

    def __init__(self) -> None:
        self._running: dict[str, tuple[ExitStack, Any]] = {}
        self._shared = ExitStack()
        self._unavailable: dict[str, str] = {}
        self.databases: dict[str, str] = {}

    def __enter__(self) -> Fleet:
        self.folder = Path(self._shared.enter_context(tempfile.TemporaryDirectory()))
        return self

    def __exit__(self, *exception: object) -> None:
        self.keep(frozenset())
        self._shared.close()

    @cached_property
    def postgres(self) -> str:
        """URL of the PostgreSQL server that all share."""
        return self._shared.enter_context(server_for_tests())

    def get(self, name: str) -> Any:
        """Return a service; raises Unavailable."""
        if name in self._unavailable:
            raise Unavailable(self._unavailable[name])
        if name not in self._running:
            stack = ExitStack()
            try:
                self._running[name] = stack, stack.enter_context(SERVICES[name](self, name))
            except Unavailable as error:
                self._unavailable[name] = str(error)
                raise
        return self._running[name][1]

    def keep(self, names: frozenset[str]) -> None:
        """End all services but these."""
        for name in set(self._running) - names:
            self._running.pop(name)[0].close()

    @contextmanager
    def database(self, name: str) -> Iterator[str]:
        """Make a service's database on the shared server until the block ends."""
        database = f"bench_{re.sub('[^a-z]', '_', name.lower())}_{os.getpid()}"
        execute_on_server(self.postgres, f"CREATE DATABASE {database}")
        try:
            url = sa.make_url(self.postgres).set(database=database)
            self.databases[name] = url.render_as_string(False)
            yield self.databases[name]
        finally:
            execute_on_server(self.postgres, f"DROP DATABASE {database} WITH (FORCE)")

    @contextmanager
    def server(
        self,
        name: str,
        make_command: Callable[[str], Sequence[object]],
        *,
        ready: str,
        cwd: Path = ROOT,
        environment: Callable[[str], Mapping[str, str]],
    ) -> Iterator[str]:
        """Run a server until the block ends, with all processes it starts; raises Unavailable.

        Command and environment are made from its port; its path ``ready`` answers 200 once it
        serves.
        """
        port = find_free_port()
        url, log = f"http://127.0.0.1:{port}", self.folder / f"{name}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                [str(part) for part in make_command(port)],
                cwd=cwd,
                env=environment(port),
                stdout=output,
                stderr=output,
                start_new_session=True,  # so that one signal also ends what it has started
            )
        try:
            deadline = time.monotonic() + START_TIMEOUT
            while not _answers(url + ready):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise Unavailable(f"does not start: {_last_line(log.read_text())}")
                time.sleep(0.1)
            yield url
        finally:
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=STOP_TIMEOUT)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).status_code == 200
    except requests.RequestException:
        return False


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "no output"


def find_free_port() -> str:
    """Return a port of this machine where nothing listens."""
    with hold_port() as held:  # given back at once: not every competitor could share it
        return str(port_of(held))


# This service, and applications under the same gunicorn settings


@contextmanager
def run_service(fleet: Fleet, name: str, **settings: str) -> Iterator[str]:
    """Run this service on PostgreSQL, with its models and items."""
    with fleet.database(name) as database_url:
        migrate_silently(database_url)
        with run_gunicorn(fleet, name, DATABASE_URL=database_url, **settings) as url:
            for model, (X, y) in {
                "default": sample.make_sample(),
                "wide": sample.make_rows(),
            }.items():
                body = orjson.dumps({"X": X, "y": y}, option=orjson.OPT_SERIALIZE_NUMPY)
                send(url, Exchange("POST", f"/api/v1/ml/models/{model}/train", expect(201), body))
            create_items(url)
            yield url


def migrate_silently(database_url: str) -> None:
    """Bring a database to the newest revision, without a log line for each."""
    logging.disable(logging.INFO)
    migrate(database_url)
    logging.disable(logging.NOTSET)


def run_gunicorn(fleet: Fleet, name: str, *application: str, **settings: str) -> Any:
    """Run gunicorn with the service's own configuration file."""
    return fleet.server(
        name,
        lambda _: [sys.executable, "-m", "gunicorn", *application],
        ready="/health/ready",
        environment=lambda port: {
            **os.environ,
            **DEFAULTS,
            "BIND": f"127.0.0.1:{port}",
            **settings,
        },
    )


@contextmanager
def open_service(fleet: Fleet, name: str, **settings: str) -> Iterator[Any]:
    """Build this service's application in this process, trained, with a lease that lasts.

    Where it asks for API keys, what is returned sends one along.
    """
    database_url = f"sqlite:///{fleet.folder / uuid.uuid4().hex}.db"
    migrate_silently(database_url)
    common = {**DEFAULTS, "DATABASE_URL": database_url}
    log = fleet.folder / f"{name}.log"
    with log.open("a", buffering=1) as output, redirect_stderr(output):
        app = make_app(database_url, **{**common, "MODEL_LEASE_MS": "1"})
        X, y = sample.make_sample()
        app.test_client().post("/api/v1/ml/train", json={"X": X.tolist(), "y": y.tolist()})
        dispose_app(app)
        app = make_app(database_url, **{**common, "MODEL_LEASE_MS": "60000", **settings})
        if settings.get("AUTH") == "on":
            key = make_holder(app, "bench", Scope.ML_PREDICT)
            yield lambda environ, start: app(
                {**environ, "HTTP_AUTHORIZATION": f"Bearer {key}"}, start
            )
        else:
            yield app
        dispose_app(app)


@contextmanager
def open_echo(fleet: Fleet, name: str) -> Iterator[Any]:
    """Import the plain Flask application that answers what it was sent."""
    from benchmarks.baselines.echo import app

    yield app


# Competitors


def install(name: str) -> Path:
    """Return the programs of a competitor's own virtual environment, made at the first call."""
    venv, wanted = VENVS / name, COMPETITORS / name / "requirements.txt"
    programs, stamp = venv / "bin", venv / "installed.txt"
    if stamp.exists() and stamp.read_text() == wanted.read_text():
        return programs
    pip = [programs / "python", "-m", "pip", "install", "--quiet", "-r", wanted]
    for command in ([sys.executable, "-m", "venv", "--clear", venv], pip):
        try:
            subprocess.run(
                command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT, check=True
            )
        except subprocess.TimeoutExpired:
            raise Unavailable(f"not installed: took longer than {INSTALL_TIMEOUT} s") from None
        except subprocess.CalledProcessError as error:
            raise Unavailable(f"not installed: {_last_line(error.stderr)}") from None
    stamp.write_text(wanted.read_text())
    return programs


def run_competitor(
    fleet: Fleet,
    name: str,
    make_command: Callable[[Path, str], Sequence[object]],
    ready: str,
    make_environment: Callable[[Fleet, str], Mapping[str, str]] = lambda fleet, port: {},
) -> Any:
    """Run a competitor; ``make_command`` is given the folder of its programs and its port.

    BLAS takes as many threads as it does by default.
    """
    programs = install(name)
    blas = {"OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"}
    kept = {key: value for key, value in os.environ.items() if key not in blas}
    kept["PYTHONPATH"] = str(COMPETITORS / "common")
    return fleet.server(
        name,
        partial(make_command, programs),
        ready=ready,
        cwd=COMPETITORS / name,
        environment=lambda port: {**kept, **make_environment(fleet, port)},
    )


def run_script(programs: Path, port: str) -> Sequence[object]:
    """Return the command of a competitor whose `service.py` starts its server."""
    return [programs / "python", "service.py", port]


@contextmanager
def run_fastapi(fleet: Fleet, name: str) -> Iterator[str]:
    """Run FastAPI under uvicorn on the same PostgreSQL server, with the same items."""
    with fleet.database(name) as url:
        database = {"DATABASE_URL": url.replace("postgresql:", "postgresql+psycopg2:", 1)}
        with run_competitor(fleet, name, run_script, "/health", lambda *_: database) as address:
            create_items(address)
            yield address


def describe_mlserver(fleet: Fleet, port: str) -> dict[str, str]:
    """Return MLServer's environment, from where alone it reads its ports: two workers."""
    (metrics := fleet.folder / "mlserver-metrics").mkdir(exist_ok=True)
    return {
        "MLSERVER_HOST": "127.0.0.1",
        "MLSERVER_HTTP_PORT": port,
        "MLSERVER_GRPC_PORT": find_free_port(),
        "MLSERVER_METRICS_PORT": find_free_port(),
        "MLSERVER_DEBUG": "false",
        "MLSERVER_PARALLEL_WORKERS": WORKERS,
        "MLSERVER_METRICS_DIR": str(metrics),
        "MLSERVER_ENVIRONMENTS_DIR": str(fleet.folder / "mlserver-environments"),
    }


def describe_bentoml(fleet: Fleet, port: str) -> dict[str, str]:
    """Return BentoML's environment: no reports to its makers, no access log."""
    return {
        "BENTOML_DO_NOT_TRACK": "true",
        "BENTOML_HOME": str(fleet.folder / "bentoml"),
        "BENTOML_CONFIG_OPTIONS": "api_server.logging.access.enabled=false",
    }


SERVICES: Mapping[str, Callable[[Fleet, str], Any]] = {
    "default": run_service,
    "stripped": partial(run_service, **STRIPPED),
    "gthread": partial(run_service, WORKER_CLASS="gthread"),
    "short lease": partial(run_service, MODEL_LEASE_MS="1"),
    "in process": open_service,
    "in process, stripped": partial(open_service, **STRIPPED),
    "in process, keys": partial(open_service, AUTH="on"),
    "echo in process": open_echo,
    "echo": lambda fleet, name: run_gunicorn(
        fleet, name, "benchmarks.baselines.echo:app", DATABASE_URL="sqlite:///none"
    ),
    "bare": lambda fleet, name: run_gunicorn(
        fleet, name, "benchmarks.baselines.bare:app", DATABASE_URL="sqlite:///none"
    ),
    "fastapi": run_fastapi,
    "litserve": partial(run_competitor, make_command=run_script, ready="/health"),
    "bentoml": partial(
        run_competitor,
        make_command=lambda programs, port: [
            *(programs / "bentoml", "serve", "service:Linear"),
            *("--host", "127.0.0.1", "--port", port),
        ],
        ready="/readyz",
        make_environment=describe_bentoml,
    ),
    "mlserver": partial(
        run_competitor,
        make_command=lambda programs, port: [programs / "mlserver", "start", "."],
        ready="/v2/models/linear/ready",
        make_environment=describe_mlserver,
    ),
}


# What they are filled with


def expect(status: int) -> Callable[[Answer], None]:
    """Return a check of an answer's status."""

    def check(answer: Answer) -> None:
        if answer.status != status:
            raise WrongAnswer(f"answered {answer.status}: {str(answer.body)[:200]}")

    return check


def create_items(url: str) -> None:
    """Create the items one by one, so that their ids and names go together."""
    with requests.Session() as session:
        for number in range(1, N_ITEMS + 1):
            item = {"name": f"Item {number}", "description": "Made to be read."}
            answer = session.post(f"{url}/api/v1/items", json=item, timeout=30)
            if answer.status_code != 201:
                raise WrongAnswer(f"answered {answer.status_code}: {answer.text[:200]}")
