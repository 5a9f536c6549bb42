"""How an engine reaches its database: options, time limits, transactions."""

from __future__ import annotations

from typing import Any

import orjson
from sqlalchemy.engine import URL, Engine

from webapp.db import postgresql, sqlite

IDLE_LIMIT_MS = 60_000  # milliseconds that PostgreSQL lets a transaction do nothing


def engine_options(url: URL, *, pool_size: int, timeout: int) -> dict[str, Any]:
    """Return the keyword arguments of ``create_engine`` for a database.

    ``pool_size`` is the number of connections that a process may hold. ``timeout`` is the number
    of seconds that a statement may take, or on SQLite, that a writer waits for another.
    """
    options: dict[str, Any] = {
        "json_serializer": lambda value: orjson.dumps(value).decode(),
        "json_deserializer": orjson.loads,
        "hide_parameters": True,  # in messages: clients have sent them
    }
    if url.get_backend_name() == "sqlite":
        # The driver begins no transaction of its own: `webapp.db.sqlite` does.
        return options | {"connect_args": {"isolation_level": None, "timeout": float(timeout)}}
    return options | {
        "pool_size": pool_size,
        "max_overflow": 0,
        "pool_timeout": timeout,
        "connect_args": {
            "application_name": "webapp",
            # A client whose host has vanished in a transaction must not keep its locks.
            "options": f"-c statement_timeout={timeout * 1000} -c timezone=UTC "
            f"-c idle_in_transaction_session_timeout={IDLE_LIMIT_MS}",
            # They find out that an unused connection has been cut off (by a firewall, say).
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 2,
        },
    }


def configure_engine(engine: Engine, *, timeout: int) -> None:
    """Give an engine this service's transactions and time limits; ``timeout`` as above."""
    if engine.dialect.name == "sqlite":
        sqlite.configure(engine)
    else:
        postgresql.configure(engine, timeout=timeout)
