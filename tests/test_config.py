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
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite://?timeout=3",
        "sqlite:///:memory:?timeout=3",
        "sqlite:///file::memory:?uri=true",
        "sqlite:///file:webapp?mode=memory&uri=true",
    ],
)
def test_a_database_in_memory_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^DATABASE_URL "):
        read("DATABASE_URL", url)


@pytest.mark.parametrize(
    "url",
    [
        "sqlite",
        "postgres",
        "postgresql",
        "postgresql://webapp:word@db:port/webapp",
        "postgresql://webapp:word@db:/webapp",
        "sqlite://:memory:",
        "sqlite://host/webapp.db",
    ],
)
def test_a_url_that_sqlalchemy_cannot_use_is_refused_by_name(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^DATABASE_URL "):
        read("DATABASE_URL", url)


def test_a_message_about_the_database_does_not_show_its_password() -> None:
    with pytest.raises(ConfigError) as raised:
        read("DATABASE_URL", "mysql://webapp:Zk3vJw8q@db/webapp")

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


def test_the_environment_is_that_of_the_process_unless_one_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WEB_THREADS", "7")

    assert load_settings()["WEB_THREADS"] == 7
    assert load_settings(environ={})["WEB_THREADS"] == 4


def test_a_test_environment_reads_no_dotenv(dotenv: Path) -> None:
    dotenv.write_text("WEB_THREADS=11\n")

    assert load_settings(environ={"APP_ENV": "testing"})["WEB_THREADS"] == 4
    assert load_settings({"APP_ENV": "testing"}, environ={})["WEB_THREADS"] == 4


def test_dotenv_may_choose_the_environment(dotenv: Path) -> None:
    dotenv.write_text(f"APP_ENV=production\nDATABASE_URL={GOOD_URL}\n")

    assert load_settings(environ={})["APP_ENV"] == "production"


def test_an_empty_value_counts_as_unset(dotenv: Path) -> None:
    dotenv.write_text("WEB_TIMEOUT=\nFLASK_DEBUG=\n")

    settings = load_settings({"LOG_LEVEL": None}, environ={"WEB_THREADS": "", "APP_ENV": ""})

    assert settings == load_settings(environ={"APP_ENV": "development"})


def test_an_empty_value_does_not_hide_one_that_is_set_elsewhere(dotenv: Path) -> None:
    dotenv.write_text("WEB_THREADS=11\n")

    by_environment = load_settings(environ={"WEB_THREADS": ""})
    by_override = load_settings({"WEB_TIMEOUT": ""}, environ={"WEB_TIMEOUT": "22"})

    assert by_environment["WEB_THREADS"] == 11
    assert by_override["WEB_TIMEOUT"] == 22


@pytest.mark.parametrize(("app_env", "lease"), [("development", 100), ("testing", 20)])
def test_an_environment_may_have_defaults_of_its_own(app_env: str, lease: int) -> None:
    assert load_settings(environ={"APP_ENV": app_env})["MODEL_LEASE_MS"] == lease


def test_an_environments_own_default_gives_way_to_a_given_value() -> None:
    settings = load_settings(environ={"APP_ENV": "testing", "MODEL_LEASE_MS": "35"})

    assert settings["MODEL_LEASE_MS"] == 35


def test_a_message_about_redis_does_not_show_its_password() -> None:
    with pytest.raises(ConfigError) as raised:
        read("RATELIMIT_STORAGE_URI", "redis://:Zk3vJw8q@cache:port")

    assert "Zk3vJw8q" not in str(raised.value)


def load_production(**environ: str) -> dict[str, Any]:
    return load_settings(environ={"APP_ENV": "production", **environ})


def test_production_accepts_a_database_with_a_password_of_its_own() -> None:
    settings = load_production(DATABASE_URL=GOOD_URL)

    assert settings["DATABASE_URL"] == "postgresql+psycopg2://webapp:Zk3vJw8q@db/webapp"
    assert settings["FLASK_DEBUG"] is False
    assert settings["MODEL_LEASE_MS"] == 100
    assert settings["RATE_LIMIT"] == "6000 per minute"


@pytest.mark.parametrize("url", ["postgresql://db/webapp", "sqlite:////var/lib/webapp.db"])
def test_production_accepts_a_database_that_asks_for_no_password(url: str) -> None:
    assert load_production(DATABASE_URL=url)["APP_ENV"] == "production"


@pytest.mark.parametrize("password", ["Zk3v[Jw8q", "Zk3v]Jw8q", "Zk3v#Jw8q", "Zk3v%2FJw8q"])
def test_production_accepts_any_character_that_a_database_url_may_hold(password: str) -> None:
    url = load_production(DATABASE_URL=f"postgresql://webapp:{password}@db/webapp")["DATABASE_URL"]

    assert make_url(url).host == "db"


@pytest.mark.parametrize("environ", [{}, {"DATABASE_URL": ""}])
def test_production_refuses_to_guess_the_database(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"^DATABASE_URL .*production"):
        load_production(**environ)


def test_production_refuses_to_go_without_keys() -> None:
    assert load_production(DATABASE_URL=GOOD_URL)["AUTH"] == "on"
    with pytest.raises(ConfigError, match=r"^AUTH .*production"):
        load_production(DATABASE_URL=GOOD_URL, AUTH="off")


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


def test_production_refuses_debug_mode() -> None:
    with pytest.raises(ConfigError, match=r"^FLASK_DEBUG .*production"):
        load_production(DATABASE_URL=GOOD_URL, FLASK_DEBUG="1")


@pytest.mark.parametrize(
    "password", ["", "change-me", "CHANGEME", "change_me", "Postgres", "secret", "password"]
)
def test_production_refuses_a_placeholder_for_a_password(password: str) -> None:
    with pytest.raises(ConfigError, match=r"^DATABASE_URL "):
        load_production(DATABASE_URL=f"postgresql://webapp:{password}@db/webapp")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://webapp:change%2Dme@db/webapp",
        "postgresql://db/webapp?user=webapp&password=postgres",
    ],
)
def test_production_refuses_a_placeholder_however_it_is_written(url: str) -> None:
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
