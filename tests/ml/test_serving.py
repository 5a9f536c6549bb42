"""The model server alone: leases, outages and the cache, with real threads and no database."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest

from webapp.db import leases
from webapp.errors import DatabaseUnavailable
from webapp.ml.core.scoring import LinearScorer
from webapp.ml.errors import ArtifactUnusable, ModelNotTrained
from webapp.ml.inference import serving
from webapp.ml.inference.serving import (
    LOAD_PAUSE,
    Absence,
    LoadedVersion,
    ModelServer,
    ServedVersion,
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
        self.hangs_asking = threading.Event()
        self.hangs_loading = threading.Event()
        self.asked = threading.Event()
        self.answers = threading.Event()
        self.answers.set()

    def activate(self, name: str, number: int) -> None:
        """Make a version of a model the active one."""
        self.active[name] = VersionRef(number, number)

    def hang(self, event: threading.Event) -> None:
        """Let questions (or loads) wait, from now on, until ``answer`` is called."""
        # In this order: once `asked` is set again, it is by one that waits.
        self.answers.clear()
        event.set()
        self.asked.clear()

    def answer(self) -> None:
        """Answer whoever waits, and no longer let anybody wait."""
        self.hangs_asking.clear()
        self.hangs_loading.clear()
        self.answers.set()

    def find_version(self, name: str, number: int | None) -> VersionRef | Absence:
        """Answer as the database stood when it was asked."""
        self.questions.append(name)
        error = DatabaseUnavailable() if name in self.unaskable else self.error
        found = self.active.get(name) or Absence(ModelNotTrained, (name,))
        self._wait_where(self.hangs_asking)
        if error is not None:
            self.raised.append(error)
            raise error
        return found

    def load_version(self, ref: VersionRef) -> LoadedVersion:
        """Load a version whose scorer multiplies by the version's number."""
        self.loads.append(ref.id)
        self._wait_where(self.hangs_loading)
        if ref.id in self.unusable:
            raise ArtifactUnusable("it is not a skops file")
        scorer = LinearScorer(np.array([float(ref.number)]), 0.0)
        return LoadedVersion(ref.id, "any", ref.number, ("x1",), scorer)

    def _wait_where(self, hangs: threading.Event) -> None:
        self.asked.set()
        if hangs.is_set():
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


@pytest.fixture
def database() -> Iterator[FakeDatabase]:
    """Return a database without models; in the end, nothing waits for it any more."""
    database = FakeDatabase()
    yield database
    database.error = None
    database.unaskable.clear()
    database.answer()
    for thread in recovery_threads():
        thread.join(PATIENCE)
    assert recovery_threads() == []


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Return the clock that leases are measured by, standing still."""
    clock = Clock()
    monkeypatch.setattr(serving, "lease_clock", clock)
    monkeypatch.setattr(leases, "lease_clock", clock)
    return clock


def make_server(
    database: FakeDatabase, *, lease: float = LEASE, deadline: float = PATIENCE, capacity: int = 8
) -> ModelServer:
    return ModelServer(
        find_version=database.find_version,
        load_version=database.load_version,
        lease=lease,
        deadline=deadline,
        capacity=capacity,
    )


def describe(active: ServedVersion) -> tuple[int, bool]:
    return active.version.number, active.stale


def wait_until(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < ends, "waited in vain"
        time.sleep(0.001)


def ask_at_once(
    pool: ThreadPoolExecutor, server: ModelServer, n_threads: int, name: str = "iris"
) -> list[Future[ServedVersion]]:
    """Let some threads ask for the active version, all let go at the same moment."""
    barrier = threading.Barrier(n_threads)

    def ask() -> ServedVersion:
        barrier.wait(PATIENCE)
        return server.get_version(name)

    return [pool.submit(ask) for _ in range(n_threads)]


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Return threads to ask with."""
    with ThreadPoolExecutor(16) as pool:
        yield pool


def test_between_leases_nothing_is_asked(database: FakeDatabase, clock: Clock) -> None:
    database.activate("iris", 1)
    server = make_server(database)

    answers = {describe(server.get_version("iris")) for _ in range(100)}

    assert answers == {(1, False)}
    assert database.questions == ["iris"]
    assert database.loads == [1]


def test_a_lease_ends_after_its_time_and_not_before(database: FakeDatabase, clock: Clock) -> None:
    database.activate("iris", 1)
    server = make_server(database)
    server.get_version("iris")
    database.activate("iris", 2)

    clock.now += LEASE * 0.999
    before = server.get_version("iris")
    clock.now += LEASE * 0.001
    after = server.get_version("iris")

    assert (describe(before), describe(after)) == ((1, False), (2, False))
    assert len(database.questions) == 2


def test_a_lease_counts_from_before_the_question_was_sent(
    database: FakeDatabase, clock: Clock
) -> None:
    database.activate("iris", 1)

    def find_slowly(name: str, number: int | None) -> VersionRef | Absence:
        found = database.find_version(name, number)
        clock.now += LEASE * 0.6
        return found

    server = ModelServer(
        find_version=find_slowly,
        load_version=database.load_version,
        lease=LEASE,
        deadline=PATIENCE,
        capacity=8,
    )
    server.get_version("iris")
    database.activate("iris", 2)
    clock.now += LEASE * 0.5

    assert describe(server.get_version("iris")) == (2, False)


def test_when_a_lease_ends_one_thread_asks_for_all(
    database: FakeDatabase, clock: Clock, pool: ThreadPoolExecutor
) -> None:
    database.activate("iris", 1)
    server = make_server(database)
    server.get_version("iris")
    database.activate("iris", 2)
    clock.end_leases()
    clock.readers.clear()
    database.hang(database.hangs_asking)

    asking = ask_at_once(pool, server, 12)
    wait_until(lambda: len(clock.readers) == 12)
    database.answer()

    assert {describe(future.result(PATIENCE)) for future in asking} == {(2, False)}
    assert len(database.questions) == 2


def test_the_first_question_too_is_asked_by_one_thread(
    database: FakeDatabase, clock: Clock, pool: ThreadPoolExecutor
) -> None:
    database.activate("iris", 1)
    server = make_server(database)
    database.hang(database.hangs_asking)

    asking = ask_at_once(pool, server, 12)
    wait_until(lambda: len(clock.readers) == 12)
    database.answer()

    assert {describe(future.result(PATIENCE)) for future in asking} == {(1, False)}
    assert database.questions == ["iris"]


def test_models_do_not_wait_for_each_other(
    database: FakeDatabase, clock: Clock, pool: ThreadPoolExecutor
) -> None:
    database.activate("iris", 1)
    database.activate("wine", 2)
    server = make_server(database)
    server.get_version("wine")
    database.hang(database.hangs_asking)

    slow = pool.submit(server.get_version, "iris")
    assert database.asked.wait(PATIENCE)

    assert describe(server.get_version("wine")) == (2, False)
    database.answer()
    assert describe(slow.result(PATIENCE)) == (1, False)


def test_whoever_comes_after_the_leases_were_waited_out_gets_the_new_version(
    database: FakeDatabase, pool: ThreadPoolExecutor
) -> None:
    database.activate("iris", 1)
    servers = [make_server(database, lease=0.02) for _ in range(3)]
    done = threading.Event()

    def read_on(server: ModelServer) -> None:
        while not done.is_set():
            server.get_version("iris")

    readers = [pool.submit(read_on, server) for server in servers]
    answers = []
    for number in range(2, 12):
        database.activate("iris", number)
        servers[0].wait_out_leases()
        answers.append([describe(server.get_version("iris")) for server in servers])
    done.set()

    assert answers == [[(number, False)] * 3 for number in range(2, 12)]
    for reader in readers:
        reader.result(PATIENCE)


def test_a_slow_answer_still_serves_those_who_came_before_it_was_asked_for(
    database: FakeDatabase, clock: Clock, pool: ThreadPoolExecutor
) -> None:
    database.activate("iris", 1)
    server = make_server(database)
    database.hang(database.hangs_asking)

    asking = ask_at_once(pool, server, 6)
    wait_until(lambda: len(clock.readers) == 6)
    clock.now += 10 * LEASE
    database.answer()

    assert {describe(future.result(PATIENCE)) for future in asking} == {(1, False)}
    assert database.questions == ["iris"]


def test_a_slow_answer_is_no_answer_for_those_who_came_after_it_was_asked_for(
    database: FakeDatabase, clock: Clock, pool: ThreadPoolExecutor
) -> None:
    database.activate("iris", 1)
    server = make_server(database)
    database.hang(database.hangs_asking)

    early = pool.submit(server.get_version, "iris")
    assert database.asked.wait(PATIENCE)
    clock.now += LEASE / 2
    database.activate("iris", 2)
    late = ask_at_once(pool, server, 6)
    wait_until(lambda: len(clock.readers) == 7)
    clock.now += 10 * LEASE
    database.answer()

    assert describe(early.result(PATIENCE)) == (1, False)
    assert {describe(future.result(PATIENCE)) for future in late} == {(2, False)}
    assert len(database.questions) == 2


def test_a_model_without_an_active_version_is_not_trained(
    database: FakeDatabase, clock: Clock
) -> None:
    server = make_server(database)

    for _ in range(100):
        with pytest.raises(ModelNotTrained, match="'iris'"):
            server.get_version("iris")

    assert database.questions == ["iris"]
    assert database.loads == []


def test_a_model_that_gets_trained_serves_once_its_lease_has_ended(
    database: FakeDatabase, clock: Clock
) -> None:
    server = make_server(database)
    with pytest.raises(ModelNotTrained):
        server.get_version("iris")

    database.activate("iris", 1)
    clock.end_leases()

    assert describe(server.get_version("iris")) == (1, False)


def test_a_model_whose_active_version_goes_away_is_not_trained(
    database: FakeDatabase, clock: Clock
) -> None:
    database.activate("iris", 1)
    server = make_server(database)
    server.get_version("iris")

    del database.active["iris"]
    clock.end_leases()

    with pytest.raises(ModelNotTrained):
        server.get_version("iris")


def test_a_database_that_fails_leaves_the_last_version_serving_as_stale(
    database: FakeDatabase, clock: Clock
) -> None:
    database.activate("iris", 1)
    server = make_server(database)
    server.get_version("iris")

    database.error = DatabaseUnavailable()
    clock.end_leases()

    assert describe(server.get_version("iris")) == (1, True)
    assert server.describe_state() == "stale: iris"


def test_after_the_first_failure_no_request_waits_for_the_database(
    database: FakeDatabase, clock: Clock, pool: ThreadPoolExecutor
) -> None:
    database.activate("iris", 1)
    server = make_server(database, deadline=10 * PATIENCE)
    server.get_version("iris")
    database.error = DatabaseUnavailable()
    clock.end_leases()
    server.get_version("iris")

    # The recovery thread now hangs in a question; requests must neither wait nor ask.
    database.hang(database.hangs_asking)
    assert database.asked.wait(PATIENCE)
    asked = len(database.questions)
    asking = [pool.submit(server.get_version, "iris") for _ in range(100)]

    assert {describe(future.result(PATIENCE)) for future in asking} == {(1, True)}
    assert len(database.questions) == asked


def test_a_database_that_hangs_holds_the_others_up_no_longer_than_the_deadline(
    database: FakeDatabase, clock: Clock, pool: ThreadPoolExecutor
) -> None:
    database.activate("iris", 1)
    server = make_server(database, deadline=0.05)
    server.get_version("iris")
    clock.end_leases()
    database.hang(database.hangs_asking)
    asking = pool.submit(server.get_version, "iris")
    assert database.asked.wait(PATIENCE)

    answer = server.get_version("iris")  # while the database does not answer

    assert describe(answer) == (1, True)
    database.answer()
    assert describe(asking.result(PATIENCE)) == (1, False)


def test_threads_that_wait_for_a_question_that_fails_are_told_at_once(
    database: FakeDatabase, clock: Clock, pool: ThreadPoolExecutor
) -> None:
    database.activate("iris", 1)
    server = make_server(database, deadline=10 * PATIENCE)
    server.get_version("iris")
    clock.end_leases()
    clock.readers.clear()
    database.error = DatabaseUnavailable()
    database.hang(database.hangs_asking)

    asking = ask_at_once(pool, server, 6)
    wait_until(lambda: len(clock.readers) == 6)
    database.answer()

    assert {describe(future.result(PATIENCE)) for future in asking} == {(1, True)}


def test_a_server_recovers_by_itself_and_its_recovery_ends(
    database: FakeDatabase, clock: Clock
) -> None:
    for number, name in enumerate(("iris", "wine", "corn"), start=1):
        database.activate(name, number)
    server = make_server(database)
    for name in database.active:
        server.get_version(name)
    database.error = DatabaseUnavailable()
    clock.end_leases()
    for name in database.active:
        assert server.get_version(name).stale
    assert server.describe_state() == "stale: corn, iris, wine"
    assert len(recovery_threads()) == 1

    database.activate("iris", 7)
    database.error = None
    wait_until(lambda: server.describe_state() == "ok")

    assert describe(server.get_version("iris")) == (7, False)
    assert describe(server.get_version("wine")) == (2, False)
    for thread in recovery_threads():
        thread.join(PATIENCE)
    assert recovery_threads() == []


def test_a_server_recovers_from_a_second_outage_too(database: FakeDatabase, clock: Clock) -> None:
    database.activate("iris", 1)
    server = make_server(database)
    server.get_version("iris")

    for _ in range(2):
        database.error = DatabaseUnavailable()
        clock.end_leases()
        assert server.get_version("iris").stale
        database.error = None
        wait_until(lambda: not server.get_version("iris").stale)
        for thread in recovery_threads():
            thread.join(PATIENCE)


def test_a_model_that_was_never_known_is_unavailable_while_the_database_is(
    database: FakeDatabase, clock: Clock
) -> None:
    database.activate("iris", 1)
    database.error = DatabaseUnavailable()
    server = make_server(database)

    for _ in range(3):
        with pytest.raises(DatabaseUnavailable):
            server.get_version("iris")
    database.error = None
    wait_until(lambda: server.describe_state() == "ok")

    assert describe(server.get_version("iris")) == (1, False)


def test_a_model_that_was_never_known_is_unavailable_after_the_deadline(
    database: FakeDatabase, clock: Clock, pool: ThreadPoolExecutor
) -> None:
    database.activate("iris", 1)
    server = make_server(database, deadline=0.05)
    database.hang(database.hangs_asking)
    asking = pool.submit(server.get_version, "iris")
    assert database.asked.wait(PATIENCE)

    with pytest.raises(DatabaseUnavailable):
        server.get_version("iris")

    database.answer()
    assert describe(asking.result(PATIENCE)) == (1, False)


def test_a_model_that_was_not_trained_stays_so_during_an_outage(
    database: FakeDatabase, clock: Clock
) -> None:
    server = make_server(database)
    with pytest.raises(ModelNotTrained):
        server.get_version("iris")

    database.error = DatabaseUnavailable()
    clock.end_leases()

    with pytest.raises(ModelNotTrained):
        server.get_version("iris")


def test_an_error_that_nobody_foresaw_does_not_end_the_asking_for_ever(
    database: FakeDatabase, clock: Clock
) -> None:
    database.activate("iris", 1)
    database.error = RuntimeError("relation does not exist")
    server = make_server(database)
    with pytest.raises(RuntimeError):
        server.get_version("iris")

    database.error = None

    def serves() -> bool:
        with suppress(DatabaseUnavailable):
            return describe(server.get_version("iris")) == (1, False)
        return False

    wait_until(serves)


def test_an_error_that_nobody_foresaw_does_not_end_the_recovery(
    database: FakeDatabase, clock: Clock
) -> None:
    database.activate("iris", 1)
    server = make_server(database)
    server.get_version("iris")
    database.error = DatabaseUnavailable()
    clock.end_leases()
    server.get_version("iris")
    unforeseen = RuntimeError("relation does not exist")
    database.error = unforeseen
    wait_until(lambda: unforeseen in database.raised)

    database.error = None

    wait_until(lambda: describe(server.get_version("iris")) == (1, False))


def test_a_model_that_cannot_be_asked_for_does_not_hold_up_the_recovery_of_the_others(
    database: FakeDatabase, clock: Clock
) -> None:
    database.activate("iris", 1)
    database.activate("wine", 2)
    server = make_server(database)
    for name in ("iris", "wine"):
        server.get_version(name)
    database.error = DatabaseUnavailable()
    clock.end_leases()
    for name in ("iris", "wine"):
        assert server.get_version(name).stale

    database.unaskable = {"iris"}
    database.error = None

    wait_until(lambda: describe(server.get_version("wine")) == (2, False))
    assert describe(server.get_version("iris")) == (1, True)


def test_a_version_that_cannot_be_loaded_leaves_the_one_before_serving(
    database: FakeDatabase, clock: Clock
) -> None:
    database.activate("iris", 1)
    server = make_server(database)
    server.get_version("iris")

    database.unusable = {2}
    database.activate("iris", 2)
    clock.end_leases()
    kept = [describe(server.get_version("iris")) for _ in range(100)]
    state = server.describe_state()
    database.unusable = set()
    clock.now += LOAD_PAUSE

    assert kept == [(1, True)] * 100
    assert database.loads == [1, 2]
    assert state == "cannot be loaded: iris version 2"
    assert describe(server.get_version("iris")) == (2, False)
    assert server.describe_state() == "ok"


def test_a_first_version_that_cannot_be_loaded_says_so(
    database: FakeDatabase, clock: Clock
) -> None:
    database.unusable = {1}
    database.activate("iris", 1)
    server = make_server(database)

    for _ in range(100):
        with pytest.raises(ArtifactUnusable):
            server.get_version("iris")
    database.unusable = set()
    clock.now += LOAD_PAUSE

    assert database.loads == [1]
    assert describe(server.get_version("iris")) == (1, False)


def test_a_version_is_loaded_once_for_many_threads(
    database: FakeDatabase, clock: Clock, pool: ThreadPoolExecutor
) -> None:
    database.activate("iris", 1)
    server = make_server(database)
    database.hang(database.hangs_loading)

    asking = ask_at_once(pool, server, 12)
    wait_until(lambda: len(clock.readers) == 12 and database.loads == [1])
    database.answer()

    versions = {id(future.result(PATIENCE).version) for future in asking}
    assert len(versions) == 1
    assert database.loads == [1]


def test_threads_that_wait_for_a_load_that_fails_are_told_so(
    database: FakeDatabase, clock: Clock, pool: ThreadPoolExecutor
) -> None:
    database.activate("iris", 1)
    database.unusable = {1}
    server = make_server(database)
    database.hang(database.hangs_loading)

    asking = ask_at_once(pool, server, 6)
    wait_until(lambda: len(clock.readers) == 6 and database.loads != [])
    database.answer()

    for future in asking:
        with pytest.raises(ArtifactUnusable):
            future.result(PATIENCE)


def test_loading_one_version_does_not_hold_up_another(
    database: FakeDatabase, clock: Clock, pool: ThreadPoolExecutor
) -> None:
    database.activate("iris", 1)
    database.activate("wine", 2)
    server = make_server(database)
    server.get_version("wine")
    database.hang(database.hangs_loading)

    slow = pool.submit(server.get_version, "iris")
    wait_until(lambda: 1 in database.loads)

    assert describe(server.get_version("wine")) == (2, False)
    database.answer()
    assert describe(slow.result(PATIENCE)) == (1, False)


def test_the_version_that_was_least_used_is_dropped_first(
    database: FakeDatabase, clock: Clock
) -> None:
    server = make_server(database, capacity=2)

    for number in (1, 2, 1, 3, 1, 2):
        database.activate("iris", number)
        clock.end_leases()
        assert describe(server.get_version("iris")) == (number, False)

    assert database.loads == [1, 2, 3, 2]


def test_no_more_versions_stay_loaded_than_the_capacity(
    database: FakeDatabase, clock: Clock
) -> None:
    server = make_server(database, capacity=2)
    loaded = []

    for number in range(1, 11):
        database.activate(f"model {number}", number)
        loaded.append(weakref.ref(server.get_version(f"model {number}").version))
    gc.collect()

    assert len([version for version in loaded if version() is not None]) <= 2


def test_names_that_nobody_trained_are_forgotten_but_served_models_are_not(
    database: FakeDatabase, clock: Clock
) -> None:
    database.activate("iris", 1)
    server = make_server(database)
    server.get_version("iris")

    made_up = [f"made-up {number}" for number in range(leases.MOST_KEYS + 10)]
    for name in made_up:
        with pytest.raises(ModelNotTrained):
            server.get_version(name)
    database.questions.clear()
    server.get_version("iris")
    for name in (made_up[0], made_up[-1]):
        with pytest.raises(ModelNotTrained):
            server.get_version(name)

    assert database.questions == [made_up[0]]


def test_served_models_are_bounded_too(database: FakeDatabase, clock: Clock) -> None:
    names = [f"model {number}" for number in range(leases.MOST_KEYS + 10)]
    server = make_server(database)
    for number, name in enumerate(names, start=1):
        database.activate(name, number)
        server.get_version(name)
    database.questions.clear()

    for name in (names[-1], names[0]):
        server.get_version(name)

    assert database.questions == [names[0]]


def test_the_lease_clock_never_goes_back_and_counts_a_suspended_machines_time() -> None:
    readings = [leases.lease_clock() for _ in range(1000)]

    assert readings == sorted(readings)
    if hasattr(time, "CLOCK_BOOTTIME"):
        before = time.clock_gettime(time.CLOCK_BOOTTIME)
        assert before <= leases.lease_clock() <= time.clock_gettime(time.CLOCK_BOOTTIME)
