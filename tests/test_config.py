"""The settings: how each is read, what wins over what, and what production refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import make_url

import config
from config import SETTINGS, ConfigError, load_settings

ROOT = config.ROOT
GOOD_URL = "postgresql://webapp:Zk3vJw8q@db/webapp"
BAD_VALUES = {
    "APP_ENV": ["prod", "Production", "development,testing"],
    "AUTH": ["true", "On", "1"],
    "DATABASE_URL": ["mysql://localhost/webapp", "webapp.db", "://"],
    "DATABASE_TIMEOUT": ["0", "3601", "1.5", "-1", "ten"],
    "MODEL_LEASE_MS": ["0", "60001", "0.1", "1_0", "+5", "٣"],
    "MODEL_CACHE_SIZE": ["0", "10001", "1e3"],
    "MAX_CONTENT_LENGTH": ["1023", str(2**40 + 1), "1MB", "9" * 5000],
    "MAX_ROWS": ["0", str(10**9 + 1), "many"],
    "MAX_COLUMNS": ["0", str(10**6 + 1), "1e3"],
    "MAX_CELLS": ["0", str(10**12 + 1), "5e7"],
    "MAX_FIT_SECONDS": ["0", "86401", "0.5"],
    "MAX_FIT_MEMORY": ["0", "63", "1.5", "2GB"],
    "PROXY_HOPS": ["-1", "11", "true"],
    "TRUSTED_HOSTS": [
        *("*", "https://api.example.com", "api.example.com:443", "a b", "-a.example", "a..b"),
        *("api.example.com..", "api.example.com,", "any,api.example.com/", "[::1]", "."),
    ],
    "CORS_ORIGINS": [
        *("*", "null", "app.example.com", "https://app.example.com/", "https://*.example.com"),
        *("https://App.example.com", "https://app.example.com:443", "http://app.example.com:80"),
        *("https://app.example.com:0", "ftp://app.example.com", "https://u@app.example.com"),
        *("https://app.example.com,", "none,https://app.example.com", "https://a.example;b"),
    ],
    "RATE_LIMIT": [
        *("600", "many", "Off", "0 per minute", "-1 per minute", "1e3 per minute"),
        *("1 per fortnight", "5 per second; 60 per minute", "6 per minute, please"),
    ],
    "RATELIMIT_STORAGE_URI": [
        *("memory", "redis://", "redis:///0", "http://cache:6379", "redis://cache:port"),
        *("redis://cache:0", "redis://cache:99999", "redis://cache/name", "memcached://cache"),
    ],
    "LOG_LEVEL": ["debug", "TRACE", "10"],
    "LOG_FORMAT": ["JSON", "plain", "1"],
    "FLASK_DEBUG": ["2", "y", "enabled"],
    "BIND": ["8000", ":8000", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:http", "unix:"],
    "WORKER_CLASS": ["sync", "EPOLL", "webapp.server.worker.EpollWorker"],
    "WEB_CONCURRENCY": ["-1", "1025", "auto"],
    "WEB_THREADS": ["0", "257"],
    "WEB_TIMEOUT": ["0", "86401"],
    "WEB_GRACEFUL_TIMEOUT": ["0", "3601"],
    "ACCESS_LOG": ["-", "maybe"],
    "METRICS": ["2", "prometheus"],
    "OTEL": ["2", "http://collector:4318"],
}


@pytest.fixture(autouse=True)
def dotenv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Path of the `.env` that is read; there is none before a test writes it."""
    monkeypatch.setattr(config, "ROOT", tmp_path)
    return tmp_path / ".env"


def read(name: str, text: str) -> Any:
    return load_settings(environ={name: text})[name]


def run(*command: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **environ},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_every_setting_has_a_default_and_a_line_of_help() -> None:
    settings = load_settings(environ={})

    assert list(settings) == [setting.name for setting in SETTINGS]
    assert all(setting.help.endswith(".") for setting in SETTINGS)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("APP_ENV", "testing", "testing"),
        ("LOG_LEVEL", "WARNING", "WARNING"),
        ("MODEL_LEASE_MS", "1", 1),
        ("MODEL_LEASE_MS", "60000", 60_000),
        ("MODEL_LEASE_MS", " 250 ", 250),
        ("PROXY_HOPS", "0", 0),
        ("MAX_CONTENT_LENGTH", str(2**40), 2**40),
        ("FLASK_DEBUG", "1", True),
        ("FLASK_DEBUG", "True", True),
        ("FLASK_DEBUG", "yes", True),
        ("FLASK_DEBUG", "ON", True),
        ("FLASK_DEBUG", "0", False),
        ("FLASK_DEBUG", "false", False),
        ("FLASK_DEBUG", "No", False),
        ("FLASK_DEBUG", "off", False),
        ("TRUSTED_HOSTS", "any", None),
        (
            "TRUSTED_HOSTS",
            "localhost, .Example.com.,10.0.0.1",
            ("localhost", ".example.com", "10.0.0.1"),
        ),
        ("CORS_ORIGINS", "none", frozenset()),
        (
            "CORS_ORIGINS",
            "https://app.example.com, http://localhost:5173,http://[::1]:8080",
            frozenset({"https://app.example.com", "http://localhost:5173", "http://[::1]:8080"}),
        ),
        ("RATE_LIMIT", "off", None),
        ("RATE_LIMIT", "600 per minute", "600 per minute"),
        ("RATE_LIMIT", "10/2hours", "10/2hours"),
        ("RATELIMIT_STORAGE_URI", "memory://", "memory://"),
        ("RATELIMIT_STORAGE_URI", "redis://cache", "redis://cache"),
        (
            "RATELIMIT_STORAGE_URI",
            "rediss://:pa%2Fss@cache:6380/1",
            "rediss://:pa%2Fss@cache:6380/1",
        ),
        ("BIND", "0.0.0.0:80", "0.0.0.0:80"),
        ("BIND", "[::1]:65535", "[::1]:65535"),
        ("BIND", "unix:/run/webapp.sock", "unix:/run/webapp.sock"),
        ("BIND", "unix:/run/web:app.sock", "unix:/run/web:app.sock"),
        ("DATABASE_URL", "sqlite:///other.db", "sqlite:///other.db"),
        ("DATABASE_URL", "sqlite:////var/lib/webapp.db", "sqlite:////var/lib/webapp.db"),
    ],
)
def test_a_setting_is_read_from_its_text(name: str, text: str, value: Any) -> None:
    found = load_settings({"APP_ENV": "testing", "AUTH": "on", name: text}, {})[name]

    assert (type(found), found) == (type(value), value)


def test_the_list_of_bad_values_knows_every_setting() -> None:
    assert list(BAD_VALUES) == [setting.name for setting in SETTINGS]


@pytest.mark.parametrize(
    ("name", "text"), [(name, text) for name, texts in BAD_VALUES.items() for text in texts]
)
def test_a_value_that_cannot_be_used_is_refused_by_the_name_of_its_setting(
    name: str, text: str
) -> None:
    with pytest.raises(ConfigError, match=rf"^{name} "):
        read(name, text)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg2"])
def test_every_name_of_postgresql_means_one_driver(scheme: str) -> None:
    url = read("DATABASE_URL", f"{scheme}://webapp:pass://word@db:5432/webapp?sslmode=require")

    assert url == "postgresql+psycopg2://webapp:pass%3A%2F%2Fword@db:5432/webapp?sslmode=require"


@pytest.mark.parametrize(
    "url",
    [
        # In memory: each worker would have a database of its own.
        *("sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite://?timeout=3"),
        *("sqlite:///:memory:?timeout=3", "sqlite:///file::memory:?uri=true"),
        *("sqlite:///file:webapp?mode=memory&uri=true", "sqlite://:memory:"),
        # Nothing that SQLAlchemy can use.
        *("sqlite", "postgres", "postgresql", "sqlite://host/webapp.db"),
        *("postgresql://webapp:word@db:port/webapp", "postgresql://webapp:word@db:/webapp"),
    ],
)
def test_a_database_that_workers_cannot_share_or_reach_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^DATABASE_URL "):
        read("DATABASE_URL", url)


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("DATABASE_URL", "mysql://webapp:Zk3vJw8q@db/webapp"),
        ("RATELIMIT_STORAGE_URI", "redis://:Zk3vJw8q@cache:port"),
    ],
)
def test_a_message_does_not_show_a_password(name: str, url: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read(name, url)

    assert "Zk3vJw8q" not in str(raised.value)


def test_overrides_win_over_the_environment_over_dotenv_over_defaults(dotenv: Path) -> None:
    dotenv.write_text("WEB_THREADS=11\nWEB_TIMEOUT=12\nDATABASE_TIMEOUT=13\n")

    settings = load_settings(
        {"WEB_THREADS": 31}, environ={"WEB_THREADS": "21", "WEB_TIMEOUT": "22"}
    )

    assert settings["WEB_THREADS"] == 31
    assert settings["WEB_TIMEOUT"] == 22
    assert settings["DATABASE_TIMEOUT"] == 13
    assert settings["WEB_GRACEFUL_TIMEOUT"] == 30


def test_a_test_environment_reads_no_dotenv(dotenv: Path) -> None:
    dotenv.write_text("WEB_THREADS=11\n")

    assert load_settings(environ={"APP_ENV": "testing"})["WEB_THREADS"] == 4
    assert load_settings({"APP_ENV": "testing"}, environ={})["WEB_THREADS"] == 4


def test_dotenv_may_choose_the_environment(dotenv: Path) -> None:
    dotenv.write_text(f"APP_ENV=production\nDATABASE_URL={GOOD_URL}\n")

    assert load_settings(environ={})["APP_ENV"] == "production"


def test_an_empty_value_counts_as_unset(dotenv: Path) -> None:
    dotenv.write_text("WEB_TIMEOUT=\nDATABASE_TIMEOUT=11\n")

    environ = {"WEB_THREADS": "", "APP_ENV": "", "DATABASE_TIMEOUT": "", "PROXY_HOPS": "2"}
    settings = load_settings({"LOG_LEVEL": None, "PROXY_HOPS": ""}, environ=environ)

    given = {"DATABASE_TIMEOUT": 11, "PROXY_HOPS": 2}
    assert settings == load_settings(environ={"APP_ENV": "development"}) | given


@pytest.mark.parametrize(
    ("given", "lease"),
    [
        ({"APP_ENV": "development"}, 100),
        ({"APP_ENV": "testing"}, 20),
        ({"APP_ENV": "testing", "MODEL_LEASE_MS": "35"}, 35),
    ],
)
def test_an_environment_may_have_defaults_of_its_own(given: dict[str, str], lease: int) -> None:
    assert load_settings(environ=given)["MODEL_LEASE_MS"] == lease


def load_production(**environ: str) -> dict[str, Any]:
    return load_settings(environ={"APP_ENV": "production", **environ})


def test_production_has_defaults_of_its_own() -> None:
    settings = load_production(DATABASE_URL=GOOD_URL)

    assert settings["DATABASE_URL"] == "postgresql+psycopg2://webapp:Zk3vJw8q@db/webapp"
    assert (settings["AUTH"], settings["FLASK_DEBUG"]) == ("on", False)
    assert settings["RATE_LIMIT"] == "6000 per minute"


@pytest.mark.parametrize(
    "url",
    [
        *("postgresql://db/webapp", "sqlite:////var/lib/webapp.db"),  # need no password
        "postgresql://webapp:Zk3v[Jw]8q#%2F@db/webapp",
    ],
)
def test_production_accepts_a_database_without_a_password_or_with_a_strong_one(url: str) -> None:
    found = make_url(load_production(DATABASE_URL=url)["DATABASE_URL"])

    assert found.host in ("db", None)


@pytest.mark.parametrize(
    ("refused", "environ"),
    [
        ("DATABASE_URL", {}),
        ("DATABASE_URL", {"DATABASE_URL": ""}),
        ("AUTH", {"DATABASE_URL": GOOD_URL, "AUTH": "off"}),
        ("FLASK_DEBUG", {"DATABASE_URL": GOOD_URL, "FLASK_DEBUG": "1"}),
    ],
)
def test_production_refuses_what_is_only_good_for_development(
    refused: str, environ: dict[str, str]
) -> None:
    with pytest.raises(ConfigError, match=rf"^{refused} .*production"):
        load_production(**environ)


@pytest.mark.parametrize("bind", ["0.0.0.0:8000", "[::]:8000", "192.0.2.7:80", "web:8000"])
def test_nobody_listens_beyond_this_machine_without_keys(bind: str) -> None:
    assert load_settings({"BIND": bind, "AUTH": "on"}, {"APP_ENV": "testing"})["BIND"] == bind
    with pytest.raises(ConfigError, match=r"^AUTH .*BIND"):
        load_settings({"BIND": bind}, {"APP_ENV": "testing"})


@pytest.mark.parametrize(
    "bind", ["127.0.0.1:8000", "127.0.0.2:80", "[::1]:80", "localhost:80", "unix:/run/webapp.sock"]
)
def test_this_machine_alone_may_be_served_without_keys(bind: str) -> None:
    assert load_settings({"BIND": bind}, {"APP_ENV": "testing"})["AUTH"] == "off"


@pytest.mark.parametrize(
    "url",
    [
        *(
            f"postgresql://webapp:{password}@db/webapp"
            for password in ("", "change-me", "CHANGEME", "Postgres", "secret", "change%2Dme")
        ),
        "postgresql://db/webapp?user=webapp&password=postgres",
    ],
)
def test_production_refuses_a_placeholder_for_a_password(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^DATABASE_URL "):
        load_production(DATABASE_URL=url)


@pytest.mark.parametrize(
    "command",
    [
        ["-m", "gunicorn", "--check-config"],
        ["-m", "flask", "--help"],
        ["-m", "flask", "seed"],
        ["-c", "import wsgi"],
    ],
    ids=["gunicorn", "flask --help", "flask seed", "wsgi"],
)
def test_a_bad_setting_ends_the_program_with_one_line_that_names_it(
    command: list[str],
) -> None:
    ended = run(*command, WEB_THREADS="many")

    assert ended.returncode != 0
    assert ended.stdout == ""
    assert ended.stderr.splitlines() == [
        "Configuration error: WEB_THREADS must be a whole number from 1 to 256"
    ]


def test_gunicorn_accepts_its_own_settings() -> None:
    ended = run("-m", "gunicorn", "--check-config", APP_ENV="testing", BIND="127.0.0.1:8000")

    assert (ended.returncode, ended.stderr) == (0, "")


# Settings in files, as the secrets of containers are: `NAME_FILE` in place of `NAME`.


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_a_setting_may_be_in_a_file(tmp_path: Path, setting: config.Setting) -> None:
    usual = load_settings(environ={"APP_ENV": "testing"})
    is_environment = setting.name == "APP_ENV"
    default = setting.defaults.get("testing", setting.default)
    (tmp_path / "secret").write_text(f"{'testing' if is_environment else default}\n")

    given = {f"{setting.name}_FILE": tmp_path / "secret"}
    found = load_settings(given if is_environment else {"APP_ENV": "testing", **given}, environ={})

    assert found == usual


def test_a_file_wins_over_a_value_where_its_name_would_win_over_it(tmp_path: Path) -> None:
    (tmp_path / "threads").write_text("7")
    given = {"APP_ENV": "testing", "WEB_THREADS_FILE": tmp_path / "threads"}

    assert load_settings(given, environ={"WEB_THREADS": "9"})["WEB_THREADS"] == 7


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"DATABASE_URL_FILE": "/nowhere/url"}, r"DATABASE_URL_FILE .*cannot be read.*/nowhere"),
        ({"DATABASE_URL_FILE": "/"}, r"DATABASE_URL_FILE .*cannot be read"),
        (
            {"DATABASE_URL_FILE": "/nowhere/url", "DATABASE_URL": "sqlite:///webapp.db"},
            r"DATABASE_URL and DATABASE_URL_FILE are both set",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_its_setting(
    settings: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load_settings({"APP_ENV": "testing"}, environ=settings)


def test_production_checks_a_password_in_a_file_as_any_other(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("postgresql://webapp:change-me@db/webapp\n")

    with pytest.raises(ConfigError, match="placeholder"):
        load_production(DATABASE_URL_FILE=str(tmp_path / "url"))
