"""Items over HTTP, as API.md's table promises them."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

ITEMS = "/api/v1/items"


def create(client: FlaskClient, name: str = "Test Item", description: str = "") -> TestResponse:
    response = client.post(ITEMS, json={"name": name, "description": description})
    assert response.status_code == 201, response.text
    return response


def names(response: TestResponse) -> list[str]:
    return [item["name"] for item in response.json]


def test_a_created_item_is_read_back_at_its_location(client: FlaskClient) -> None:
    created = client.post(ITEMS, json={"name": "Test Item", "description": "Just testing"})

    read = client.get(created.headers["Location"])

    assert created.status_code == 201
    assert read.json == created.json
    assert read.headers["ETag"] == created.headers["ETag"]
    assert read.json["name"] == "Test Item"
    assert read.json["description"] == "Just testing"
    assert read.json["created_at"].endswith("+00:00")


def test_description_defaults_to_empty(client: FlaskClient) -> None:
    created = client.post(ITEMS, json={"name": "Test Item"})

    assert client.get(created.headers["Location"]).json["description"] == ""


def test_a_trailing_slash_makes_no_difference(client: FlaskClient) -> None:
    assert client.post(f"{ITEMS}/", json={"name": "a"}).status_code == 201
    assert names(client.get(f"{ITEMS}/")) == ["a"]
    assert client.get(f"{ITEMS}/1/").json["name"] == "a"


@pytest.mark.parametrize("verb", ["put", "patch"])
def test_fields_that_are_not_sent_keep_their_value(client: FlaskClient, verb: str) -> None:
    location = create(client, "before", "kept").headers["Location"]

    changed = getattr(client, verb)(location, json={"name": "after"})

    assert changed.status_code == 200
    assert client.get(location).json["name"] == "after"
    assert client.get(location).json["description"] == "kept"


def test_a_change_gives_a_new_etag_and_a_later_time(client: FlaskClient) -> None:
    created = create(client)

    changed = client.put(created.headers["Location"], json={"name": "after"})

    assert changed.headers["ETag"] != created.headers["ETag"]
    assert changed.json["updated_at"] > created.json["updated_at"]
    assert changed.json["created_at"] == created.json["created_at"]


def test_a_put_that_changes_nothing_keeps_the_etag(client: FlaskClient) -> None:
    created = create(client)

    changed = client.put(created.headers["Location"], json={})

    assert changed.status_code == 200
    assert changed.headers["ETag"] == created.headers["ETag"]


def test_a_client_that_has_the_state_is_told_so(client: FlaskClient) -> None:
    created = create(client)
    headers = {"If-None-Match": created.headers["ETag"]}

    unchanged = client.get(created.headers["Location"], headers=headers)
    client.put(created.headers["Location"], json={"name": "after"})
    changed = client.get(created.headers["Location"], headers=headers)

    assert (unchanged.status_code, unchanged.data) == (304, b"")
    assert changed.status_code == 200


@pytest.mark.parametrize("verb", ["put", "patch", "delete"])
def test_if_match_refuses_an_outdated_state(client: FlaskClient, verb: str) -> None:
    created = create(client)
    location = created.headers["Location"]
    client.put(location, json={"name": "theirs"})
    body = {} if verb == "delete" else {"json": {"name": "mine"}}

    refused = getattr(client, verb)(
        location, headers={"If-Match": created.headers["ETag"]}, **body
    )

    assert refused.status_code == 412
    assert client.get(location).json["name"] == "theirs"


@pytest.mark.parametrize(
    "tag", ['"999"', '"no-tag-of-ours"', 'W/"1"', '"' + "9" * 5000 + '"', '""', '"V", ""', ""]
)
def test_if_match_with_a_foreign_tag_matches_nothing(client: FlaskClient, tag: str) -> None:
    location = create(client).headers["Location"]

    assert client.delete(location, headers={"If-Match": tag}).status_code == 412


def test_a_read_on_a_condition_that_does_not_hold_is_refused_in_the_one_shape(
    client: FlaskClient,
) -> None:
    location = create(client).headers["Location"]

    for path in (location, "/docs/swagger-ui.css"):
        with client.get(path, headers={"If-Match": '"999"'}) as refused:
            assert refused.status_code == 412
            assert refused.content_type == "application/problem+json"
            assert refused.get_json(force=True)["status"] == 412
            assert refused.headers["X-Request-ID"]


@pytest.mark.parametrize("tags", ['"1"', '"7", "1"', "*"])
def test_if_match_with_the_present_state_is_honoured(client: FlaskClient, tags: str) -> None:
    location = create(client).headers["Location"]

    changed = client.put(location, json={"name": "after"}, headers={"If-Match": tags})

    assert changed.status_code == 200


def test_a_deleted_item_is_gone_and_its_id_is_not_given_again(client: FlaskClient) -> None:
    created = create(client)

    assert client.delete(created.headers["Location"]).status_code == 204

    assert client.get(created.headers["Location"]).status_code == 404
    assert client.delete(created.headers["Location"]).status_code == 404
    assert client.put(created.headers["Location"], json={}).status_code == 404
    assert create(client).json["id"] > created.json["id"]


@pytest.mark.parametrize("item_id", ["0", "1", "2147483648", str(2**63 - 1), str(2**63)])
def test_an_id_that_names_no_item_is_not_found(client: FlaskClient, item_id: str) -> None:
    assert client.get(f"{ITEMS}/{item_id}").status_code == 404


def test_of_fifty_puts_with_one_etag_one_wins(app: Flask, client: FlaskClient) -> None:
    created = create(client)

    def put(number: int) -> int:
        response = app.test_client().put(
            created.headers["Location"],
            json={"name": f"writer {number}"},
            headers={"If-Match": created.headers["ETag"]},
        )
        return response.status_code

    with ThreadPoolExecutor(10) as pool:
        statuses = sorted(pool.map(put, range(50)))

    assert statuses == [200] + [412] * 49


def test_puts_without_if_match_all_succeed_at_once(app: Flask, client: FlaskClient) -> None:
    location = create(client).headers["Location"]

    def put(number: int) -> int:
        response = app.test_client().put(location, json={"name": f"writer {number}"})
        return response.status_code

    with ThreadPoolExecutor(10) as pool:
        statuses = set(pool.map(put, range(30)))

    assert statuses == {200}
    assert client.get(location).headers["ETag"] == '"31"'


def test_items_are_listed_in_pages(client: FlaskClient) -> None:
    for number in range(5):
        create(client, f"item {number}")

    page = client.get(ITEMS, query_string={"page": 2, "page_size": 2})

    assert names(page) == ["item 2", "item 3"]
    assert json.loads(page.headers["X-Pagination"]) == {
        "total": 5,
        "total_pages": 3,
        "first_page": 1,
        "last_page": 3,
        "page": 2,
        "previous_page": 1,
        "next_page": 3,
    }


def test_links_lead_from_the_first_page_to_the_last_and_keep_the_query(
    client: FlaskClient,
) -> None:
    for number in range(5):
        create(client, f"item {number}")

    page = client.get(ITEMS, query_string={"page_size": 2, "q": "item", "sort": "-name"})
    seen = names(page)
    while "next" in page.headers["Link"]:
        links = dict(reversed(link.split("; ")) for link in page.headers["Link"].split(", "))
        page = client.get(links['rel="next"'].strip("<>"))
        seen += names(page)

    assert seen == [f"item {number}" for number in (4, 3, 2, 1, 0)]


@pytest.mark.parametrize("page", [2, 100])
def test_a_page_beyond_the_last_is_empty(client: FlaskClient, page: int) -> None:
    create(client)

    response = client.get(ITEMS, query_string={"page": page})

    assert (response.status_code, response.json) == (200, [])


def test_an_empty_list_has_no_pages(client: FlaskClient) -> None:
    response = client.get(ITEMS)

    assert response.json == []
    assert json.loads(response.headers["X-Pagination"])["total_pages"] == 0


@pytest.mark.parametrize(
    ("q", "expected"),
    [
        ("100%", ["100% wool"]),
        ("a_b", ["a_b"]),
        ("\\", ["back\\slash"]),
        ("wool", ["100% wool", "woollen"]),
        ("Wool", []),
        ("'; DROP TABLE item", []),
        ("é", ["café"]),
    ],
)
def test_a_search_is_literal(client: FlaskClient, q: str, expected: list[str]) -> None:
    for name in ("100% wool", "1000 wolves", "a_b", "axb", "back\\slash", "woollen", "café"):
        create(client, name)

    assert names(client.get(ITEMS, query_string={"q": q})) == expected


def test_a_search_looks_into_descriptions_too(client: FlaskClient) -> None:
    create(client, "a", "warm socks")
    create(client, "b", "cold feet")

    assert names(client.get(ITEMS, query_string={"q": "socks"})) == ["a"]


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ("id", ["b", "a", "c", "a"]),
        ("-id", ["a", "c", "a", "b"]),
        ("name", ["a", "a", "b", "c"]),
        ("-name", ["c", "b", "a", "a"]),
        ("created_at", ["b", "a", "c", "a"]),
        ("-created_at", ["a", "c", "a", "b"]),
    ],
)
def test_items_are_sorted(client: FlaskClient, sort: str, expected: list[str]) -> None:
    for name in "baca":
        create(client, name)

    assert names(client.get(ITEMS, query_string={"sort": sort})) == expected


def test_names_sort_by_code_point_on_both_databases(client: FlaskClient) -> None:
    for name in ("b", "É", "a", "Z", "é", "_"):
        create(client, name)

    assert names(client.get(f"{ITEMS}?sort=name")) == ["Z", "_", "a", "b", "É", "é"]


@pytest.mark.parametrize("name", ["名前", "naïve ☃", "🙂" * 255, "a\u200db", "  spaces  "])
def test_any_readable_text_is_kept_as_it_is(client: FlaskClient, name: str) -> None:
    description = "line one\nline two\ttabbed\r\n"

    created = client.post(ITEMS, json={"name": name, "description": description})

    read = client.get(created.headers["Location"]).json
    assert (read["name"], read["description"]) == (name, description)
