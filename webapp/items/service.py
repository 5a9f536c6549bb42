"""The use cases of items: functions over a session; each commits once, at its end."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from webapp.audit.service import record
from webapp.database import begin_read, begin_write, keep_nothing, utc_now
from webapp.errors import ItemChanged, ItemNotFound
from webapp.items.models import Item, ItemBlock

SEED_BATCH = 20_000  # rows per INSERT: a progress bar that moves, and far from the time limit


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
    record(session, "item.create", f"item {item.id}")
    before_commit(item)
    session.commit()
    return item


def get_item(session: Session, item_id: int) -> Item:
    """Return an item; raises ItemNotFound."""
    begin_read(session)
    item = session.get(Item, item_id)
    if item is None:
        raise ItemNotFound(item_id)
    return item


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
    record(session, "item.change", f"item {item_id}", {"fields": sorted(changes)})
    session.commit()
    return item


def delete_item(
    session: Session, item_id: int, *, expected: Collection[int] | None = None
) -> None:
    """Delete an item; ``expected`` and the errors are those of ``update_item``."""
    session.delete(_lock_item(session, item_id, expected))
    record(session, "item.delete", f"item {item_id}")
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


def count_items(session: Session) -> int:
    """Return how many items there are, without reading them."""
    return int(session.scalar(sa.select(sa.func.sum(ItemBlock.items))) or 0)


def count_missing_items(session: Session, total: int) -> int:
    """Return how many items are missing for there to be ``total``; 0 where there are more."""
    return max(0, total - count_items(session))


def seed_items(session: Session, count: int, *, on_progress: Callable[[int], object]) -> None:
    """Insert ``count`` sample items in bulk, all or none.

    The database makes the rows by itself. ``on_progress`` is told the number of rows of each
    batch once they are inserted.
    """
    begin_write(session)
    now = utc_now()
    for first in range(1, count + 1, SEED_BATCH):
        last = min(first + SEED_BATCH - 1, count)
        session.execute(_insert_samples(first, last, now))
        on_progress(last - first + 1)
    if count:
        record(session, "items.seed", "items", {"count": count})
    session.commit()


def _insert_samples(first: int, last: int, now: datetime) -> sa.Insert:
    """Return the INSERT of the sample items of these numbers."""
    number = sa.select(sa.literal(first).label("number")).cte("numbers", recursive=True)
    numbers = number.union_all(sa.select(number.c.number + 1).where(number.c.number < last))
    values = {
        "name": sa.literal("Sample item ") + sa.cast(numbers.c.number, sa.Text()),
        "description": sa.literal("Made by `flask seed`."),
        "created_at": sa.literal(now, Item.created_at.type),
        "updated_at": sa.literal(now, Item.updated_at.type),
        "revision": sa.literal(1),
    }
    return sa.insert(Item).from_select(list(values), sa.select(*values.values()))
