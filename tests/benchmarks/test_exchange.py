"""Sending requests: a wrong or refused answer never becomes a figure."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from operator import itemgetter

import pytest

from benchmarks.exchange import Exchange, WrongAnswer
from benchmarks.load_generator import drive
from tests.echo_server import running_echo_server


@pytest.fixture
def url() -> Iterator[str]:
    """URL of a server that answers what it was sent."""
    with running_echo_server() as (url, _):
        yield url


needs_wrk = pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")


def exchange(path: str = "/") -> Exchange:
    return Exchange("POST", path, 200, itemgetter("prediction"), 4.0, b'{"prediction": 4.0}')


@needs_wrk
@pytest.mark.parametrize("connections", [1, 3])
def test_a_load_of_right_answers_has_a_time_per_answer(url: str, connections: int) -> None:
    assert exchange().send(url) > 0
    assert 0 < drive(url, exchange(), connections=connections, seconds=1) < 0.1


@needs_wrk
def test_a_load_that_is_refused_is_no_figure(url: str) -> None:
    with pytest.raises(WrongAnswer):
        drive(url, exchange("/away"), connections=1, seconds=1)
    with pytest.raises((WrongAnswer, OSError)):
        drive("http://127.0.0.1:1", exchange(), connections=1, seconds=1)


@pytest.mark.parametrize("value", ["4.0001", '"4.0"', "null", "[4.0]"])
def test_an_answer_of_another_value_status_or_shape_is_refused(value: str) -> None:
    body = f'{{"prediction": {value}}}'
    for status, wrong in ((200, body), (400, '{"prediction": 4.0}'), (200, "{}"), (200, "text")):
        with pytest.raises(WrongAnswer):
            exchange().check(status, wrong.encode())
