"""The endpoints of items."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from flask import Response, request, url_for
from flask.views import MethodView

from webapp.extensions import db
from webapp.idempotency.views import REPLAYED_HEADER, idempotent
from webapp.items import service
from webapp.items.models import Item
from webapp.items.schemas import ItemChanges, ItemQuery, ItemSchema, NewItem
from webapp.scopes import Scope
from webapp.web.blueprint import Blueprint
from webapp.web.openapi import header
from webapp.web.paging import HEADERS, answer_page

blp = Blueprint("items", __name__, url_prefix="/items", description="A plain resource.")

Headers: TypeAlias = dict[str, str]

REVISION = re.compile("[0-9]{1,19}")
ETAG = {"ETag": header("Names this state of the item, for `If-Match`.")}
LOCATION = {"Location": header("URL of the item.", format="uri-reference")}
IF_MATCH = {
    "in": "header",
    "name": "If-Match",
    **header("Act only on one of these states of the item, else answer 412."),
}
IF_NONE_MATCH = {
    "in": "header",
    "name": "If-None-Match",
    **header("Answer 304 if the item is still in one of these states."),
}


def with_etag(item: Item) -> tuple[Item, Headers]:
    """Return an item, and the header that names its state."""
    return item, {"ETag": f'"{item.revision}"'}


def announce_item(item: Item) -> tuple[Item, Headers]:
    """Return a new item, and the headers that name it and its state."""
    location = url_for("items.ItemById", item_id=item.id)
    return item, {"Location": location, **with_etag(item)[1]}


def expected_revisions() -> set[int] | None:
    """Return the revisions that ``If-Match`` names; None where any will do.

    Tags that are not ours, and weak ones, match nothing (RFC 9110, 13.1.1).
    """
    if "If-Match" not in request.headers or request.if_match.star_tag:
        return None
    tags = request.if_match.as_set()
    return {int(tag) for tag in tags if tag and REVISION.fullmatch(tag)}


@blp.after_request
def answer_not_modified(response: Response) -> Response:
    """Answer 304 without a body where the client already has this state."""
    if request.method in ("GET", "HEAD") and "ETag" in response.headers:
        response.make_conditional(request)
    return response


@blp.route("", get="list_items", post="create_item")
class Items(MethodView):
    """The collection."""

    @blp.allow(Scope.ITEMS_READ)
    @blp.arguments(ItemQuery, location="query")
    @blp.response(200, ItemSchema(many=True), headers=HEADERS)
    @blp.problems(503)
    def get(self, query: Mapping[str, Any]) -> tuple[Sequence[Item], Headers]:
        """List items.

        A bare array. `X-Pagination` and `Link` describe the page. A list of more than 10,000 items
        has no total and no last page; read on behind its 10,000th item by the `next` links.
        """
        return answer_page(service.list_items(db.session(), **query))

    @blp.allow(Scope.ITEMS_WRITE)
    @blp.arguments(NewItem, example={"name": "Test Item", "description": "Just testing"})
    @blp.response(201, ItemSchema, headers=LOCATION | ETAG | REPLAYED_HEADER)
    @blp.problems(503)
    @idempotent(blp, ItemSchema(), announce_item)
    def post(self, new_item: Mapping[str, str], before_commit: Callable[[Item], None]) -> Item:
        """Create an item."""
        return service.create_item(db.session(), **new_item, before_commit=before_commit)


@blp.route(
    "/<id:item_id>", get="get_item", put="put_item", patch="update_item", delete="delete_item"
)
class ItemById(MethodView):
    """One item."""

    @blp.allow(Scope.ITEMS_READ)
    @blp.response(200, ItemSchema, headers=ETAG)
    @blp.alt_response(304, description="The client already has this state.", headers=ETAG)
    @blp.problems(404, 503)
    @blp.doc(parameters=[IF_NONE_MATCH])
    def get(self, item_id: int) -> tuple[Item, Headers]:
        """Read an item."""
        return with_etag(service.get_item(db.session(), item_id))

    @blp.allow(Scope.ITEMS_WRITE)
    @blp.arguments(ItemChanges, example={"description": "Tested"})
    @blp.response(200, ItemSchema, headers=ETAG)
    @blp.problems(404, 412, 503)
    @blp.doc(parameters=[IF_MATCH])
    def put(self, changes: Mapping[str, str], item_id: int) -> tuple[Item, Headers]:
        """Change an item.

        Fields that are not sent keep their value. With `If-Match`, nothing is changed unless
        the item is still in the state that it names.
        """
        expected = expected_revisions()
        return with_etag(service.update_item(db.session(), item_id, changes, expected=expected))

    patch = put

    @blp.allow(Scope.ITEMS_WRITE)
    @blp.response(204)
    @blp.problems(404, 412, 503)
    @blp.doc(parameters=[IF_MATCH])
    def delete(self, item_id: int) -> None:
        """Delete an item."""
        service.delete_item(db.session(), item_id, expected=expected_revisions())
