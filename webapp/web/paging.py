"""Pages of a collection: the query that asks for one, the headers that describe it."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from typing import Any, TypeVar
from urllib.parse import urlencode

import orjson
from flask import request

from webapp.db.base import Page
from webapp.web.fields import QueryInteger, StrictSchema
from webapp.web.openapi import header

T = TypeVar("T")

HEADERS = {
    "X-Pagination": header(
        "JSON object with total, total_pages, first_page, last_page, page, previous_page, "
        "next_page. Those that do not exist, or are not known, are left out."
    ),
    "Link": header("URLs of the first, previous, next and last page (RFC 8288)."),
}


class PageQuery(StrictSchema):
    """Which page of a collection."""

    # The number times the size is still far below the databases' 2^63.
    page = QueryInteger(
        minimum=1,
        maximum=2**31 - 1,
        load_default=1,
        metadata={"description": "Number of the page, from 1."},
    )
    page_size = QueryInteger(
        minimum=1,
        maximum=1000,
        load_default=100,
        metadata={"description": "Most objects on a page."},
    )


def answer_page(page: Page[T]) -> tuple[Sequence[T], dict[str, str]]:
    """Return the objects of a page, and the headers ``X-Pagination`` and ``Link``."""
    summary, links = dict[str, int](), {"first": _page_url(1)}
    if page.total is None:
        summary["first_page"] = 1
    else:
        last = max(1, -(-page.total // page.size))
        summary |= {"total": page.total, "total_pages": last if page.total else 0}
        links["last"] = _page_url(last)
        if page.total:
            summary |= {"first_page": 1, "last_page": last}
    if page.objects or page.number == 1:
        summary["page"] = page.number
        # After a `next` link in a list without a total, the pages before have no numbers.
        if page.number > 1 and (page.total is not None or "after" not in request.args):
            summary["previous_page"] = page.number - 1
            links["prev"] = _page_url(page.number - 1)
    if page.more:
        summary["next_page"] = page.number + 1
        links["next"] = _page_url(page.number + 1, page.end)
    return page.objects, {
        "X-Pagination": orjson.dumps(summary).decode(),
        "Link": ", ".join(f'<{url}>; rel="{rel}"' for rel, url in links.items()),
    }


def encode_end(end: Sequence[Any]) -> str:
    """Return the text that stands in a URL for the end of a page: ``Page.end``."""
    return urlsafe_b64encode(orjson.dumps(end)).rstrip(b"=").decode()


def decode_end(text: str) -> Any:
    """Return the JSON value in such a text, which any client may have made; raises ValueError."""
    return orjson.loads(urlsafe_b64decode(text + "=" * (-len(text) % 4)))


def _page_url(number: int, after: Sequence[Any] | None = None) -> str:
    query = {**request.args, "page": str(number)}
    query.pop("after", None)
    if after is not None:
        query["after"] = encode_end(after)
    return f"{request.script_root}{request.path}?{urlencode(query)}"
