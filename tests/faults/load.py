"""Clients that keep a service busy, and a ledger of what it has acknowledged to them."""

from __future__ import annotations

import http.client
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

CONSTANT = 7.0
"""What the model `default` predicts for any row, once ``train_default`` has been called."""


class NotConnected(Exception):
    """Nobody accepted the connection: the request was never sent."""


@dataclass(frozen=True, eq=False)
class Answer:
    """An answer: its status, headers and body, and the seconds that it took."""

    status: int
    headers: Mapping[str, str]
    body: Any
    seconds: float


class Client:
    """An HTTP client with one connection: kept alive, or a fresh one for each request."""

    def __init__(self, url: str, *, kept: bool = True, timeout: float = 60) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=timeout)
        self._kept = kept

    def call(self, method: str, path: str, body: object = None) -> Answer:
        """Send a request and return its answer, whatever its status.

        Raises NotConnected before it was sent, OSError or HTTPException afterwards.
        """
        started = time.monotonic()
        if self._connection.sock is None:
            try:
                self._connection.connect()
            except OSError as error:
                raise NotConnected from error
        headers = {} if self._kept else {"Connection": "close"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        data = None if body is None else json.dumps(body)
        try:
            self._connection.request(method, path, data, headers)
            response = self._connection.getresponse()
            text = response.read()
        except BaseException:
            self.close()
            raise
        if response.will_close:
            self.close()
        seconds = time.monotonic() - started
        return Answer(response.status, response.headers, json.loads(text or b"null"), seconds)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        self._connection.close()


@dataclass
class Ledger:
    """What clients were told: work acknowledged, requests refused, and requests without an answer.

    Times are of ``time.monotonic``.
    """

    items: dict[int, str] = field(default_factory=dict)  # name by id
    versions: dict[tuple[str, int], float] = field(default_factory=dict)  # its constant
    predictions: int = 0
    wrong: list[Answer] = field(default_factory=list)
    refused: list[tuple[float, int]] = field(default_factory=list)  # when, status
    unanswered: list[tuple[float, str]] = field(default_factory=list)  # when, error

    def acknowledged(self) -> int:
        """Return how many operations were acknowledged."""
        return len(self.items) + len(self.versions) + self.predictions


def train_constant(client: Client, model: str, value: float) -> Answer:
    """Train a model that predicts a constant."""
    rows = {"X": [[0.0], [1.0]], "y": [value, value]}
    return client.call("POST", f"/api/v1/ml/models/{model}/train", rows)


def train_default(url: str) -> None:
    """Train the model `default` on its constant."""
    with Client(url) as client:
        assert train_constant(client, "default", CONSTANT).status == 201


def create_item(client: Client, name: str) -> Answer:
    """Create an item."""
    return client.call("POST", "/api/v1/items", {"name": name})


def predict(client: Client) -> Answer:
    """Predict with the model `default`."""
    return client.call("POST", "/api/v1/ml/predict", {"features": [0.5]})


class Load:
    """Clients over kept-alive connections that create items, predict and train, while it lasts.

    Each sends its next request as soon as the last one is answered, and ``pause`` seconds.
    """

    def __init__(self, url: str, *, clients: int, pause: float = 0.0) -> None:
        self.ledger = Ledger()
        self.clients = clients
        self._url = url
        self._pause = pause
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, args=(f"load-{number}",))
            for number in range(clients)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _work(self, name: str) -> None:
        client = Client(self._url)
        for count, do in zip(itertools.count(1), self._tasks(), strict=False):
            if self._stop.wait(self._pause) if self._pause else self._stop.is_set():
                break
            try:
                do(client, name, count)
            except (NotConnected, OSError, http.client.HTTPException) as failure:
                self.ledger.unanswered.append((time.monotonic(), repr(failure)))
        client.close()

    def _tasks(self) -> Iterator[Callable[[Client, str, int], None]]:
        return itertools.cycle((self._create, self._predict, self._predict, self._train))

    def _create(self, client: Client, name: str, count: int) -> None:
        answer = create_item(client, f"{name}/{count}")
        if self._is_accepted(answer, 201):
            self.ledger.items[answer.body["id"]] = f"{name}/{count}"

    def _train(self, client: Client, name: str, count: int) -> None:
        answer = train_constant(client, name, float(count))
        if self._is_accepted(answer, 201):
            version = answer.body["model"]["version"]
            self.ledger.versions[name, version] = float(count)

    def _predict(self, client: Client, name: str, count: int) -> None:
        answer = predict(client)
        if self._is_accepted(answer, 200):
            self.ledger.predictions += 1
            if abs(answer.body["prediction"] - CONSTANT) > 1e-9:
                self.ledger.wrong.append(answer)

    def _is_accepted(self, answer: Answer, status: int) -> bool:
        if answer.status != status:
            self.ledger.refused.append((time.monotonic(), answer.status))
        return answer.status == status


@dataclass(frozen=True, eq=False)
class Probe:
    """A request of a poller: when it was sent and answered, and by what; None is no answer."""

    started: float
    ended: float
    answer: Answer | None

    @property
    def seconds(self) -> float:
        """Return how long it took."""
        return self.ended - self.started

    def is_answered(self, status: int) -> bool:
        """Say whether there was an answer with that status."""
        return self.answer is not None and self.answer.status == status


class Poller:
    """A client of its own that sends a request several times a second, while it lasts."""

    def __init__(self, url: str, send: Callable[[Client], Answer], *, every: float = 0.2) -> None:
        self.probes: list[Probe] = []
        self._client = Client(url, kept=False)
        self._send = send
        self._every = every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll)

    def __enter__(self) -> Poller:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stop.set()
        self._thread.join()

    def _poll(self) -> None:
        while not self._stop.wait(self._every):
            started, answer = time.monotonic(), None
            with suppress(NotConnected, OSError, http.client.HTTPException):
                answer = self._send(self._client)
            self.probes.append(Probe(started, time.monotonic(), answer))


def find_lost(url: str, ledger: Ledger) -> list[str]:
    """Read again all that was acknowledged; return what is not there, or not what it was."""
    client = Client(url)
    lost = []
    for item, name in ledger.items.items():
        answer = client.call("GET", f"/api/v1/items/{item}")
        if answer.status != 200 or answer.body["name"] != name:
            lost.append(f"item {item}: {answer.body}")
    for (model, number), constant in ledger.versions.items():
        # A prediction with that very version reads its artifact.
        path = f"/api/v1/ml/models/{model}/versions/{number}/predict"
        answer = client.call("POST", path, {"features": [0.5]})
        if answer.status != 200 or abs(answer.body["prediction"] - constant) > 1e-9:
            lost.append(f"version {number} of {model}: {answer.body}")
    client.close()
    return lost + [f"wrong prediction: {answer.body}" for answer in ledger.wrong]
