"""Faults injected into the service as an operator runs it, and what survives them.

Each test has an amount that scales: small in `make test`, full with FAULTS=full
(`make faults`). What it tried, what survived and what was lost is printed as a table.
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


# A short run tries such a fault on one database, `make faults` on both.
on_sqlite = pytest.mark.parametrize(
    "backend", scaled(["sqlite"], ["sqlite", "postgresql"]), indirect=True
)
on_postgresql = pytest.mark.parametrize(
    "backend", scaled(["postgresql"], ["sqlite", "postgresql"]), indirect=True
)
