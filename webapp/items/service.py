"""The use cases of items: functions over a session; each commits once, at its end."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import sqlalchemy as sa
from sqlalchemy.orm import Session

from webapp.database import Page, begin_write, fetch_page, keep_nothing, strpos, utc_now
from webapp.errors import ItemChanged, ItemNotFound
from webapp.items.models import Item

SEED_BATCH = 5_000  # rows per INSERT: a progress bar that moves, and little memory


def create_item(
    session: Session,
    *,
    name: str,
    description: str,
    before_commit: Callable[[Item], object] = keep_nothing,
) -> Item:
    """Store a new item and return it; ``before_commit`` is given it in the same transaction."""
    begin_write(session)
    item = Item(name=name, description=description)
    session.add(item)
    session.flush()
    before_commit(item)
    session.commit()
    return item


def get_item(session: Session, item_id: int) -> Item:
    """Return an item; raises ItemNotFound."""
    item = session.get(Item, item_id)
    if item is None:
        raise ItemNotFound(item_id)
    return item


def list_items(session: Session, *, page: int, page_size: int, q: str, sort: str) -> Page[Item]:
    """Return one page of the items that contain the text ``q``.

    ``sort`` is one of ``SORT_KEYS``, with a leading ``-`` for descending order; items that are
    equal by it stand in the order of their ids, so that pages never overlap.
    """
    matching = sa.select(Item)
    if q:
        matching = matching.where((strpos(Item.name, q) > 0) | (strpos(Item.description, q) > 0))
    keys = dict.fromkeys((getattr(Item, sort.removeprefix("-")), Item.id))
    descending = sort.startswith("-")
    ordered = matching.order_by(*(key.desc() if descending else key for key in keys))
    return fetch_page(session, ordered, number=page, size=page_size)


def update_item(
    session: Session,
    item_id: int,
    changes: Mapping[str, str],
    *,
    expected: Collection[int] | None = None,
) -> Item:
    """Change the given fields of an item and return it.

    ``expected`` holds the revisions that the caller accepts; None accepts any. Raises
    ItemNotFound, and ItemChanged when the item is at another revision.
    """
    item = _lock_item(session, item_id, expected)
    for field, value in changes.items():
        setattr(item, field, value)
    session.commit()
    return item


def delete_item(
    session: Session, item_id: int, *, expected: Collection[int] | None = None
) -> None:
    """Delete an item; ``expected`` and the errors are those of ``update_item``."""
    session.delete(_lock_item(session, item_id, expected))
    session.commit()


def _lock_item(session: Session, item_id: int, expected: Collection[int] | None) -> Item:
    # The lock lets an unconditional writer wait its turn. That no state is overwritten unseen
    # does not rest on it: the UPDATE itself carries the revision (`version_id_col`).
    begin_write(session)
    item = session.get(Item, item_id, with_for_update=True)
    if item is None:
        raise ItemNotFound(item_id)
    if expected is not None and item.revision not in expected:
        raise ItemChanged(item_id)
    return item


def count_missing_items(session: Session, total: int) -> int:
    """Return how many items are missing for there to be ``total``; 0 where there are more."""
    present = session.scalar(sa.select(sa.func.count()).select_from(Item)) or 0
    return max(0, total - present)


def seed_items(session: Session, count: int, *, on_progress: Callable[[int], object]) -> None:
    """Insert ``count`` sample items in bulk, all or none.

    ``on_progress`` is told the number of rows of each batch once they are inserted.
    """
    begin_write(session)
    now = utc_now()
    for first in range(0, count, SEED_BATCH):
        rows = [
            {
                "name": f"Sample item {number + 1}",
                "description": "Made by `flask seed`.",
                "created_at": now,
                "updated_at": now,
                "revision": 1,
            }
            for number in range(first, min(first + SEED_BATCH, count))
        ]
        session.execute(sa.insert(Item), rows)
        on_progress(len(rows))
    session.commit()
