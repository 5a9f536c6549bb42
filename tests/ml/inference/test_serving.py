"""The model server alone: leases, outages and the cache, with real threads and no database."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
import pytest

from webapp.db import leases
from webapp.errors import DatabaseUnavailable
from webapp.ml.core.scoring import score_linear
from webapp.ml.errors import ArtifactUnusable, ModelNotTrained
from webapp.ml.inference import serving
from webapp.ml.inference.serving import (
    LOAD_PAUSE,
    Absence,
    LoadedVersion,
    ModelServer,
    Traffic,
    TrafficKey,
    VersionRef,
)

PATIENCE = 10.0  # seconds after which a test that waits has failed
LEASE = 0.03


class FakeDatabase:
    """Which version of each model is active; keeps count, and fails or hangs when told to."""

    def __init__(self) -> None:
        self.active: dict[str, VersionRef] = {}
        self.questions: list[str] = []
        self.loads: list[int] = []
        self.raised: list[Exception] = []
        self.error: Exception | None = None
        self.unusable: set[int] = set()
        self.unaskable: set[str] = set()
        self.hanging: str | None = None
        self.asked = threading.Event()
        self.answers = threading.Event()
        self.answers.set()

    def activate(self, name: str, number: int, *, model_id: int = 1) -> None:
        """Make a version of a model the active one."""
        self.active[name] = VersionRef(number, number, model_id)

    def hang(self, what: str) -> None:
        """Let questions ("asking"), or loads ("loading"), wait until ``answer`` is called."""
        # In this order: once `asked` is set again, it is by one that waits.
        self.answers.clear()
        self.hanging = what
        self.asked.clear()

    def answer(self) -> None:
        """Answer what waits, and no longer let anything wait."""
        self.hanging = None
        self.answers.set()

    def find_version(self, name: str, number: int | None) -> VersionRef | Absence:
        """Answer as the database stood when it was asked."""
        self.questions.append(name)
        error = DatabaseUnavailable() if name in self.unaskable else self.error
        found = self.active.get(name) or partial(ModelNotTrained, name)
        self._wait_where("asking")
        if error is not None:
            self.raised.append(error)
            raise error
        return found

    def load_version(self, ref: VersionRef) -> LoadedVersion:
        """Load a version whose scorer multiplies by the version's number."""
        self.loads.append(ref.id)
        self._wait_where("loading")
        if ref.id in self.unusable:
            raise ArtifactUnusable("it is not a skops file")
        scorer = partial(score_linear, np.array([float(ref.number)]), 0.0)
        return LoadedVersion(ref.id, "any", ref.number, ("x1",), scorer)

    def _wait_where(self, what: str) -> None:
        self.asked.set()
        if self.hanging == what:
            assert self.answers.wait(PATIENCE)


class Clock:
    """A lease clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.readers: set[int] = set()

    def __call__(self) -> float:
        """Tell the time, and remember which thread wanted to know it."""
        self.readers.add(threading.get_ident())
        return self.now

    def end_leases(self) -> None:
        """Move on by one lease."""
        self.now += LEASE


def recovery_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "lease-recovery"]


def wait_until(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < ends, "waited in vain"
        time.sleep(0.001)


@pytest.fixture
def database() -> Iterator[FakeDatabase]:
    """Return a database with version 1 of "iris"; in the end, nothing waits for it any more."""
    database = FakeDatabase()
    database.activate("iris", 1)
    yield database
    database.error = None
    database.unaskable.clear()
    database.answer()
    for thread in recovery_threads():
        thread.join(PATIENCE)
    assert recovery_threads() == []


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Return the clock that leases are measured by, standing still."""
    clock = Clock()
    monkeypatch.setattr(serving, "lease_clock", clock)
    monkeypatch.setattr(leases, "lease_clock", clock)
    return clock


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Return threads to ask with."""
    with ThreadPoolExecutor(16) as pool:
        yield pool


def make_server(database: FakeDatabase, **settings: Any) -> ModelServer:
    find, load = database.find_version, database.load_version
    settings = {"lease": LEASE, "deadline": PATIENCE, "capacity": 8, **settings}
    return ModelServer(find_version=find, load_version=load, **settings)


@pytest.fixture
def server(database: FakeDatabase) -> ModelServer:
    """Return a server that knows nothing yet, and waits long for an answer."""
    return make_server(database)


def ask(server: ModelServer, name: str = "iris") -> tuple[int, bool]:
    """Return number and staleness of the version that serves."""
    version, stale = server.get_version(name)
    return version.number, stale


def answers_of(asking: list[Future[tuple[int, bool]]]) -> set[tuple[int, bool]]:
    return {future.result(PATIENCE) for future in asking}


def test_within_a_lease_nothing_is_asked_and_after_it_the_new_version_serves(
    database: FakeDatabase, server: ModelServer, clock: Clock
) -> None:
    answers = {ask(server) for _ in range(100)}
    database.activate("iris", 2)
    clock.now += LEASE * 0.999
    before = ask(server)
    clock.now += LEASE * 0.001

    assert (answers, before) == ({(1, False)}, (1, False))
    assert database.questions == ["iris"]
    assert database.loads == [1]
    assert ask(server) == (2, False)


def test_a_lease_counts_from_before_the_question_was_sent(
    database: FakeDatabase, server: ModelServer, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = database._wait_where

    def answer_slowly(what: str) -> None:
        clock.now += LEASE * 0.6 if what == "asking" else 0
        answer(what)

    monkeypatch.setattr(database, "_wait_where", answer_slowly)
    ask(server)
    database.activate("iris", 2)
    clock.now += LEASE * 0.5

    assert ask(server) == (2, False)


@pytest.mark.parametrize(
    ("knows", "outage", "answer"),
    # At the first question, after a lease, and in an outage.
    [(False, False, (2, False)), (True, False, (2, False)), (True, True, (1, True))],
)
def test_one_thread_asks_for_all_and_its_answer_or_failure_counts_for_all(
    database: FakeDatabase,
    server: ModelServer,
    clock: Clock,
    pool: ThreadPoolExecutor,
    knows: bool,
    outage: bool,
    answer: tuple[int, bool],
) -> None:
    if knows:
        ask(server)
        clock.end_leases()
        clock.readers.clear()
    database.activate("iris", 2)
    database.error = DatabaseUnavailable() if outage else None
    database.hang("asking")

    asking = [pool.submit(ask, server) for _ in range(12)]
    wait_until(lambda: len(clock.readers) == 12)
    questions = len(database.questions)
    database.answer()

    assert answers_of(asking) == {answer}
    assert questions == 1 + knows


@pytest.mark.parametrize("what", ["asking", "loading"])
def test_models_do_not_wait_for_each_other(
    database: FakeDatabase, server: ModelServer, pool: ThreadPoolExecutor, what: str
) -> None:
    database.activate("wine", 2)
    ask(server, "wine")
    database.hang(what)

    slow = pool.submit(ask, server)
    wait_until(lambda: (database.questions if what == "asking" else database.loads)[1:] != [])

    assert ask(server, "wine") == (2, False)
    database.answer()
    assert slow.result(PATIENCE) == (1, False)


def test_a_slow_answer_serves_only_those_who_came_before_it_was_asked_for(
    database: FakeDatabase, server: ModelServer, clock: Clock, pool: ThreadPoolExecutor
) -> None:
    database.hang("asking")
    first = pool.submit(ask, server)
    assert database.asked.wait(PATIENCE)

    clock.now += LEASE / 2
    database.activate("iris", 2)
    asking = [pool.submit(ask, server) for _ in range(6)]
    wait_until(lambda: len(clock.readers) == 7)
    clock.now += 10 * LEASE
    database.answer()

    assert first.result(PATIENCE) == (1, False)
    assert answers_of(asking) == {(2, False)}
    assert len(database.questions) == 2


def test_a_model_is_not_trained_while_it_has_no_active_version(
    database: FakeDatabase, server: ModelServer, clock: Clock
) -> None:
    for _ in range(100):
        with pytest.raises(ModelNotTrained, match="'wine'"):
            server.get_version("wine")
    assert (database.questions, database.loads) == (["wine"], [])

    database.activate("wine", 2)
    clock.end_leases()
    assert ask(server, "wine") == (2, False)

    del database.active["wine"]
    for error in (None, DatabaseUnavailable()):  # nor does an outage change what is known
        database.error = error
        clock.end_leases()
        with pytest.raises(ModelNotTrained):
            server.get_version("wine")


def test_after_the_first_failure_the_last_version_serves_as_stale_without_waiting(
    database: FakeDatabase, server: ModelServer, clock: Clock, pool: ThreadPoolExecutor
) -> None:
    ask(server)
    database.error = DatabaseUnavailable()
    clock.end_leases()

    assert ask(server) == (1, True)
    assert server.describe_state() == "stale: iris"
    # The recovery thread now hangs in a question; requests must neither wait nor ask.
    database.hang("asking")
    assert database.asked.wait(PATIENCE)
    asked = len(database.questions)
    asking = [pool.submit(ask, server) for _ in range(100)]
    assert answers_of(asking) == {(1, True)}
    assert len(database.questions) == asked


@pytest.mark.parametrize("knows", [True, False])
def test_a_database_that_hangs_holds_up_others_no_longer_than_the_deadline(
    database: FakeDatabase, clock: Clock, pool: ThreadPoolExecutor, knows: bool
) -> None:
    server = make_server(database, deadline=0.05)
    if knows:
        ask(server)
        clock.end_leases()
    database.hang("asking")
    asking = pool.submit(ask, server)
    assert database.asked.wait(PATIENCE)

    if knows:
        assert ask(server) == (1, True)
    else:
        with pytest.raises(DatabaseUnavailable):
            ask(server)

    database.answer()
    assert asking.result(PATIENCE) == (1, False)


def test_a_server_recovers_from_each_outage_by_itself_and_its_recovery_ends(
    database: FakeDatabase, server: ModelServer, clock: Clock
) -> None:
    database.activate("wine", 2)
    for name in database.active:
        ask(server, name)

    for number in (7, 8):
        database.error = DatabaseUnavailable()
        clock.end_leases()
        for name in database.active:
            assert ask(server, name)[1]
        assert server.describe_state() == "stale: iris, wine"
        assert len(recovery_threads()) == 1

        database.activate("iris", number)
        database.error = None
        wait_until(lambda: server.describe_state() == "ok")
        assert (ask(server), ask(server, "wine")) == ((number, False), (2, False))
        for thread in recovery_threads():
            thread.join(PATIENCE)
        assert recovery_threads() == []


def test_no_error_ends_the_recovery(
    database: FakeDatabase, server: ModelServer, clock: Clock
) -> None:
    ask(server)
    database.error = DatabaseUnavailable()
    clock.end_leases()
    ask(server)

    database.error = RuntimeError("no such table")
    wait_until(lambda: database.error in database.raised)
    database.error = None

    wait_until(lambda: ask(server) == (1, False))


def test_a_model_that_cannot_be_asked_for_does_not_hold_up_the_recovery_of_the_others(
    database: FakeDatabase, server: ModelServer, clock: Clock
) -> None:
    database.activate("wine", 2)
    for error in (None, DatabaseUnavailable()):
        database.error = error
        clock.end_leases()
        assert ask(server) == (1, error is not None)
        ask(server, "wine")

    database.unaskable = {"iris"}
    database.error = None

    wait_until(lambda: ask(server, "wine") == (2, False))
    assert ask(server) == (1, True)


@pytest.mark.parametrize("knows", [True, False])
def test_a_version_that_cannot_be_loaded_is_tried_again_after_a_pause(
    database: FakeDatabase, server: ModelServer, clock: Clock, knows: bool
) -> None:
    if knows:
        ask(server)
    database.unusable = {2}
    database.activate("iris", 2)
    clock.end_leases()

    for _ in range(100):
        if knows:  # then the version before keeps serving
            assert ask(server) == (1, True)
        else:
            with pytest.raises(ArtifactUnusable):
                ask(server)
    assert database.loads == ([1, 2] if knows else [2])
    assert server.describe_state() == "cannot be loaded: iris version 2"

    database.unusable = set()
    clock.now += LOAD_PAUSE
    assert ask(server) == (2, False)
    assert server.describe_state() == "ok"


@pytest.mark.parametrize(("which", "falls_back"), [(None, True), ("champion", True), (2, False)])
def test_what_may_move_falls_back_to_what_it_named_before(
    database: FakeDatabase,
    server: ModelServer,
    clock: Clock,
    which: int | str | None,
    falls_back: bool,
) -> None:
    server.get_version("iris", which)
    database.unusable = {2}
    database.activate("iris", 2)
    clock.end_leases()

    if falls_back:
        version, stale = server.get_version("iris", which)
        assert (version.number, stale) == (1, True)
    else:
        with pytest.raises(ArtifactUnusable):
            server.get_version("iris", which)


def ask_with(server: ModelServer, key: bytes) -> tuple[int, bool]:
    """Return number and staleness of the version that answers a key."""
    version, stale, _ = server.choose_version(
        "iris", key_of=lambda rows: TrafficKey(rows, 1), rows=key
    )
    return version.number, stale


@pytest.fixture
def shared(database: FakeDatabase) -> dict[bytes, int]:
    """Share the traffic of "iris" among two versions; return the version for each of some keys."""
    traffic = Traffic(((VersionRef(2, 2, 1), 50), (VersionRef(3, 3, 1), 50)))
    database.active["iris"] = VersionRef(1, 1, 1, traffic)
    keys = [b"%d" % number for number in range(10)]
    expected = {key: traffic.choose("iris", key).number for key in keys}
    assert {*expected.values()} == {2, 3}
    return expected


def test_the_last_known_shares_go_on_while_the_database_is_away(
    database: FakeDatabase, server: ModelServer, clock: Clock, shared: dict[bytes, int]
) -> None:
    assert {key: ask_with(server, key) for key in shared} == {
        key: (number, False) for key, number in shared.items()
    }
    assert ask(server) == (1, False)  # without a key it is the active version
    database.error = DatabaseUnavailable()
    clock.end_leases()

    assert {key: ask_with(server, key) for key in shared} == {
        key: (number, True) for key, number in shared.items()
    }
    assert database.questions[:1] == ["iris"]


def test_a_version_that_cannot_be_loaded_leaves_its_share_to_another(
    database: FakeDatabase, server: ModelServer, clock: Clock, shared: dict[bytes, int]
) -> None:
    database.unusable = {3}
    first, *others = sorted(shared, key=shared.__getitem__)
    assert ask_with(server, first) == (2, False)

    assert {ask_with(server, key) for key in others} == {(2, False), (2, True)}
    assert server.describe_state() == "cannot be loaded: iris version 3"
    database.unusable = set()
    clock.now += LOAD_PAUSE
    assert {ask_with(server, key) for key in others} == {(2, False), (3, False)}
    assert server.describe_state() == "ok"


@pytest.mark.parametrize("asked_between", [True, False])
def test_a_model_never_falls_back_to_versions_of_a_deleted_one_of_its_name(
    database: FakeDatabase, server: ModelServer, clock: Clock, asked_between: bool
) -> None:
    ask(server)
    if asked_between:
        del database.active["iris"]
        clock.end_leases()
        with pytest.raises(ModelNotTrained):
            ask(server)
    database.unusable = {2}
    database.activate("iris", 2, model_id=2)
    clock.end_leases()

    for _ in range(2):
        with pytest.raises(ArtifactUnusable):
            ask(server)

    del database.active["iris"]
    clock.end_leases()
    assert server.describe_state() == "ok"


def test_a_version_is_loaded_once_for_many_threads(
    database: FakeDatabase, server: ModelServer, clock: Clock, pool: ThreadPoolExecutor
) -> None:
    database.hang("loading")

    asking = [pool.submit(ask, server) for _ in range(12)]
    wait_until(lambda: len(clock.readers) == 12 and database.loads != [])
    database.answer()

    assert answers_of(asking) == {(1, False)}
    assert database.loads == [1]


def test_the_least_recently_used_version_is_dropped(database: FakeDatabase, clock: Clock) -> None:
    server = make_server(database, capacity=2)

    for number in (1, 2, 1, 3, 1, 2):
        database.activate("iris", number)
        clock.end_leases()
        assert ask(server) == (number, False)

    assert database.loads == [1, 2, 3, 2]


@pytest.mark.parametrize("trained", [False, True])
def test_the_names_that_a_process_knows_are_bounded_and_made_up_ones_go_first(
    database: FakeDatabase, server: ModelServer, trained: bool
) -> None:
    ask(server)
    names = [f"model {number}" for number in range(leases.MOST_KEYS + 10)]

    for number, name in enumerate(names, start=2):
        if trained:
            database.activate(name, number)
        with suppress(ModelNotTrained):
            server.get_version(name)
    database.questions.clear()
    for name in ("iris", names[-1], names[0]):
        with suppress(ModelNotTrained):
            server.get_version(name)

    assert database.questions == (["iris", names[0]] if trained else [names[0]])


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="Linux has this clock")
def test_the_lease_clock_counts_the_time_of_a_suspended_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.undo()

    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert before <= leases.lease_clock() <= time.clock_gettime(time.CLOCK_BOOTTIME)
