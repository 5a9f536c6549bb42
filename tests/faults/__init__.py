"""Faults injected into the service as an operator runs it, and what survives them.

Each test has an amount that scales: small in `make test`, full with FAULTS=full
(`make faults`). What it tried, what survived and what was lost is printed as a table.
"""

from __future__ import annotations

import os
from typing import TypeVar

FULL = os.environ.get("FAULTS") == "full"

T = TypeVar("T")


def scaled(bounded: T, full: T) -> T:
    """Return the amount for this run."""
    return full if FULL else bounded
