"""Faults injected into the service as an operator runs it, and what survives them.

They are slow: `make test` leaves them out. Each has an amount that scales: bounded in CI
(`make faults-bounded`), full with FAULTS=full (`make faults`). What was tried, what survived and
what was lost is printed as a table.
"""

from __future__ import annotations

import os
from typing import TypeVar

import pytest

FULL = os.environ.get("FAULTS") == "full"

T = TypeVar("T")


def scaled(bounded: T, full: T) -> T:
    """Return the amount for this run."""
    return full if FULL else bounded


# Where the database makes no difference to speak of: on one of them, with FAULTS=full on both.
on_sqlite = pytest.mark.databases("sqlite")
on_postgresql = pytest.mark.databases("postgresql")
# What only one of them has.
only_sqlite = pytest.mark.databases("sqlite", only=True)
only_postgresql = pytest.mark.databases("postgresql", only=True)
