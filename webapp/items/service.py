"""The use cases of items: functions over a session; each commits once, at its end."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy.orm import Session

from webapp.audit.service import record
from webapp.db.base import Page, begin_read, begin_write, keep_nothing
from webapp.errors import NotFound, PreconditionFailed
from webapp.items.models import MOST_COUNTED, TEXT_INDEX, Item, sort_keys

TRIGRAM = 3  # characters: SQLite's index cannot find shorter texts
Selects: TypeAlias = tuple[list[sa.Select[Any]], sa.Select[Any]]
SEED_BATCH = 10_000  # rows in memory at a time; 100,000 take 4 seconds


class ItemNotFound(NotFound):
    """No item has this id."""

    def __init__(self, item_id: int) -> None:
        super().__init__(f"There is no item {item_id}.")


class ItemChanged(PreconditionFailed):
    """The item is at another revision than the caller expects."""

    def __init__(self, item_id: int) -> None:
        super().__init__(f"Item {item_id} has changed: read it again, then repeat the request.")


def create_item(
    session: Session,
    *,
    name: str,
    description: str,
    before_commit: Callable[[Item], object] = keep_nothing,
) -> Item:
    """Store a new item and return it; ``before_commit`` gets it within the transaction."""
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
    # The lock makes writers without `expected` wait for each other. What keeps a change from
    # being overwritten unseen is the UPDATE itself: it names the revision (`version_id_col`).
    begin_write(session)
    item = session.get(Item, item_id, with_for_update=True)
    if item is None:
        raise ItemNotFound(item_id)
    if expected is not None and item.revision not in expected:
        raise ItemChanged(item_id)
    return item


def list_items(
    session: Session,
    *,
    page: int,
    page_size: int,
    q: str,
    sort: str,
    after: Sequence[Any] | None = None,
) -> Page[Item]:
    """Return one page of the items whose name or description contains the text ``q``.

    ``sort`` is one of ``SORTS``. ``after`` has the values of the sort columns of the last item of
    another page: the page then begins behind that item, and ``page`` is only its number. The total
    is None where it is greater than ``MOST_COUNTED``.
    """
    begin_read(session)
    keys, follows = sort_keys(sort), after is not None
    values: dict[str, Any] = {"most": MOST_COUNTED + 1, "offset": (page - 1) * page_size}
    if after is not None:
        values |= {"offset": 0, **dict(zip(keys, after, strict=True))}
    if q:
        ranges, count = _make_selects(_find_matching(session, q), sort, follows=follows)
    else:
        ranges, count = _list_all(sort, follows=follows)
    rows: list[Any] = []
    for statement in ranges:
        if len(rows) <= page_size:
            rows += session.execute(statement, values | {"limit": page_size + 1 - len(rows)})
    total = rows[0][1] if rows else session.scalar(count, values) or 0
    items, more = [row[0] for row in rows[:page_size]], len(rows) > page_size
    return Page(
        items,
        number=page,
        size=page_size,
        total=total if total <= MOST_COUNTED else None,
        more=more,
        end=[sort, *(getattr(items[-1], key) for key in keys)] if more else None,
    )


def _find_matching(session: Session, text: str) -> sa.Select[Any]:
    """Return the SELECT of the items that contain a text, letter for letter."""
    everything, columns = sa.select(Item), (Item.name, Item.description)
    if session.get_bind().dialect.name == "postgresql":  # its LIKE uses the trigram index
        return everything.where(sa.or_(*(c.contains(text, autoescape=True) for c in columns)))
    # SQLite's LIKE ignores case.
    matching = everything.where(sa.or_(*(sa.func.instr(c, text) > 0 for c in columns)))
    if len(text) < TRIGRAM or not sa.inspect(session.connection()).has_table(TEXT_INDEX):
        return matching
    trigrams = {text[start : start + TRIGRAM] for start in range(len(text) - TRIGRAM + 1)}
    quoted = " ".join('"{}"'.format(trigram.replace('"', '""')) for trigram in sorted(trigrams))
    # The column with the name of an FTS5 table stands for all of its columns.
    index = sa.table(TEXT_INDEX, sa.column("rowid"), sa.column(TEXT_INDEX))
    indexed = index.c[TEXT_INDEX].match(quoted)
    return matching.join(index, Item.id == index.c.rowid).where(indexed)


@cache  # of twelve: building these SELECTs would take a third of the time to list 20 items
def _list_all(sort: str, *, follows: bool) -> Selects:
    return _make_selects(sa.select(Item), sort, follows=follows)


def _make_selects(matching: sa.Select[Any], sort: str, *, follows: bool) -> Selects:
    """Return SELECTs whose rows together are those of a page, and the SELECT of the total.

    Each row is an item and the total, which counts no more than ``most``. What ``follows`` an
    item is read as ranges of an index: SQLite would use only the first column of it to compare
    pairs, (column, id) > (value, id), and took 20 ms behind 400,000 equal values.
    """
    ids = matching.with_only_columns(Item.id).limit(sa.bindparam("most")).subquery()
    count = sa.select(sa.func.count()).select_from(ids)
    columns, descending = [getattr(Item, key) for key in sort_keys(sort)], sort.startswith("-")
    page = (
        matching.add_columns(count.scalar_subquery())
        .order_by(*(column.desc() if descending else column for column in columns))
        .limit(sa.bindparam("limit"))
        .offset(sa.bindparam("offset"))
    )
    if not follows:
        return [page], count

    def is_behind(column: Any) -> Any:
        value: sa.BindParameter[Any] = sa.bindparam(column.key)
        return column < value if descending else column > value

    if len(columns) == 1:
        return [page.where(is_behind(Item.id))], count
    is_equal = columns[0] == sa.bindparam(columns[0].key)
    return [page.where(is_equal, is_behind(Item.id)), page.where(is_behind(columns[0]))], count


def seed_items(session: Session, total: int) -> int:
    """Insert sample items until there are ``total``, all or none; return how many it inserted."""
    begin_write(session)
    missing = max(0, total - (session.scalar(sa.select(sa.func.count(Item.id))) or 0))
    for first in range(1, missing + 1, SEED_BATCH):
        numbers = range(first, min(first + SEED_BATCH, missing + 1))
        rows = [{"name": f"Sample item {n}", "description": "From `flask seed`."} for n in numbers]
        session.execute(sa.insert(Item), rows)
    if missing:
        record(session, "items.seed", "items", {"count": missing})
    session.commit()
    return missing
