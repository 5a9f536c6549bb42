"""Errors of items."""

from __future__ import annotations

from webapp.errors import NotFound, PreconditionFailed


class ItemNotFound(NotFound):
    """No item has this id."""

    def __init__(self, item_id: int) -> None:
        super().__init__(f"There is no item {item_id}.")


class ItemChanged(PreconditionFailed):
    """The item is at another revision than the caller expects."""

    def __init__(self, item_id: int) -> None:
        super().__init__(f"Item {item_id} has changed: read it again, then repeat the request.")
