"""Pages of a collection: the query that asks for one, the headers that describe it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar
from urllib.parse import urlencode

import orjson
from flask import request

from webapp.database import Page
from webapp.fields import QueryInteger, StrictSchema

DEFAULT_PAGE_SIZE = 100
LARGEST_PAGE_SIZE = 1000
LARGEST_PAGE = 2**31 - 1  # with the page size, still far below the databases' 2^63

T = TypeVar("T")

HEADERS = {
    "X-Pagination": {
        "description": "JSON object: total, total_pages, first_page, last_page, page, "
        "previous_page, next_page.",
        "schema": {"type": "string"},
    },
    "Link": {
        "description": "URLs of the first, previous, next and last page (RFC 8288).",
        "schema": {"type": "string"},
    },
}


class PageQuery(StrictSchema):
    """Which page of a collection."""

    page = QueryInteger(
        minimum=1,
        maximum=LARGEST_PAGE,
        load_default=1,
        metadata={"description": "Number of the page, from 1."},
    )
    page_size = QueryInteger(
        minimum=1,
        maximum=LARGEST_PAGE_SIZE,
        load_default=DEFAULT_PAGE_SIZE,
        metadata={"description": "Most objects on a page."},
    )


def answer_page(page: Page[T]) -> tuple[Sequence[T], dict[str, str]]:
    """Return the objects of a page, and the headers that say where it stands.

    They are ``X-Pagination`` (as flask-smorest writes it) and ``Link``.
    """
    return page.objects, _page_headers(page)


def _page_headers(page: Page[Any]) -> dict[str, str]:
    last = max(1, -(-page.total // page.size))
    summary: dict[str, int] = {"total": page.total, "total_pages": last if page.total else 0}
    links = {"first": 1, "last": last}
    if page.total:
        summary |= {"first_page": 1, "last_page": last}
    if page.number <= last:
        summary["page"] = page.number
        if page.number > 1:
            summary["previous_page"] = links["prev"] = page.number - 1
        if page.number < last:
            summary["next_page"] = links["next"] = page.number + 1
    return {
        "X-Pagination": orjson.dumps(summary).decode(),
        "Link": ", ".join(f'<{_page_url(number)}>; rel="{rel}"' for rel, number in links.items()),
    }


def _page_url(number: int) -> str:
    query = {**request.args, "page": str(number)}
    return f"{request.script_root}{request.path}?{urlencode(query)}"
