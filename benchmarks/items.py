"""How long pages and searches of 1,000,000 items take, and how fast they are seeded.

Run by `make items`. On each database: `flask seed`, then GET requests over HTTP in process, one
after the other; medians in milliseconds, and as multiples of the first page's. Takes two to three
minutes, more on a machine that is busy.
"""

from __future__ import annotations

import itertools
import re
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from tests.conftest import Backend, dispose_app, make_app, migrate
from tests.postgres import server_for_tests
from webapp.extensions import db

ITEMS = 1_000_000
PAGE_SIZE = 20
LAST = ITEMS // PAGE_SIZE
SORTS = ("id", "-id", "name", "-name", "created_at", "-created_at")
SEARCHES = {  # by how many items hold the text
    "none": "nowhere",
    "1": "777777",
    "280": "7777",
    "3,700": "777",
    "45,739": "77",
    "all": "item",
}
SECONDS = 1.0  # that each row of the table is measured, at least
REPEATS = 5  # times, at least


def seed(app: Flask) -> float:
    """Fill the database; return how many items it took in per second."""
    runner = app.test_cli_runner()
    runner.invoke(args=["seed"])  # imports, and the model
    started = time.perf_counter()
    result = runner.invoke(args=["seed", "--items", str(ITEMS)])
    assert result.exit_code == 0, result.output
    return (ITEMS - 3) / (time.perf_counter() - started)


def settle(app: Flask) -> None:
    """Do what the database does by itself some time after so many rows have come."""
    with app.app_context(), db.engine.connect() as connection:
        if db.engine.dialect.name == "postgresql":
            connection = connection.execution_options(isolation_level="AUTOCOMMIT")
            connection.execute(sa.text("SET statement_timeout = 0"))
            connection.execute(sa.text("VACUUM ANALYZE"))
            connection.invalidate()


@dataclass(frozen=True)
class Times:
    """Median milliseconds of a page, and of the first page beside which it was measured."""

    page: float
    first: float


def get(client: FlaskClient, url: str) -> tuple[float, str]:
    """Return the milliseconds that a page took, and its ``Link``."""
    started = time.perf_counter()
    response = client.get(url)
    took = time.perf_counter() - started
    assert response.status_code == 200, response.text
    return took * 1000, response.headers["Link"]


def page_url(**query: object) -> str:
    """Return the URL of a page of items."""
    return f"/api/v1/items?{urlencode({'page_size': PAGE_SIZE, **query})}"


def measure(client: FlaskClient, urls: Iterable[str]) -> Times:
    """Measure these pages and the first one in turn: what else runs slows both alike."""
    pages, firsts = list[float](), list[float]()
    ends = time.perf_counter() + SECONDS
    for url in urls:
        pages.append(get(client, url)[0])
        firsts.append(get(client, page_url())[0])
        if len(pages) >= REPEATS and time.perf_counter() > ends:
            break
    return Times(statistics.median(pages), statistics.median(firsts))


def follow(client: FlaskClient, **query: object) -> Iterator[str]:
    """Yield what `next` links lead to, from the middle of all pages on."""
    url = page_url(page=LAST // 2, **query)
    while True:
        _, link = get(client, url)
        (url,) = re.findall(r'<([^>]*)>; rel="next"', link)
        yield url


def rows(client: FlaskClient) -> Iterator[tuple[str, Times]]:
    """Yield what is measured, and its times."""
    pages = {"first": 1, "middle": LAST // 2, f"{LAST:,}, the last": LAST}
    for sort, (which, number) in itertools.product(SORTS, pages.items()):
        url = page_url(sort=sort, page=number)
        yield f"page {which}, `sort={sort}`", measure(client, itertools.repeat(url))
    for sort in SORTS:
        yield f"next links, `sort={sort}`", measure(client, follow(client, sort=sort))
    for sort, (count, text) in itertools.product(("id", "-name"), SEARCHES.items()):
        url = page_url(q=text, sort=sort)
        yield f"`q={text}`, in {count}, `sort={sort}`", measure(client, itertools.repeat(url))


def report(name: str, database_url: str) -> None:
    """Measure one database and print its table."""
    migrate(database_url)
    app = make_app(database_url, DATABASE_TIMEOUT=60)
    rate = seed(app)
    settle(app)
    print(
        f"\n{name}: {rate:,.0f} items seeded per second\n\n| page | ms | × first |\n|---|---|---|"
    )
    for what, times in rows(app.test_client()):
        print(f"| {what} | {times.page:.1f} | {times.page / times.first:.1f} |", flush=True)
    dispose_app(app)


def main() -> None:
    """Measure both databases, each in a new place that is removed afterwards."""
    with tempfile.TemporaryDirectory() as name, server_for_tests() as server_url:
        for backend in (
            Backend("sqlite", Path(name)),
            Backend("postgresql", Path(name), server_url),
        ):
            url = backend.make_empty()
            try:
                report(backend.name, url)
            finally:
                backend.drop(url)


if __name__ == "__main__":
    main()
