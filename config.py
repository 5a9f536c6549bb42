"""Every setting of the service in one table, read from the environment and `.env`.

A setting is one row of ``SETTINGS``: its name, how its text is read, its default and
one line of help. Development, testing and production differ in this file only.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dotenv import dotenv_values
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

ROOT = Path(__file__).resolve().parent
PLACEHOLDER_SECRETS = frozenset(
    {"change-me", "changeme", "change_me", "example", "password", "postgres", "secret"}
)


class ConfigError(ValueError):
    """A setting is missing or unusable; the message names it."""


def usable_cores() -> int:
    """Return the cores that this process may use: its affinity, cut by the cgroup's quota."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else min(cores, math.ceil(int(quota) / int(period)))


def one_of(*choices: str) -> Callable[[str], str]:
    """Return a reader that accepts exactly the given words."""

    def read(text: str) -> str:
        if text not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return text

    return read


def integer(minimum: int, maximum: int) -> Callable[[str], int]:
    """Return a reader for a whole number between two bounds, both included."""

    def read(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,18}", text) or not minimum <= int(text) <= maximum:
            raise ValueError(f"must be a whole number from {minimum} to {maximum}")
        return int(text)

    return read


def boolean(text: str) -> bool:
    """Read 1, true, yes, on as True and 0, false, no, off as False."""
    words = {"1": True, "true": True, "yes": True, "on": True}
    words |= {"0": False, "false": False, "no": False, "off": False}
    if text.lower() not in words:
        raise ValueError("must be true or false")
    return words[text.lower()]


def address(text: str) -> str:
    """Read HOST:PORT, or unix:PATH."""
    host, _, port = text.rpartition(":")
    is_socket = text.startswith("unix:") and text != "unix:"
    if is_socket or (host and host != "unix" and port.isdecimal() and int(port) < 65536):
        return text
    raise ValueError("must be HOST:PORT, such as 127.0.0.1:8000")


def database_url(text: str) -> str:
    """Read the URL of a SQLite file or a PostgreSQL database.

    ``postgres://`` and ``postgresql://`` both mean the psycopg2 driver here: SQLAlchemy
    2.1 refuses the first and gives the second to another driver.
    """
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise ValueError("must be a URL such as postgresql://user:password@host/name") from None
    if url.drivername in ("postgres", "postgresql", "postgresql+psycopg2"):
        url = url.set(drivername="postgresql+psycopg2")
    elif url.drivername != "sqlite":
        raise ValueError("must start with postgresql:// or sqlite:///")
    elif url.host:
        raise ValueError("must have three slashes before the path of a SQLite file")
    elif not url.database or ":memory:" in url.database or "memory" in url.query.values():
        raise ValueError("must name a file: each worker would have a memory of its own")
    return url.render_as_string(hide_password=False)


_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_HOST_NAME = rf"{_LABEL}(?:\.{_LABEL})*"
_ORIGIN = re.compile(rf"(https?)://(?:{_HOST_NAME}|\[[0-9a-f:.]+\])(:[1-9][0-9]{{0,4}})?")
_DEFAULT_PORTS = {("http", ":80"), ("https", ":443")}


def origins(text: str) -> frozenset[str]:
    """Read origins as browsers send them, with commas between; `none` as no origin."""
    found = _split(text, none="none")
    for origin in found:
        # One that no browser would ever send, such as a URL with a path, stands for a mistake.
        match = _ORIGIN.fullmatch(origin)
        if match is None or match.groups() in _DEFAULT_PORTS:
            raise ValueError("must be none, or origins such as https://app.example.com")
    return frozenset(found)


def host_names(text: str) -> tuple[str, ...] | None:
    """Read names of hosts in any case, with commas between; `any` as None, for all hosts."""
    found = [name.removesuffix(".") for name in _split(text.lower(), none="any")]
    for name in found:
        if not re.fullmatch(rf"\.?{_HOST_NAME}", name):
            raise ValueError("must be any, or names such as api.example.com or .example.com")
    return tuple(found) or None


def _split(text: str, *, none: str) -> list[str]:
    return [] if text == none else [part.strip() for part in text.split(",")]


def rate_limit(text: str) -> str | None:
    """Read one limit such as `600 per minute`; `off` as None, for no limit."""
    if text == "off":
        return None
    from limits import parse_many  # only where there is one: it takes long to import

    try:
        (limit,) = parse_many(text)
    except ValueError:
        limit = None
    if limit is None or limit.amount < 1:
        raise ValueError("must be off, or a limit such as 600 per minute")
    return text


def counter_store(text: str) -> str:
    """Read the URL of a Redis database, or `memory://`."""
    if text == "memory://":
        return text
    try:
        url = urlsplit(text)
        is_redis = url.scheme in ("redis", "rediss") and url.hostname and url.port != 0
    except ValueError:
        is_redis = False
    if not is_redis or not re.fullmatch(r"(/[0-9]{0,4})?", url.path):
        raise ValueError("must be memory:// or a URL such as redis://host:6379/0")
    return text


def data_root(text: str) -> str | None:
    """Read an absolute path, or the URL of an object store; `none` as None."""
    if text == "none":
        return None
    if "://" not in text and not Path(text).is_absolute():
        raise ValueError("must be none, an absolute path, or a URL such as s3://bucket/folder")
    return text


def training_engine(text: str) -> str:
    """Read `local`, or the address of a Dask scheduler."""
    if text == "local":
        return text
    scheme, _, place = text.partition("://")
    host, _, port = place.rpartition(":")
    if scheme not in ("tcp", "tls") or not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError("must be local, or an address such as tcp://scheduler:8786")
    return text


def file_path(text: str) -> str | None:
    """Read the path of a file that is there; `none` as None."""
    if text == "none":
        return None
    if not Path(text).is_file():
        raise ValueError("must be none, or the path of a file")
    return text


@dataclass(frozen=True)
class Setting:
    """One setting: ``read`` turns its text into a value or raises ValueError."""

    name: str
    read: Callable[[str], Any]
    default: str | None
    help: str
    defaults: Mapping[str, str | None] = field(default_factory=dict)
    """Defaults of single environments, by the name of the environment."""


SETTINGS = (
    Setting(
        "APP_ENV",
        one_of("development", "testing", "production"),
        "development",
        "Which defaults and checks apply: development, testing or production.",
    ),
    Setting(
        "AUTH",
        one_of("on", "off"),
        "off",
        "Whether requests need an API key. Off only for a service that listens on this machine "
        "alone, and never in production.",
        {"production": "on"},
    ),
    Setting(
        "DATABASE_URL",
        database_url,
        "sqlite:///webapp.db",
        "Database; a relative SQLite path lies in `instance/`. Required in production.",
        {"production": None},
    ),
    Setting(
        "DATABASE_TIMEOUT",
        integer(1, 3600),
        "15",
        "Seconds that one statement may take; on SQLite, that a writer waits for another.",
    ),
    Setting(
        "MODEL_LEASE_MS",
        integer(1, 60_000),
        "100",
        "Milliseconds a worker may rely on what it last heard about a model's active version, or "
        "an API key; every activation takes that long. The same on all hosts.",
        {"testing": "20"},
    ),
    Setting(
        "MODEL_CACHE_SIZE",
        integer(1, 10_000),
        "32",
        "Model versions that a worker keeps loaded.",
    ),
    Setting(
        "MAX_CONTENT_LENGTH",
        integer(1024, 2**40),
        str(256 * 1024 * 1024),
        "Largest request body in bytes.",
    ),
    Setting(
        "MAX_ROWS",
        integer(1, 10**9),
        "2000000",
        "Most rows of a training or of a batch to predict for.",
    ),
    Setting(
        "MAX_COLUMNS",
        integer(1, 10**6),
        "1000",
        "Most features of a training.",
    ),
    Setting(
        "MAX_CELLS",
        integer(1, 10**12),
        "50000000",
        "Most values of a training (rows times columns), of a batch to predict for, and of its "
        "answer (rows times classes).",
    ),
    Setting(
        "MAX_FIT_SECONDS",
        integer(1, 86_400),
        "600",
        "Longest time in seconds that a training or evaluation may take.",
    ),
    Setting(
        "MAX_FIT_MEMORY",
        integer(64, 2**30),
        "2048",
        "Most memory in MB that a training or evaluation may take beside its rows.",
    ),
    Setting(
        "DATA_ROOT",
        data_root,
        "none",
        "Where the files lie that trainings may name as their `source`: a folder, or the URL of "
        "an object store, such as `s3://bucket/folder`.",
    ),
    Setting(
        "TRAINING_PROCESSES",
        integer(0, 1024),
        "0",
        "Trainings that run at once on a host, each in a process of its own, whatever the number "
        "of workers; 0 means one per usable core but one, at least one.",
    ),
    Setting(
        "TRAINING_ENGINE",
        training_engine,
        "local",
        "What trains: local, or the Dask scheduler of a cluster, such as `tcp://scheduler:8786` "
        "or `tls://…`; needs `requirements/dask.txt`.",
    ),
    Setting(
        "TRAINING_ENGINE_CA",
        file_path,
        "none",
        "For `tls://`: the file with the certificate of the authority that the cluster trusts.",
    ),
    Setting(
        "TRAINING_ENGINE_CERT",
        file_path,
        "none",
        "For `tls://`: the file with the certificate that the service shows.",
    ),
    Setting(
        "TRAINING_ENGINE_KEY",
        file_path,
        "none",
        "For `tls://`: the file with its private key.",
    ),
    Setting(
        "JOB_QUEUE",
        integer(1, 10**6),
        "1000",
        "Jobs that may wait; their rows lie in the database.",
    ),
    Setting(
        "JOB_QUEUE_OF_KEY",
        integer(1, 10**6),
        "100",
        "Jobs of one holder of an API key that may wait.",
    ),
    Setting(
        "JOB_QUEUE_MB",
        integer(1, 10**9),
        "4096",
        "Most MB of the database that the rows and files of jobs may take.",
    ),
    Setting(
        "JOB_KEEP_DAYS",
        integer(1, 36_500),
        "30",
        "Days for which a job that has ended is kept.",
    ),
    Setting(
        "MAX_UPLOAD_SECONDS",
        integer(1, 86_400),
        "60",
        "Longest time in seconds that an uploaded model may take to be loaded and tried.",
    ),
    Setting(
        "MAX_UPLOAD_MEMORY",
        integer(64, 2**30),
        "2048",
        "Most memory in MB that it may take meanwhile.",
    ),
    Setting(
        "PROXY_HOPS",
        integer(0, 10),
        "0",
        "Reverse proxies in front: each adds an address to X-Forwarded-For; of the other "
        "X-Forwarded-* headers, the nearest proxy's count.",
    ),
    Setting(
        "TRUSTED_HOSTS",
        host_names,
        "any",
        "Names that requests may call this service by, with commas between; `.example.com` also "
        "means those below it. The others are refused.",
    ),
    Setting(
        "CORS_ORIGINS",
        origins,
        "none",
        "Origins whose pages browsers let call this service, with commas between, such as "
        "`https://app.example.com`.",
    ),
    Setting(
        "RATE_LIMIT",
        rate_limit,
        "off",
        "Most requests of an API key, or of an address without one, such as `600 per minute`.",
        {"production": "6000 per minute"},
    ),
    Setting(
        "RATELIMIT_STORAGE_URI",
        counter_store,
        "memory://",
        "Where requests are counted: `redis://host:6379/0` for all workers together, "
        "`memory://` for each by itself.",
    ),
    Setting(
        "LOG_LEVEL",
        one_of("DEBUG", "INFO", "WARNING", "ERROR"),
        "INFO",
        "Least severe level that is logged.",
    ),
    Setting(
        "LOG_FORMAT",
        one_of("json", "text"),
        "text",
        "How the log is written: json (an object a line; in production) or text.",
        {"production": "json"},
    ),
    Setting(
        "FLASK_DEBUG",
        boolean,
        "false",
        "Flask's debug mode. Refused in production.",
    ),
    Setting(
        "BIND",
        address,
        "127.0.0.1:8000",
        "Where gunicorn listens.",
    ),
    Setting(
        "WORKER_CLASS",
        one_of("epoll", "gthread"),
        "epoll",
        "gunicorn's worker: epoll is our own, for Linux; gthread is gunicorn's, and what other "
        "systems get.",
    ),
    Setting(
        "WEB_CONCURRENCY",
        integer(0, 1024),
        "0",
        "gunicorn workers; 0 means one per usable core, at least two.",
    ),
    Setting(
        "WEB_THREADS",
        integer(1, 256),
        "4",
        "Requests that a worker answers at once, besides those for health; its database pool is "
        "two connections larger.",
    ),
    Setting(
        "WEB_TIMEOUT",
        integer(1, 86_400),
        "120",
        "Seconds without a sign of life after which gunicorn replaces a worker.",
    ),
    Setting(
        "WEB_GRACEFUL_TIMEOUT",
        integer(1, 3600),
        "30",
        "Seconds that requests in flight have to finish when the service stops.",
    ),
    Setting(
        "ACCESS_LOG",
        boolean,
        "true",
        "Whether the log has a line for every request.",
    ),
    Setting(
        "METRICS",
        boolean,
        "true",
        "Whether `/metrics` tells Prometheus what was counted.",
    ),
    Setting(
        "OTEL",
        boolean,
        "false",
        "Whether requests are traced by OpenTelemetry; needs `requirements/traces.txt`.",
    ),
)


TLS_FILES = ("TRAINING_ENGINE_CA", "TRAINING_ENGINE_CERT", "TRAINING_ENGINE_KEY")


def load_settings(
    overrides: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the value of every setting.

    ``overrides`` win over the environment, which wins over `.env` beside this file, which
    wins over the defaults. A test environment reads no `.env`, so that a developer's own
    settings cannot change what the tests see. ``NAME_FILE`` stands for the setting ``NAME``, and
    is the path of a file that holds its value: for secrets.

    Raises ConfigError, naming the setting, when a value is missing or unusable.
    """
    environ = os.environ if environ is None else environ
    given = _read_given(environ) | _read_given(overrides or {})
    if given.get("APP_ENV") != "testing":
        given = _read_given(dotenv_values(ROOT / ".env")) | given
    values: dict[str, Any] = {}
    for setting in SETTINGS:
        values[setting.name] = _read(setting, given, values.get("APP_ENV", ""))
    if values["APP_ENV"] == "production":
        _check_production(values)
    if values["AUTH"] == "off" and not _is_loopback(values["BIND"]):
        raise ConfigError("AUTH must be on where BIND lets others than this machine in")
    if values["TRAINING_ENGINE"].startswith("tls://"):
        for name in TLS_FILES:
            if values[name] is None:
                raise ConfigError(f"{name} must be set where TRAINING_ENGINE is tls://")
    return values


def _read_given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is set in one place, the contents of files included; empty counts as unset."""
    given = {name: value for name, value in values.items() if value not in (None, "")}
    for name in (setting.name for setting in SETTINGS):
        path = given.get(f"{name}_FILE")
        if path is None:
            continue
        if name in given:
            raise ConfigError(f"{name} and {name}_FILE are both set: unset one of them")
        try:
            given[name] = Path(path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{name}_FILE names a file that cannot be read: {error}") from None
    return given


def _read(setting: Setting, given: Mapping[str, Any], app_env: str) -> Any:
    text = given.get(setting.name, setting.defaults.get(app_env, setting.default))
    if text is None:
        raise ConfigError(f"{setting.name} must be set when APP_ENV is {app_env}")
    try:
        return setting.read(str(text).strip())
    except ValueError as error:
        raise ConfigError(f"{setting.name} {error}") from None


def _is_loopback(bind: str) -> bool:
    host = bind.rpartition(":")[0].strip("[]")
    return bind.startswith("unix:") or host == "localhost" or _is_loopback_address(host)


def _is_loopback_address(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _check_production(values: Mapping[str, Any]) -> None:
    if values["AUTH"] == "off":
        raise ConfigError("AUTH must be on when APP_ENV is production")
    if values["FLASK_DEBUG"]:
        raise ConfigError("FLASK_DEBUG must be off when APP_ENV is production")
    url = make_url(values["DATABASE_URL"])
    password = url.query.get("password", url.password)
    if password is not None and str(password).lower() in {"", *PLACEHOLDER_SECRETS}:
        raise ConfigError("DATABASE_URL must carry a password of your own, not a placeholder")
