"""The settings: how each is read, what wins over what, and what production refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import config
from config import SETTINGS, ConfigError, load_settings

ROOT = config.ROOT
GOOD_URL = "postgresql://webapp:Zk3vJw8q@db/webapp"
BAD_VALUES = {
    "APP_ENV": ["prod", "Production", "development,testing"],
    "DATABASE_URL": [
        *("mysql://webapp:Zk3vJw8q@db/a", "webapp.db", "://", "sqlite", "postgres", "postgresql"),
        *("sqlite://host/webapp.db", "postgresql://db:port/webapp", "postgresql://db:/webapp"),
        # In memory: each worker would have a database of its own.
        *("sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite://?timeout=3"),
        *("sqlite:///:memory:?timeout=3", "sqlite:///file::memory:?uri=true"),
        *("sqlite:///file:webapp?mode=memory&uri=true", "sqlite://:memory:"),
    ],
    "DATABASE_TIMEOUT": ["0", "3601", "1.5", "-1", "ten", "1_0", "+5", "٣", "1e3", "9" * 5000],
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
    "DATA_ROOT": ["data", "./data", "../data", "s3:/bucket"],
    "RATELIMIT_STORAGE_URI": [
        *("memory", "redis://", "redis:///0", "http://cache:6379", "redis://:Zk3vJw8q@c:port"),
        *("redis://cache:0", "redis://cache:99999", "redis://cache/name", "memcached://cache"),
    ],
    "FLASK_DEBUG": ["2", "y"],
    "TRAINING_ENGINE": [
        *("Local", "scheduler:8786", "http://scheduler:8786", "tcp://scheduler", "tcp://:8786"),
        *("tcp://scheduler:99999", "tls://scheduler:port"),
    ],
    "BIND": ["8000", ":8000", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:http", "unix:"],
}


@pytest.fixture(autouse=True)
def dotenv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Path of the `.env` that is read; there is none before a test writes it."""
    monkeypatch.setattr(config, "ROOT", tmp_path)
    return tmp_path / ".env"


def load_testing(**environ: str) -> dict[str, Any]:
    return load_settings(environ={"APP_ENV": "testing", **environ})


def load_production(**environ: str) -> dict[str, Any]:
    return load_settings(environ={"APP_ENV": "production", **environ})


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("MODEL_LEASE_MS", "1", 1),
        ("MODEL_LEASE_MS", " 60000 ", 60_000),
        ("FLASK_DEBUG", "True", True),
        ("FLASK_DEBUG", "off", False),
        ("TRUSTED_HOSTS", "any", None),
        ("TRUSTED_HOSTS", "localhost, .Example.com.", ("localhost", ".example.com")),
        ("CORS_ORIGINS", "none", frozenset()),
        (
            "CORS_ORIGINS",
            "https://app.example.com, http://localhost:5173,http://[::1]:8080",
            frozenset({"https://app.example.com", "http://localhost:5173", "http://[::1]:8080"}),
        ),
        ("RATE_LIMIT", "off", None),
        *(("TRAINING_ENGINE", text, text) for text in ("local", "tcp://10.0.0.7:8786")),
        ("TRAINING_ENGINE_CA", "none", None),
        *(("RATE_LIMIT", text, text) for text in ("600 per minute", "10/2hours")),
        ("DATA_ROOT", "none", None),
        *(("DATA_ROOT", text, text) for text in ("/srv/data", "s3://bucket/folder")),
        *(("RATELIMIT_STORAGE_URI", text, text) for text in ("memory://", "redis://cache")),
        ("RATELIMIT_STORAGE_URI", "rediss://:pa%2Fs@c:63/1", "rediss://:pa%2Fs@c:63/1"),
        *(("DATABASE_URL", text, text) for text in ("sqlite:///a.db", "sqlite:////var/a.db")),
        # Every name of PostgreSQL means one driver.
        (
            "DATABASE_URL",
            "postgres://u:a//b@db:5/c?d=e",
            "postgresql+psycopg2://u:a%2F%2Fb@db:5/c?d=e",
        ),
        ("DATABASE_URL", "postgresql+psycopg2://db/c", "postgresql+psycopg2://db/c"),
    ],
)
def test_a_setting_is_read_from_its_text(name: str, text: str, value: Any) -> None:
    found = load_testing(**{name: text})[name]

    assert (type(found), found) == (type(value), value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *((name, text) for name, texts in BAD_VALUES.items() for text in texts),
        *((setting.name, "?!") for setting in SETTINGS),
    ],
)
def test_a_bad_value_is_refused_by_the_name_of_its_setting(name: str, text: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{name} ") as raised:
        load_settings(environ={name: text})

    assert "Zk3vJw8q" not in str(raised.value)  # which is a password


def test_overrides_win_over_the_environment_over_dotenv_over_defaults(dotenv: Path) -> None:
    dotenv.write_text("WEB_THREADS=11\nWEB_TIMEOUT=12\nDATABASE_TIMEOUT=13\n")

    settings = load_settings(
        {"WEB_THREADS": 31}, environ={"WEB_THREADS": "21", "WEB_TIMEOUT": "22"}
    )

    assert settings["WEB_THREADS"] == 31
    assert settings["WEB_TIMEOUT"] == 22
    assert settings["DATABASE_TIMEOUT"] == 13
    assert settings["WEB_GRACEFUL_TIMEOUT"] == 30


def test_dotenv_may_choose_the_environment_and_tests_do_not_read_it(dotenv: Path) -> None:
    dotenv.write_text(f"APP_ENV=production\nDATABASE_URL={GOOD_URL}\nWEB_THREADS=11\n")

    assert load_settings(environ={})["APP_ENV"] == "production"
    assert load_settings(environ={})["WEB_THREADS"] == 11
    assert load_settings({"APP_ENV": "testing"}, environ={})["WEB_THREADS"] == 4


def test_an_empty_value_counts_as_unset(dotenv: Path) -> None:
    dotenv.write_text("WEB_TIMEOUT=\nDATABASE_TIMEOUT=11\n")

    environ = {"WEB_THREADS": "", "APP_ENV": "", "DATABASE_TIMEOUT": "", "PROXY_HOPS": "2"}
    settings = load_settings({"LOG_LEVEL": None, "PROXY_HOPS": ""}, environ=environ)

    given = {"DATABASE_TIMEOUT": 11, "PROXY_HOPS": 2}
    assert settings == load_settings(environ={"APP_ENV": "development"}) | given


def test_production_has_defaults_of_its_own() -> None:
    settings = load_production(DATABASE_URL=GOOD_URL)

    assert (settings["AUTH"], settings["FLASK_DEBUG"]) == ("on", False)
    assert settings["RATE_LIMIT"] == "6000 per minute"
    # Without a password, or with a strong one.
    for url in ("postgresql://db/a", "sqlite:////var/a.db", "postgresql://w:Zk3v[J]q#%2F@db/a"):
        assert load_production(DATABASE_URL=url)["DATABASE_URL"]


@pytest.mark.parametrize(
    "url",
    [
        *("postgresql://webapp:@db/webapp", "postgresql://webapp:change-me@db/webapp"),
        *("postgresql://webapp:Postgres@db/webapp", "postgresql://webapp:change%2Dme@db/webapp"),
        "postgresql://db/webapp?user=webapp&password=postgres",
    ],
)
def test_production_refuses_a_placeholder_for_a_password(url: str, tmp_path: Path) -> None:
    (tmp_path / "url").write_text(url)

    for given in ({"DATABASE_URL": url}, {"DATABASE_URL_FILE": str(tmp_path / "url")}):
        with pytest.raises(ConfigError, match=r"^DATABASE_URL .*placeholder"):
            load_production(**given)


@pytest.mark.parametrize(
    ("refused", "environ"),
    [
        ("DATABASE_URL", {"DATABASE_URL": ""}),
        ("AUTH", {"DATABASE_URL": GOOD_URL, "AUTH": "off"}),
        ("FLASK_DEBUG", {"DATABASE_URL": GOOD_URL, "FLASK_DEBUG": "1"}),
    ],
)
def test_production_refuses_defaults_of_development(refused: str, environ: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=rf"^{refused} .*production"):
        load_production(**environ)


@pytest.mark.parametrize(
    ("bind", "is_local"),
    [
        *((bind, False) for bind in ("0.0.0.0:8000", "[::]:8000", "192.0.2.7:80", "web:8000")),
        *((bind, True) for bind in ("127.0.0.2:80", "[::1]:65535", "localhost:80", "unix:/a:b")),
    ],
)
def test_only_this_machine_may_be_served_without_keys(bind: str, is_local: bool) -> None:
    assert load_testing(BIND=bind, AUTH="on")["BIND"] == bind
    if is_local:
        assert load_testing(BIND=bind)["AUTH"] == "off"
    else:
        with pytest.raises(ConfigError, match=r"^AUTH .*BIND"):
            load_testing(BIND=bind)


@pytest.mark.parametrize(
    "command",
    [
        ["-m", "gunicorn", "--check-config"],
        *(["-m", "flask", "--help"], ["-m", "flask", "seed"]),
        ["-c", "import wsgi"],
    ],
)
def test_a_bad_setting_ends_the_program_with_one_line_that_names_it(command: list[str]) -> None:
    environ = {"PATH": os.environ["PATH"], "WEB_THREADS": "many"}
    command = [sys.executable, *command]
    ended = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True)

    assert ended.returncode != 0
    assert ended.stdout == ""
    assert ended.stderr.splitlines() == [
        "Configuration error: WEB_THREADS must be a whole number from 1 to 256"
    ]


def test_tls_needs_all_of_its_files(tmp_path: Path) -> None:
    path = tmp_path / "file.pem"
    path.touch()
    files = {f"TRAINING_ENGINE_{name}": str(path) for name in ("CA", "CERT", "KEY")}
    address = "tls://scheduler:8786"

    assert load_testing(TRAINING_ENGINE=address, **files)["TRAINING_ENGINE"] == address
    for name in files:
        with pytest.raises(ConfigError, match=f"^{name} must be set"):
            load_testing(TRAINING_ENGINE=address, **{**files, name: ""})


def test_a_setting_may_be_in_a_file_as_secrets_of_containers_are(tmp_path: Path) -> None:
    for name, text in {"APP_ENV": "testing\n", "WEB_THREADS": "7\n"}.items():
        (tmp_path / name).write_text(text)
    given = {f"{name}_FILE": tmp_path / name for name in ("APP_ENV", "WEB_THREADS")}

    settings = load_settings(given, environ={"WEB_THREADS": "9"})

    assert (settings["APP_ENV"], settings["WEB_THREADS"]) == ("testing", 7)


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
def test_a_bad_file_is_named_with_its_setting(settings: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_testing(**settings)
