"""How this service, its rivals and the bare server are installed, started, prepared and ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import orjson
import requests
import sqlalchemy as sa

from benchmarks.load import Answer, Exchange, WrongAnswer, send
from benchmarks.rivals.common import sample
from config import SETTINGS
from tests.access.holders import make_holder
from tests.conftest import dispose_app, execute_on_server, make_app, migrate
from tests.ports import hold_port, port_of
from tests.postgres import server_for_tests
from webapp.scopes import Scope

ROOT = Path(__file__).resolve().parent.parent
RIVALS = ROOT / "benchmarks" / "rivals"
VENVS = ROOT / ".venv" / "rivals"  # `make clean` removes it, and no tool looks into it
WORKERS = "2"
N_ITEMS = 1_000
SAMPLE_PREDICTION = 4.960877268071006  # of the sample data's model, for (1, 2, 3)

INSTALL_TIMEOUT, START_TIMEOUT, STOP_TIMEOUT = 900, 90, 15  # seconds

# As in production, but without keys and metrics, which the rivals have not; and no `.env`: every
# setting is given.
SERVING = {
    **{setting.name: str(setting.default) for setting in SETTINGS},
    "AUTH": "off",
    "METRICS": "false",
    "ACCESS_LOG": "false",
    "WEB_CONCURRENCY": WORKERS,
}


class Unavailable(Exception):
    """A service cannot be installed or started here; the text says why."""


class Fleet:
    """The services that run at present; each is started when it is first asked for.

    What ``get`` returns is a URL; of an application in this process, the application.
    """

    def __init__(self) -> None:
        self._running: dict[str, tuple[ExitStack, Any]] = {}
        self._shared = ExitStack()
        self.unavailable: dict[str, str] = {}
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
        if name in self.unavailable:
            raise Unavailable(self.unavailable[name])
        if name not in self._running:
            stack = ExitStack()
            try:
                self._running[name] = stack, stack.enter_context(SERVICES[name](self))
            except Unavailable as error:
                self.unavailable[name] = str(error)
                raise
        return self._running[name][1]

    def keep(self, names: frozenset[str]) -> None:
        """End all services but these."""
        for name in set(self._running) - names:
            self._running.pop(name)[0].close()

    @contextmanager
    def database(self, name: str) -> Iterator[str]:
        """Make a service's database on the shared server until the block ends."""
        database = f"bench_{name}_{os.getpid()}"
        execute_on_server(self.postgres, f"CREATE DATABASE {database}")
        try:
            url = sa.make_url(self.postgres).set(database=database)
            self.databases[name] = url.render_as_string(False)
            yield self.databases[name]
        finally:
            execute_on_server(self.postgres, f"DROP DATABASE {database} WITH (FORCE)")


@contextmanager
def running(
    name: str,
    command: Sequence[str],
    *,
    folder: Path,
    cwd: Path,
    url: str,
    ready: str,
    environment: Mapping[str, str],
) -> Iterator[str]:
    """Run a server and all processes it starts until the block ends; raises Unavailable.

    It is ready when its path ``ready`` answers 200.
    """
    log = folder / f"{name}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,  # one signal ends what it started, too
        )
    try:
        deadline = time.monotonic() + START_TIMEOUT
        while not _answers(url + ready):
            if process.poll() is not None or time.monotonic() > deadline:
                raise Unavailable(f"does not start: {_last_line(log.read_text())}")
            time.sleep(0.1)
        yield url
    finally:
        _end(process)


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).status_code == 200
    except requests.RequestException:
        return False


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "no output"


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a server, which need not wait for anybody; what is left of its session, unasked."""
    process.send_signal(signal.SIGINT)
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=STOP_TIMEOUT)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def make_address() -> tuple[str, str]:
    """Return a free port of this machine, and the URL of a service that listens there."""
    with hold_port() as held:  # given back at once: not every rival could share it
        port = str(port_of(held))
    return port, f"http://127.0.0.1:{port}"


# This service and the bare server


@contextmanager
def run_ours(fleet: Fleet, name: str = "ours", **settings: str) -> Iterator[str]:
    """Run this service on PostgreSQL, as in production, with its models."""
    with fleet.database(name) as database_url:
        migrate(database_url)
        with run_gunicorn(fleet, name, DATABASE_URL=database_url, **settings) as url:
            train_models(url)
            yield url


def run_ours_with_short_lease(fleet: Fleet) -> Any:
    """Run this service with a lease of one millisecond."""
    return run_ours(fleet, "ours_short_lease", MODEL_LEASE_MS="1")


def run_bare(fleet: Fleet) -> Any:
    """Run an application that does nothing under the same gunicorn settings."""
    return run_gunicorn(fleet, "bare", "benchmarks.floors.bare:app", DATABASE_URL="sqlite:///none")


def run_echo(fleet: Fleet) -> Any:
    """Run a plain Flask application under the same gunicorn settings."""
    return run_gunicorn(fleet, "echo", "benchmarks.floors.echo:app", DATABASE_URL="sqlite:///none")


def run_gunicorn(fleet: Fleet, name: str, *application: str, **settings: str) -> Any:
    """Run gunicorn with the service's own configuration file."""
    port, url = make_address()
    return running(
        name,
        [sys.executable, "-m", "gunicorn", *application],
        folder=fleet.folder,
        cwd=ROOT,
        url=url,
        ready="/health/ready",
        environment={**os.environ, **SERVING, "BIND": f"127.0.0.1:{port}", **settings},
    )


@contextmanager
def open_ours_in_process(fleet: Fleet, **settings: str) -> Iterator[Any]:
    """Build this service's application, trained, with a lease that lasts."""
    database_url = f"sqlite:///{fleet.folder / uuid.uuid4().hex}.db"
    migrate(database_url)
    common = {**SERVING, "DATABASE_URL": database_url}
    app = make_app(database_url, **{**common, "MODEL_LEASE_MS": "1"})
    with app.test_client() as client:
        X, y = sample.make_sample()
        client.post("/api/v1/ml/train", json={"X": X.tolist(), "y": y.tolist()})
    dispose_app(app)
    app = make_app(database_url, **{**common, "MODEL_LEASE_MS": "60000", **settings})
    yield app
    dispose_app(app)


@contextmanager
def open_ours_with_keys(fleet: Fleet, auth: str = "on") -> Iterator[Any]:
    """Build the same, asking for a key or not; what is returned sends one along."""
    with open_ours_in_process(fleet, AUTH=auth) as app:
        key = make_holder(app, "bench", Scope.ML_PREDICT)
        yield lambda environ, start: app({**environ, "HTTP_AUTHORIZATION": f"Bearer {key}"}, start)


@contextmanager
def open_echo(fleet: Fleet) -> Iterator[Any]:
    """Import the plain Flask application that answers what it was sent."""
    from benchmarks.floors.echo import app

    yield app


# Rivals


def install(name: str) -> Path:
    """Return the programs of a rival's own virtual environment, made at the first call."""
    venv, wanted = VENVS / name, RIVALS / name / "requirements.txt"
    programs = venv / ("Scripts" if os.name == "nt" else "bin")
    stamp = venv / "installed.txt"
    if stamp.exists() and stamp.read_text() == wanted.read_text():
        return programs
    _run_to_install([sys.executable, "-m", "venv", "--clear", str(venv)])
    pip = [str(programs / "python"), "-m", "pip", "install", "--quiet"]
    _run_to_install([*pip, "--disable-pip-version-check", "-r", str(wanted)])
    stamp.write_text(wanted.read_text())
    return programs


def _run_to_install(command: Sequence[str]) -> None:
    try:
        subprocess.run(
            command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT, check=True
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"not installed: took longer than {INSTALL_TIMEOUT} s") from None
    except subprocess.CalledProcessError as error:
        raise Unavailable(f"not installed: {_last_line(error.stderr)}") from None


def rival_environment(**environment: str) -> dict[str, str]:
    """Return a rival's environment: BLAS takes as many threads as it does by default."""
    ours = {"OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"}
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    return {**kept, "PYTHONPATH": str(RIVALS / "common"), **environment}


def run_rival(
    fleet: Fleet,
    name: str,
    make_command: Callable[[Path, str], Sequence[str]],
    *,
    ready: str,
    **environment: str,
) -> Any:
    """Run a rival out of its virtual environment; ``make_command`` is given programs and port."""
    programs = install(name)
    port, url = make_address()
    return running(
        name,
        make_command(programs, port),
        folder=fleet.folder,
        cwd=RIVALS / name,
        url=url,
        ready=ready,
        environment=rival_environment(**environment),
    )


@contextmanager
def run_fastapi(fleet: Fleet) -> Iterator[str]:
    """Run FastAPI under uvicorn on the same PostgreSQL."""

    def make_command(programs: Path, port: str) -> Sequence[str]:
        uvicorn = [str(programs / "uvicorn"), "service:app", "--host", "127.0.0.1"]
        quiet = ["--no-access-log", "--log-level", "warning"]
        return [*uvicorn, "--port", port, "--workers", WORKERS, *quiet]

    with fleet.database("fastapi") as url:
        database_url = url.replace("postgresql:", "postgresql+psycopg2:", 1)
        subprocess.run(
            [install("fastapi") / "python", "-c", "import service; service.create_tables()"],
            cwd=RIVALS / "fastapi",
            env=rival_environment(DATABASE_URL=database_url),
            check=True,
            timeout=START_TIMEOUT,
        )
        service = run_rival(
            fleet, "fastapi", make_command, ready="/health", DATABASE_URL=database_url
        )
        with service as address:
            yield address


def run_mlserver(fleet: Fleet) -> Any:
    """Run MLServer with two inference workers; it reads its port from the environment only."""
    (metrics := fleet.folder / "mlserver-metrics").mkdir(exist_ok=True)
    http, url = make_address()
    return running(
        "mlserver",
        [str(install("mlserver") / "mlserver"), "start", "."],
        folder=fleet.folder,
        cwd=RIVALS / "mlserver",
        url=url,
        ready="/v2/models/linear/ready",
        environment=rival_environment(
            MLSERVER_HOST="127.0.0.1",
            MLSERVER_HTTP_PORT=http,
            MLSERVER_GRPC_PORT=make_address()[0],
            MLSERVER_METRICS_PORT=make_address()[0],
            MLSERVER_DEBUG="false",
            MLSERVER_PARALLEL_WORKERS=WORKERS,
            MLSERVER_METRICS_DIR=str(metrics),
            MLSERVER_ENVIRONMENTS_DIR=str(fleet.folder / "mlserver-environments"),
        ),
    )


def run_bentoml(fleet: Fleet) -> Any:
    """Run BentoML with two workers."""

    def make_command(programs: Path, port: str) -> Sequence[str]:
        bentoml = [str(programs / "bentoml"), "serve", "service:Linear"]
        return [*bentoml, "--host", "127.0.0.1", "--port", port]

    return run_rival(
        fleet,
        "bentoml",
        make_command,
        ready="/readyz",
        BENTOML_DO_NOT_TRACK="true",
        BENTOML_HOME=str(fleet.folder / "bentoml"),
        BENTOML_CONFIG_OPTIONS="api_server.logging.access.enabled=false",
    )


def run_litserve(fleet: Fleet) -> Any:
    """Run LitServe with two API servers and two inference workers."""
    return run_rival(
        fleet,
        "litserve",
        lambda programs, port: [str(programs / "python"), "service.py", port],
        ready="/health",
    )


@contextmanager
def with_items(run: Callable[[Fleet], Any], fleet: Fleet) -> Iterator[str]:
    """Run a service with the items that lists and readings find."""
    with run(fleet) as url:
        create_items(url)
        yield url


SERVICES: Mapping[str, Callable[[Fleet], Any]] = {
    "ours": run_ours,
    "ours, short lease": run_ours_with_short_lease,
    "ours, items": partial(with_items, run_ours),
    "bare": run_bare,
    "served echo": run_echo,
    "fastapi": run_fastapi,
    "fastapi, items": partial(with_items, run_fastapi),
    "mlserver": run_mlserver,
    "bentoml": run_bentoml,
    "litserve": run_litserve,
    "ours in process": open_ours_in_process,
    "ours with keys": open_ours_with_keys,
    "ours, keys unread": partial(open_ours_with_keys, auth="off"),
    "ours with metrics": partial(open_ours_in_process, METRICS="true"),
    "echo": open_echo,
}


# What they are filled with


def expect(status: int) -> Callable[[Answer], None]:
    """Return a check of an answer's status."""

    def check(answer: Answer) -> None:
        if answer.status != status:
            raise WrongAnswer(f"answered {answer.status}: {str(answer.body)[:200]}")

    return check


def train_models(url: str) -> None:
    """Train this service's model of three features, and one of ten."""
    for name, (X, y) in {"default": sample.make_sample(), "wide": sample.make_rows()}.items():
        body = orjson.dumps({"X": X, "y": y}, option=orjson.OPT_SERIALIZE_NUMPY)
        send(url, Exchange("POST", f"/api/v1/ml/models/{name}/train", expect(201), body))


def create_items(url: str) -> None:
    """Create the items one by one, so that their ids and names go together."""
    with requests.Session() as session:
        for number in range(1, N_ITEMS + 1):
            item = {"name": f"Item {number}", "description": "Made to be read."}
            answer = session.post(f"{url}/api/v1/items", json=item, timeout=30)
            if answer.status_code != 201:
                raise WrongAnswer(f"answered {answer.status_code}: {answer.text[:200]}")
