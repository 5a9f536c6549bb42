"""A request, and what its answer must be."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import requests

LONGEST_ANSWER = 300  # seconds


class WrongAnswer(Exception):
    """An answer is not what it should be: its time says nothing."""


def check_same(found: Any, expected: Any) -> None:
    """Raise WrongAnswer unless values are equal, numbers to nine digits."""
    try:
        same = np.shape(found) == np.shape(expected) and (
            np.array_equal(found, expected) or np.allclose(found, expected, rtol=1e-9, atol=1e-9)
        )
    except (TypeError, ValueError):
        same = False
    if not same:
        raise WrongAnswer(f"{str(found)[:100]} instead of {str(expected)[:100]}")


@dataclass(frozen=True)
class Exchange:
    """A request, its answer's status, and what ``find`` must find in its answer's body."""

    method: str
    path: str
    status: int
    find: Callable[[Any], Any]
    expected: Any
    body: bytes = b""
    content_type: str = "application/json"

    def check(self, status: int, text: bytes) -> None:
        """Raise WrongAnswer unless an answer is right."""
        try:
            found = self.find(json.loads(text))
        except (ValueError, KeyError, IndexError, TypeError):
            found = None
        if status != self.status or found is None:
            raise WrongAnswer(f"answered {status}: {text[:200].decode(errors='replace')}")
        check_same(found, self.expected)

    def send(self, url: str) -> float:
        """Send the request on a connection of its own, check its answer, return the seconds."""
        started = time.perf_counter()
        answer = requests.request(
            self.method,
            url + self.path,
            data=self.body,
            headers={"Content-Type": self.content_type} if self.body else {},
            timeout=LONGEST_ANSWER,
        )
        seconds = time.perf_counter() - started
        self.check(answer.status_code, answer.content)
        return seconds
