"""Pages of many items: each is what sorting all of them gives."""

from __future__ import annotations

import json
import random
import re
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa
from flask.testing import FlaskClient
from sqlalchemy.orm import Session
from werkzeug.test import TestResponse

from webapp.db.base import utc_now
from webapp.items import schemas, service
from webapp.items.models import SORTS, Item

ITEMS = "/api/v1/items"
EARLY, LATE = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)
NAMES = ("apple", "Äpfel", "pear", "pear tree", "🍐", "100%", "a_b")


@pytest.fixture
def items(session: Session) -> list[Item]:
    """Store some hundred items, many alike, some deleted; return those left."""
    choose = random.Random(7)  # noqa: S311 (the same items every time)
    times = [utc_now() for _ in range(3)]
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


def ids(response: TestResponse) -> list[int]:
    assert response.status_code == 200, response.text
    return [item["id"] for item in response.json]


def links(response: TestResponse) -> dict[str, str]:
    return {
        rel: url for url, rel in re.findall(r'<([^>]*)>; rel="(\w+)"', response.headers["Link"])
    }


def follow(client: FlaskClient, **query: object) -> Iterator[TestResponse]:
    """Yield the first page, and every page that a `next` link leads to."""
    page = client.get(ITEMS, query_string=query)
    yield page
    while url := links(page).get("next"):
        page = client.get(url)
        yield page


# Contained in no item, in few, in many.
TEXTS = ("", "nowhere", "Ä", "pear tree", "zebra", "a", "word", "%", "a_b", "🍐")


# The items are stored once for all texts: that takes longer than finding them.
@pytest.mark.parametrize("sort", SORTS)
def test_every_page_holds_what_sorting_everything_gives(
    client: FlaskClient, items: list[Item], sort: str
) -> None:
    for text in TEXTS:
        expected = sorted_items(items, sort, text)
        for number in range(1, len(expected) // 30 + 3):
            query = {"q": text, "sort": sort, "page": number, "page_size": 30}
            page = client.get(ITEMS, query_string=query)

            assert ids(page) == expected[(number - 1) * 30 : number * 30], (text, number)


@pytest.mark.parametrize("sort", SORTS)
def test_next_links_read_every_item_once_at_any_depth(
    client: FlaskClient, items: list[Item], few_counted: int, sort: str
) -> None:
    for text in TEXTS:
        pages = list(follow(client, q=text, sort=sort, page_size=30))

        found = [item_id for page in pages for item_id in ids(page)]
        assert found == sorted_items(items, sort, text), text
        for number, page in enumerate(pages, start=1):
            summary = json.loads(page.headers["X-Pagination"])
            assert summary["page"] == number
            assert summary.get("next_page") == (number + 1 if page is not pages[-1] else None)


@pytest.mark.parametrize("sort", SORTS)
def test_next_links_meet_once_what_stays_while_others_come_and_go(
    client: FlaskClient, session: Session, items: list[Item], sort: str
) -> None:
    choose, there, met = random.Random(11), {item.id for item in items}, list[int]()  # noqa: S311
    stayed = set(there)

    for page in follow(client, sort=sort, page_size=30):
        met += ids(page)
        gone = choose.sample(sorted(there), 20)
        for item_id in [*gone, met[-1]]:  # the place itself among them
            with suppress(KeyError):
                there.remove(item_id)
                client.delete(f"{ITEMS}/{item_id}")
        stayed -= {*gone, met[-1]} - set(met)
        client.post(ITEMS, json={"name": choose.choice(NAMES)})
        if len(met) > 2 * len(items):
            break

    assert len(met) == len(set(met))
    assert stayed <= set(met)


def test_the_other_links_lead_to_pages_by_number(client: FlaskClient, items: list[Item]) -> None:
    second = client.get(links(client.get(f"{ITEMS}?page_size=30&sort=name"))["next"])

    led_to = {rel: client.get(url) for rel, url in links(second).items()}

    everything = sorted_items(items, "name")
    pages = -(-len(everything) // 30)
    assert ids(led_to["prev"]) == ids(led_to["first"]) == everything[:30]
    assert ids(led_to["last"]) == everything[(pages - 1) * 30 :]
    assert [rel for rel, url in links(second).items() if "after=" in url] == ["next"]


def test_a_list_beyond_the_bound_has_no_total_and_no_last_page(
    client: FlaskClient, items: list[Item], few_counted: int
) -> None:
    few = client.get(ITEMS, query_string={"q": "Ä", "page_size": 5})
    many = client.get(ITEMS, query_string={"q": "a", "page_size": 5, "page": 2})

    counted, uncounted = (json.loads(page.headers["X-Pagination"]) for page in (few, many))
    total = len(sorted_items(items, "id", "Ä"))
    assert 5 < total <= few_counted < len(sorted_items(items, "id", "a"))
    assert (counted["total"], counted["last_page"]) == (total, -(-total // 5))
    assert uncounted == {"first_page": 1, "page": 2, "previous_page": 1, "next_page": 3}
    assert set(links(many)) == {"first", "prev", "next"}


@pytest.mark.parametrize("count", [59, 60, 61])
def test_the_total_is_exact_up_to_the_bound(
    client: FlaskClient, session: Session, few_counted: int, count: int
) -> None:
    session.add_all(Item(name="x") for _ in range(count))
    session.commit()

    for page in follow(client, page_size=25):
        summary = json.loads(page.headers["X-Pagination"])
        assert summary.get("total") == (count if count <= few_counted else None)
        for rel in {"first", "prev", "last"} & links(page).keys():
            assert client.get(links(page)[rel]).status_code == 200


@pytest.mark.parametrize(
    ("page", "page_size", "status"), [(6, 10, 200), (7, 10, 422), (2, 59, 200), (3, 30, 422)]
)
def test_a_page_number_beyond_the_bound_is_refused_and_the_links_lead_on(
    client: FlaskClient,
    items: list[Item],
    few_counted: int,
    page: int,
    page_size: int,
    status: int,
) -> None:
    response = client.get(ITEMS, query_string={"page": page, "page_size": page_size})

    assert response.status_code == status
    if status == 422:
        assert "`next` links" in response.json["errors"]["query"]["page"][0]
    else:
        behind = client.get(links(response)["next"])
        assert ids(behind) == sorted_items(items, "id")[page * page_size :][:page_size]


@pytest.mark.parametrize(
    "change",
    [
        lambda place: place[:-1],
        lambda place: place + "A",
        lambda place: place + "=",
        lambda _: "",
        lambda _: "é",
        lambda _: "x" * 5_000,
        lambda _: encode(None),
        lambda _: encode([]),
        lambda _: encode("name"),
        lambda _: encode(["name"]),
        lambda _: encode(["name", "a", 0]),
        lambda _: encode(["name", "a", 2**63]),
        lambda _: encode(["name", "a", True]),
        lambda _: encode(["name", "a", "1"]),
        lambda _: encode(["name", "a", 1.0]),
        lambda _: encode(["name", "", 1]),
        lambda _: encode(["name", "a\0", 1]),
        lambda _: encode(["name", 1, 1]),
        lambda _: encode(["name", "a", 1, 1]),
        lambda _: encode(["name", [], {}]),
        lambda _: encode(["-name", "a", 1]),
        lambda _: encode(["id", 1]),
        lambda _: encode([["name"], "a", 1]),
        lambda _: encode({"name": "a", "id": 1}),
    ],
)
def test_a_place_that_no_next_link_of_this_order_has_named_is_refused(
    client: FlaskClient, change: object
) -> None:
    for _ in range(10):
        client.post(ITEMS, json={"name": "a"})
    page = client.get(f"{ITEMS}?sort=name&page_size=5")
    place = re.findall("after=([^&]*)", links(page)["next"])[0]

    refused = client.get(ITEMS, query_string={"sort": "name", "after": change(place)})

    assert client.get(f"{ITEMS}?sort=name&after={place}").status_code == 200
    assert refused.status_code == 422, refused.text
    assert list(refused.json["errors"]["query"]) == ["after"]


@pytest.mark.parametrize(
    "time",
    [
        "2026-11-22",
        "2026-11-22T10:00:00",
        "2026-11-22T10:00:00Z",
        "2026-11-22T10:00:00.5+00:00",
        "0001-01-01T00:00:00+05:00",
        "9999-12-31T23:59:59-05:00",
        "10000-01-01T00:00:00+00:00",
        5,
        None,
    ],
)
def test_a_place_at_a_time_in_another_form_is_refused(client: FlaskClient, time: object) -> None:
    refused = client.get(f"{ITEMS}?sort=created_at&after={encode(['created_at', time, 1])}")

    assert refused.status_code == 422
    assert list(refused.json["errors"]["query"]) == ["after"]


def encode(value: object) -> str:
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


@pytest.mark.parametrize("sort", SORTS)
def test_all_follows_the_first_place_of_all_and_nothing_the_last(
    client: FlaskClient, sort: str
) -> None:
    outermost = {
        "id": [[1], [2**63 - 1]],
        "name": [["!", 1], ["\U0010ffff" * 255, 2**63 - 1]],
        "created_at": [
            ["0001-01-01T00:00:00+00:00", 1],
            ["9999-12-31T23:59:59.999999+00:00", 2**63 - 1],
        ],
    }
    created = [client.post(ITEMS, json={"name": name}).json["id"] for name in "abc"]
    places = outermost[sort.removeprefix("-")]
    first, last = reversed(places) if sort.startswith("-") else places

    following, none = (
        ids(client.get(ITEMS, query_string={"sort": sort, "after": encode([sort, *place])}))
        for place in (first, last)
    )

    expected = created[1:] if sort == "id" else created  # the first is at the first place itself
    assert sorted(following) == expected
    assert none == []


@pytest.mark.parametrize("text", ["once a text", "e", 'a "quote"', "名前は", "🍐🍐🍐", "' OR '"])
def test_a_search_follows_changes_of_name_and_description(client: FlaskClient, text: str) -> None:
    def find() -> list[int]:
        return ids(client.get(ITEMS, query_string={"q": text}))

    created = client.post(ITEMS, json={"name": "1", "description": f"<{text}>\n"})
    location, item_id = created.headers["Location"], created.json["id"]
    assert find() == [item_id]

    client.patch(location, json={"description": ""})
    assert find() == []

    client.patch(location, json={"name": f"2 {text}."})
    assert find() == [item_id]

    client.delete(location)
    assert find() == []


def test_a_search_for_the_longest_text_finds_it(client: FlaskClient) -> None:
    text = "".join(chr(0x4E00 + number) for number in range(255))
    client.post(ITEMS, json={"name": "other", "description": text[1:]})
    client.post(ITEMS, json={"name": "this", "description": f"…{text}…"})

    page = client.get(ITEMS, query_string={"q": text})

    assert [item["name"] for item in page.json] == ["this"]
