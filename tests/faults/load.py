"""Clients of a service, what they were told, and clients that keep it busy."""

from __future__ import annotations

import http.client
import itertools
import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from flask import Flask

ITEMS, ML = "/api/v1/items", "/api/v1/ml"
CONSTANT = 7.0
"""What the model `default` predicts for any row, once ``train_default`` has been called."""


class NotConnected(ConnectionError):
    """Nobody accepted the connection: the request was never sent."""


FAILURES = (OSError, http.client.HTTPException)
"""What ``Client.call`` raises where there is no answer, NotConnected included."""


@dataclass(frozen=True, eq=False)
class Answer:
    """An answer: its status, headers and body, and the seconds that it took."""

    status: int
    headers: Mapping[str, str]
    body: Any
    seconds: float = 0.0


class Client:
    """An HTTP client with one connection: kept alive, or a fresh one for each request."""

    def __init__(self, url: str, *, kept: bool = True) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
        self._kept = kept

    def call(self, method: str, path: str, body: object = None, **more_headers: str) -> Answer:
        """Send a request and return its answer, whatever its status. Raises FAILURES."""
        started = time.monotonic()
        if self._connection.sock is None:
            try:
                self._connection.connect()
            except OSError as error:
                raise NotConnected from error
        data = None if body is None else json.dumps(body)
        headers = {"Connection": "keep-alive" if self._kept else "close", **more_headers}
        if data:
            headers["Content-Type"] = "application/json"
        try:
            self._connection.request(method, path, data, headers)
            response = self._connection.getresponse()
            text = response.read()
        except BaseException:
            self.close()
            raise
        seconds = time.monotonic() - started
        return Answer(response.status, response.headers, json.loads(text or b"null"), seconds)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        self._connection.close()


class InProcess:
    """A client of an application without a server."""

    def __init__(self, app: Flask) -> None:
        self._client = app.test_client()

    def call(self, method: str, path: str, body: object = None) -> Answer:
        """Send a request and return its answer, whatever its status."""
        answer = self._client.open(path, method=method, json=body)
        return Answer(answer.status_code, answer.headers, answer.get_json(silent=True))

    def close(self) -> None:
        """Have nothing to close."""


Caller: TypeAlias = Client | InProcess
Connect: TypeAlias = Callable[[], Caller]
"""Returns a client of a service, for one thread."""


def train_constant(client: Caller, model: str, value: float) -> Answer:
    """Train a model that predicts a constant."""
    rows = {"X": [[float(row)] for row in range(20)], "y": [value] * 20}
    return client.call("POST", f"{ML}/models/{model}/train", rows)


def train_default(service: str | Caller) -> None:
    """Train the model `default` on its constant, by a client or at a URL."""
    client = Client(service) if isinstance(service, str) else service
    assert train_constant(client, "default", CONSTANT).status == 201
    client.close()


def create_item(client: Caller, name: str, description: str = "") -> Answer:
    return client.call("POST", ITEMS, {"name": name, "description": description})


def predict(client: Caller, path: str = ML) -> Answer:
    """Predict with the model `default`, or by the model or version at a path."""
    return client.call("POST", f"{path}/predict", {"features": [0.5]})


def predicts(answer: Answer, value: float = CONSTANT) -> bool:
    """Return whether an answer predicts a constant."""
    return answer.status == 200 and abs(answer.body["prediction"] - value) < 1e-9


@dataclass
class Ledger:
    """What clients were told: work acknowledged, requests refused, and requests without an answer.

    ``faults`` holds the reads that were not answered rightly, and the refusals that are unclear.
    """

    items: dict[int, str] = field(default_factory=dict)  # name by id
    versions: dict[tuple[str, int], float] = field(default_factory=dict)  # its constant
    predictions: int = 0
    refused: list[Answer] = field(default_factory=list)
    unanswered: list[tuple[float, str]] = field(default_factory=list)  # monotonic time, error
    faults: list[str] = field(default_factory=list)

    def acknowledged(self) -> int:
        """Count the operations that were acknowledged."""
        return len(self.items) + len(self.versions) + self.predictions

    def create_item(self, client: Caller, name: str, description: str = "") -> bool:
        """Create an item; return whether it was acknowledged."""
        if answer := self._send(lambda: create_item(client, name, description), 201):
            self.items[answer.body["id"]] = name
        return answer is not None

    def train(self, client: Caller, model: str, value: float) -> bool:
        """Train a model that predicts a constant; return whether it was acknowledged."""
        if answer := self._send(lambda: train_constant(client, model, value), 201):
            self.versions[model, answer.body["model"]["version"]] = value
        return answer is not None

    def predict(self, client: Caller) -> None:
        """Predict with the model `default`."""
        if answer := self._send(lambda: predict(client), 200):
            self.predictions += 1
            if not predicts(answer):
                self.faults.append(f"wrong prediction: {answer.body}")

    def read(self, client: Caller) -> None:
        """Read and predict: that must go on whatever cannot be written."""
        answers = [
            self._send(lambda: client.call("GET", f"{ITEMS}?page_size=1")),
            self._send(lambda: client.call("GET", "/health/ready")),
            # It may say that it is stale: other tests hold the lease to its time.
            prediction := self._send(lambda: predict(client)),
        ]
        for answer in filter(None, answers):
            if not (predicts(answer) if answer is prediction else answer.status == 200):
                self.faults.append(f"{answer.status} {answer.body}")

    def write(self, client: Caller, number: int) -> bool:
        """Create an item that takes some room, or train; return whether it was acknowledged."""
        if number % 4 == 0:
            return self.train(client, "grown", float(number))
        text = random.Random(number).randbytes(4_500).hex()  # noqa: S311 (hard to compress)
        return self.create_item(client, f"item {number}", text)

    def write_many(self, connect: Connect, numbers: Sequence[int]) -> None:
        """Write each number, several at once, and read after every fifth."""

        def work(own: Sequence[int]) -> None:
            client = connect()
            for number in own:
                self.write(client, number)
                if number % 5 == 0:
                    self.read(client)
            client.close()

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, [numbers[first::4] for first in range(4)]))

    def _send(self, send: Callable[[], Answer], status: int | None = None) -> Answer | None:
        """Return the answer, if there is one of that status."""
        try:
            answer = send()
        except FAILURES as failure:
            self.unanswered.append((time.monotonic(), repr(failure)))
            return None
        if status in (None, answer.status):
            return answer
        self.refused.append(answer)
        return None


@contextmanager
def repeated(
    act: Callable[[Client, str, int], bool], url: str, *, clients: int, pause: float, kept: bool
) -> Iterator[None]:
    """Have clients do something again and again until the block ends, or they return False.

    ``act`` is given a client, its name and how many times it has been called.
    """
    stopped = threading.Event()

    def work(name: str) -> None:
        with Client(url, kept=kept) as client:
            for count in itertools.count(1):
                if stopped.wait(pause) or not act(client, name, count):
                    return

    with ThreadPoolExecutor(clients) as pool:
        working = [pool.submit(work, f"load-{number}") for number in range(clients)]
        try:
            yield
        finally:
            stopped.set()
    for done in working:
        done.result()


@contextmanager
def load(url: str, *, clients: int, pause: float = 0.0) -> Iterator[Ledger]:
    """Have clients over kept-alive connections create items, predict and train.

    Each sends its next request as soon as the last one is answered, and ``pause`` seconds.
    """
    ledger = Ledger()

    def act(client: Client, name: str, count: int) -> bool:
        if count % 4 == 1:
            ledger.create_item(client, f"{name}/{count}")
        elif count % 4 == 0:
            ledger.train(client, name, float(count))
        else:
            ledger.predict(client)
        return True

    with repeated(act, url, clients=clients, pause=pause, kept=True):
        yield ledger


@dataclass(frozen=True, eq=False)
class Probe:
    """A request: when it was sent and answered (monotonic), and its answer or what came of it."""

    started: float
    ended: float
    answer: Answer | None
    error: Exception | None = None


@contextmanager
def stream(
    url: str,
    send: Callable[[Client], Answer],
    *,
    clients: int = 1,
    every: float = 0.0,
    kept: bool = False,
) -> Iterator[list[Probe]]:
    """Have clients repeat a request, unless nobody accepts them."""
    probes: list[Probe] = []

    def act(client: Client, _name: str, _count: int) -> bool:
        started, answer, error = time.monotonic(), None, None
        try:
            answer = send(client)
        except FAILURES as failure:
            error = failure
        probes.append(Probe(started, time.monotonic(), answer, error))
        return not isinstance(error, NotConnected)

    with repeated(act, url, clients=clients, pause=every, kept=kept):
        yield probes
