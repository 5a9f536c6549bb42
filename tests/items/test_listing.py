"""Lists of items: each page is what sorting all items in Python gives."""

from __future__ import annotations

import json
import random
import re
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from flask.testing import FlaskClient
from sqlalchemy.orm import Session
from werkzeug.test import TestResponse

from webapp.items import schemas, service
from webapp.items.models import SORTS, Item

ITEMS = "/api/v1/items"
NAMES = ("apple", "Äpfel", "pear", "pear tree", "🍐", "100%", "a_b", "Z", "back\\slash")
# Contained in no item, in few, in many; letter for letter.
TEXTS = ("", "nowhere", "Ä", "pear tree", "Pear", "zebra", "a", "word", "%", "a_b", "\\", "🍐")


@pytest.fixture
def items(session: Session) -> list[Item]:
    """Store some hundred items, many alike, some deleted; return those left."""
    choose = random.Random(7)  # noqa: S311 (the same items every time)
    times = [datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2, 3)]
    session.add_all(
        Item(
            name=choose.choice(NAMES),
            description=choose.choice(("", "a word or two", "zebra" if number > 50 else "horse")),
            created_at=choose.choice(times),
        )
        for number in range(200)
    )
    session.commit()
    session.execute(sa.delete(Item).where(Item.id % 7 == 0))
    session.commit()
    kept = list(session.scalars(sa.select(Item)))
    session.expunge_all()  # what the tests do to the rows changes nothing of these
    return kept


@pytest.fixture
def few_counted(monkeypatch: pytest.MonkeyPatch) -> int:
    """Count 60 items at most; return that."""
    monkeypatch.setattr(service, "MOST_COUNTED", 60)
    monkeypatch.setattr(schemas, "MOST_COUNTED", 60)
    return 60


def sorted_items(items: list[Item], sort: str, text: str = "") -> list[int]:
    """Return the ids of the items that hold a text, as Python sorts them."""
    key = sort.removeprefix("-")
    found = [item for item in items if text in item.name or text in item.description]
    found.sort(key=lambda item: (getattr(item, key), item.id), reverse=sort.startswith("-"))
    return [item.id for item in found]


def fetch(client: FlaskClient, **query: object) -> TestResponse:
    return client.get(ITEMS, query_string=query)


def ids(response: TestResponse) -> list[int]:
    assert response.status_code == 200, response.text
    return [item["id"] for item in response.json]


def links(response: TestResponse) -> dict[str, str]:
    return {
        rel: url for url, rel in re.findall(r'<([^>]*)>; rel="(\w+)"', response.headers["Link"])
    }


def summary(response: TestResponse) -> dict[str, int]:
    found: dict[str, int] = json.loads(response.headers["X-Pagination"])
    return found


def follow(client: FlaskClient, **query: object) -> Iterator[TestResponse]:
    """Yield the first page, and every page that a `next` link leads to."""
    page = fetch(client, **query)
    yield page
    while url := links(page).get("next"):
        page = client.get(url)
        yield page


def encode(place: object) -> str:
    """Return a place as `next` links name it."""
    text = json.dumps(place, separators=(",", ":"), ensure_ascii=False)
    return urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


# The items are stored once for all texts: that takes longer than finding them.
@pytest.mark.parametrize("sort", SORTS)
def test_pages_by_number_and_by_next_links_hold_what_sorting_everything_gives(
    client: FlaskClient, items: list[Item], monkeypatch: pytest.MonkeyPatch, sort: str
) -> None:
    for text in TEXTS:
        query = {"q": text, "sort": sort, "page_size": 30}
        expected = sorted_items(items, sort, text)
        for number in range(1, len(expected) // 30 + 3):
            page = fetch(client, **query, page=number)
            assert ids(page) == expected[(number - 1) * 30 : number * 30], (text, number)

        with monkeypatch.context() as few:  # so that most pages are beyond what is counted
            few.setattr(service, "MOST_COUNTED", 60)
            pages = list(follow(client, **query))

        assert [item_id for page in pages for item_id in ids(page)] == expected, text
        for number, page in enumerate(pages, start=1):
            assert summary(page)["page"] == number
            is_last = page is pages[-1]
            assert summary(page).get("next_page") == (None if is_last else number + 1)


@pytest.mark.parametrize("sort", SORTS)
def test_links_meet_once_what_stays(client: FlaskClient, items: list[Item], sort: str) -> None:
    choose, there, met = random.Random(11), {item.id for item in items}, list[int]()  # noqa: S311
    stayed = set(there)

    for page in follow(client, sort=sort, page_size=30):
        met += ids(page)
        gone = {*choose.sample(sorted(there), 20), met[-1]}  # the place itself among them
        for item_id in gone:
            client.delete(f"{ITEMS}/{item_id}")
        there -= gone
        stayed -= gone - set(met)
        client.post(ITEMS, json={"name": choose.choice(NAMES)})
        assert len(met) < 2 * len(items)

    assert len(met) == len(set(met))
    assert stayed <= set(met)


def test_every_link_leads_to_its_page(client: FlaskClient, items: list[Item]) -> None:
    everything = sorted_items(items, "name")
    last = -(-len(everything) // 30)
    second = client.get(links(fetch(client, page_size=30, sort="name"))["next"])

    led_to = {rel: client.get(url) for rel, url in links(second).items()}

    assert ids(led_to["prev"]) == ids(led_to["first"]) == everything[:30]
    assert ids(led_to["next"]) == everything[60:90]
    assert ids(led_to["last"]) == everything[(last - 1) * 30 :]
    assert [rel for rel, url in links(second).items() if "after=" in url] == ["next"]
    assert summary(second) == {
        "total": len(everything),
        "total_pages": last,
        "first_page": 1,
        "last_page": last,
        "page": 2,
        "previous_page": 1,
        "next_page": 3,
    }
    assert summary(fetch(client, q="nowhere")) == {"total": 0, "total_pages": 0, "page": 1}


@pytest.mark.parametrize("count", [59, 60, 61])
def test_the_total_is_exact_up_to_the_bound_and_unknown_beyond(
    client: FlaskClient, session: Session, few_counted: int, count: int
) -> None:
    session.add_all(Item(name="x") for _ in range(count))
    session.commit()

    for page in follow(client, page_size=25):
        assert summary(page).get("total") == (count if count <= few_counted else None)
        assert ("last" in links(page)) == (count <= few_counted)
    if count > few_counted:
        uncounted = summary(fetch(client, page_size=25, page=2))
        assert uncounted == {"first_page": 1, "page": 2, "previous_page": 1, "next_page": 3}


@pytest.mark.usefixtures("few_counted")
def test_a_page_number_beyond_the_bound_is_refused(client: FlaskClient, items: list[Item]) -> None:
    for page, page_size in ((7, 10), (3, 30)):
        refused = fetch(client, page=page, page_size=page_size)
        assert refused.status_code == 422
        assert "`next` links" in refused.json["errors"]["query"]["page"][0]

    for page, page_size in ((6, 10), (2, 59)):
        behind = client.get(links(fetch(client, page=page, page_size=page_size))["next"])
        assert ids(behind) == sorted_items(items, "id")[page * page_size :][:page_size]


# Each would be a place of this order but for one thing.
NO_PLACES: dict[str, list[Any]] = {
    "name": [
        *(None, [], "name", ["name"], ["name", "a", 0], ["name", "a", 2**63], ["name", "a", True]),
        *(["name", "a", "1"], ["name", "a", 1.0], ["name", "", 1], ["name", "a\0", 1]),
        *(["name", 1, 1], ["name", "a", 1, 1], ["name", [], {}], ["-name", "a", 1], ["id", 1]),
        *([["name"], "a", 1], {"name": "a", "id": 1}),
    ],
    "created_at": [
        ["created_at", time, 1]
        for time in (
            *("2026-11-22", "2026-11-22T10:00:00", "2026-11-22T10:00:00Z", 5, None),
            *("2026-11-22T10:00:00.5+00:00", "10000-01-01T00:00:00+00:00"),
            *("0001-01-01T00:00:00+05:00", "9999-12-31T23:59:59-05:00"),
        )
    ],
}
OUTERMOST = {
    "name": ("!", "\U0010ffff" * 255),
    "created_at": ("0001-01-01T00:00:00+00:00", "9999-12-31T23:59:59.999999+00:00"),
}
"""The values of the first and the last place of an order."""


@pytest.mark.parametrize("sort", NO_PLACES)
def test_every_place_of_an_order_may_be_asked_for(client: FlaskClient, sort: str) -> None:
    for _ in range(2):
        client.post(ITEMS, json={"name": "a"})
    url = links(fetch(client, sort=sort, page_size=1))["next"]
    place = re.findall("after=([^&]*)", url)[0]
    altered = [place[:-1], place + "A", place + "="]

    assert client.get(url).status_code == 200
    first, last = OUTERMOST[sort]
    assert len(ids(fetch(client, sort=sort, after=encode([sort, first, 1])))) == 2
    assert ids(fetch(client, sort=sort, after=encode([sort, last, 2**63 - 1]))) == []
    for no_place in [*altered, *map(encode, NO_PLACES[sort])]:
        refused = fetch(client, sort=sort, after=no_place)
        assert refused.status_code == 422, no_place
        assert list(refused.json["errors"]["query"]) == ["after"]


LONGEST = "".join(chr(0x4E00 + number) for number in range(255))


@pytest.mark.parametrize(
    "text", ["once a text", "e", 'a "quote"', "名前は", "🍐🍐🍐", "' OR '", LONGEST[:-2]]
)
def test_a_search_follows_changes_of_name_and_description(client: FlaskClient, text: str) -> None:
    def find() -> list[int]:
        return ids(fetch(client, q=text))

    client.post(ITEMS, json={"name": "0", "description": text[1:]})
    created = client.post(ITEMS, json={"name": "1", "description": f"<{text}>\n"})
    location, item_id = created.headers["Location"], created.json["id"]
    assert find() == [item_id]

    client.patch(location, json={"description": ""})
    assert find() == []

    client.patch(location, json={"name": f"2{text}."})
    assert find() == [item_id]

    client.delete(location)
    assert find() == []
