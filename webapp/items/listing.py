"""Pages of items: any page, order and search, of a million in about the time of the first page.

- How many items there are is a sum over blocks of ids, which triggers keep (``ItemBlock``).
- A page is found in the index of its order, from the nearer end; by id, from its block on. Only
  the page's own rows are read from the table.
- A page that reads on from a place, where another page ended, begins at that place in the index.
- A search asks first whether it finds few items. Few are sorted and counted. Many are not
  counted: they are met soon on the way along the order's index, or else all sorted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy.orm import InstrumentedAttribute, Session

from webapp.database import Page, begin_read, begin_snapshot
from webapp.items.models import Item, ItemBlock
from webapp.items.search import holds, select_items_with
from webapp.items.service import count_items

MOST_COUNTED = (
    1_000  # finds of a search: more are not counted, which would take longer than all else
)
NEAR = 1_000  # items before a window that are simply passed over
LONGEST_WAY = 20_000  # entries of an index that are read to meet a page of finds

Place: TypeAlias = Sequence[Any]
"""Where an item stands in an order: the values of the order's columns."""


@dataclass(frozen=True)
class Order:
    """One of ``SORTS``: a column, then the id for what is equal by it, both ways alike."""

    sort: str

    @property
    def descending(self) -> bool:
        """Say whether it begins with the greatest."""
        return self.sort.startswith("-")

    @cached_property
    def columns(self) -> tuple[InstrumentedAttribute[Any], ...]:
        """What is compared, the first column first."""
        return tuple(dict.fromkeys((getattr(Item, self.sort.removeprefix("-")), Item.id)))

    def by(self, columns: Any, *, backwards: bool = False) -> list[sa.ColumnElement[Any]]:
        """Return the ORDER BY for these columns, named as ours; ``backwards`` for its reverse."""
        own = [getattr(columns, column.key) for column in self.columns]
        return [c.desc() if self.descending != backwards else c.asc() for c in own]

    def place_of(self, item: Item) -> Place:
        """Return the place of an item."""
        return [getattr(item, column.key) for column in self.columns]

    def beyond(self, place: Place, columns: Any = Item) -> list[list[sa.ColumnElement[bool]]]:
        """Return the conditions for what follows a place, as ranges, the nearest first.

        One range for each column that may be the first to differ: each is one stretch of the
        index, which SQLite does not see in a comparison of rows.
        """
        own = [getattr(columns, column.key) for column in self.columns]
        ranges = []
        for count in reversed(range(len(own))):
            equal = [c == v for c, v in zip(own[:count], place[:count], strict=True)]
            column, value = own[count], place[count]
            ranges.append([*equal, column < value if self.descending else column > value])
        return ranges


def list_items(
    session: Session, *, page: int, page_size: int, q: str, sort: str, after: Place | None = None
) -> Page[Item]:
    """Return one page of the items that contain the text ``q``.

    ``sort`` is one of ``SORTS``; items that are equal by it stand in the order of their ids, so
    that pages never overlap. With ``after``, the place where another page ended, the page holds
    what follows there, and ``page`` is merely its number. The total is None for a search that
    finds more than ``MOST_COUNTED``.
    """
    order, window = Order(sort), _Window((page - 1) * page_size, page_size + 1, after)
    total: int | None
    if q:
        begin_snapshot(session)
        total, items = _search(session, order, q, window)
    elif after is not None or window.offset <= NEAR:
        begin_read(session)
        total, items = _fetch_and_count(session, order, window)
    else:
        begin_snapshot(session)
        total = count_items(session)
        items = _fetch(session, order, _choose(session, order, total, window))
    objects, more = items[:page_size], len(items) > page_size
    end = [sort, *order.place_of(objects[-1])] if more else None
    return Page(objects, number=page, size=page_size, total=total, more=more, end=end)


@dataclass(frozen=True)
class _Window:
    """The rows of an order that are wanted: the page's, and one to see whether more follow."""

    offset: int  # from the beginning of the order; counts only without a place
    limit: int
    after: Place | None

    def apply(self, ordered: sa.Select[Any]) -> sa.Select[Any]:
        """Return the SELECT of these rows only, of one that begins at the place."""
        return ordered.limit(self.limit).offset(self.offset if self.after is None else None)


def _fetch(session: Session, order: Order, ids: sa.Select[int] | Sequence[int]) -> Sequence[Item]:
    return session.scalars(sa.select(Item).where(Item.id.in_(ids)).order_by(*order.by(Item))).all()


def _fetch_and_count(
    session: Session, order: Order, window: _Window
) -> tuple[int, Sequence[Item]]:
    """Return how many items there are, and those of a window near its beginning: one query."""
    if window.after is None:
        wanted, values = _near_beginning(order), {"rows": window.limit, "passed": window.offset}
    else:
        on = _read_on(session, order, window)
        wanted, values = _with_count(order).where(Item.id.in_(on)), {}
    rows = session.execute(wanted, values).all()
    return int(rows[0][1]) if rows else count_items(session), [row[0] for row in rows]


def _with_count(order: Order) -> sa.Select[Any]:
    """Return the SELECT of all items in an order, each with how many there are."""
    total = sa.select(sa.func.sum(ItemBlock.items)).scalar_subquery()
    return sa.select(Item, total).order_by(*order.by(Item))


@cache  # of as many as there are orders; most lists are this one
def _near_beginning(order: Order) -> sa.Select[Any]:
    return _with_count(order).limit(sa.bindparam("rows")).offset(sa.bindparam("passed"))


def _choose(session: Session, order: Order, total: int, window: _Window) -> sa.Select[int]:
    """Return the SELECT of the ids of a window of all items."""
    offset = min(window.offset, total)
    limit = min(window.limit, total - offset)
    behind = total - offset - limit
    if min(offset, behind) > ItemBlock.SIZE and order.columns == (Item.id,):
        return _read_block(session, behind if order.descending else offset, limit)
    backwards = behind < offset
    ordered = sa.select(Item.id).order_by(*order.by(Item, backwards=backwards))
    return ordered.offset(min(offset, behind)).limit(limit)


def _read_block(session: Session, position: int, limit: int) -> sa.Select[int]:
    """Return the SELECT of the ids from a position on, counted from 0 by id."""
    items = sa.cast(sa.func.sum(ItemBlock.items), sa.BigInteger)
    until = sa.cast(sa.func.sum(items).over(order_by=ItemBlock.block), sa.BigInteger)
    blocks = (
        sa.select(ItemBlock.block, until.label("until"), (until - items).label("before"))
        .group_by(ItemBlock.block)
        .subquery()
    )
    block, before = session.execute(
        sa.select(blocks.c.block, blocks.c.before)
        .where(blocks.c.until > position)
        .order_by(blocks.c.block)
        .limit(1)
    ).one()
    from_block_on = sa.select(Item.id).where(Item.id >= block * ItemBlock.SIZE)
    return from_block_on.order_by(Item.id).offset(position - before).limit(limit)


def _read_on(session: Session, order: Order, window: _Window, text: str = "") -> sa.Select[int]:
    """Return the SELECT of the ids of a window, met on the way along the order's index.

    With a text, of those that hold it among the next ``LONGEST_WAY`` items.
    """
    stretches = [[]] if window.after is None else order.beyond(window.after)
    parts, reached = [], list[sa.ColumnElement[bool]]()
    for conditions in stretches:
        stretch = sa.select(*order.columns).where(*conditions)
        part = stretch.where(*reached).order_by(*order.by(Item))
        if text:
            part = _keep_near(session, part, text)
            # What follows a stretch that is longer than the way is not reached.
            further = stretch.offset(LONGEST_WAY).limit(1).correlate(None)
            reached.append(~further.exists())
        parts.append(sa.select(window.apply(part).subquery()))
    met = sa.union_all(*parts).subquery()
    return sa.select(met.c.id).order_by(*order.by(met.c)).limit(window.limit)


def _keep_near(session: Session, ordered: sa.Select[Any], text: str) -> sa.Select[Any]:
    """Return the SELECT of those that hold a text among the first ``LONGEST_WAY``."""
    texts = (Item.name.label("its_name"), Item.description.label("its_description"))
    near = ordered.add_columns(*texts).limit(LONGEST_WAY).subquery()
    # No order here: both databases pass on what they read as they read it. Told to sort, SQLite
    # would first read all that is near, and not stop where the page is full.
    columns = [column for column in near.c if not column.key.startswith("its_")]
    return sa.select(*columns).where(
        holds(session, (near.c.its_name, near.c.its_description), text)
    )


def _search(
    session: Session, order: Order, text: str, window: _Window
) -> tuple[int | None, Sequence[Item]]:
    """Return how many items hold a text, None for many, and those of a window."""
    found = select_items_with(session, text, *order.columns)
    few = found.limit(MOST_COUNTED + 1).subquery()
    counted = sa.select(few, sa.func.count().over().label("total")).subquery()
    rows = session.execute(_sort(order, window, counted).add_columns(counted.c.total)).all()
    # A window that holds none does not say how many there are.
    total = rows[0].total if rows else session.scalar(sa.select(sa.func.count(few.c.id))) or 0
    if total <= MOST_COUNTED:
        return total, _fetch(session, order, [row.id for row in rows])
    items = _fetch(session, order, _read_on(session, order, window, text))
    if len(items) < window.limit:  # they are rare where the order begins
        items = _fetch(session, order, _sort(order, window, found.subquery()))
    return None, items


def _sort(order: Order, window: _Window, found: sa.Subquery) -> sa.Select[int]:
    """Return the SELECT of the ids of a window of what a search finds."""
    ordered = sa.select(found.c.id).order_by(*order.by(found.c))
    if window.after is not None:
        ranges = order.beyond(window.after, found.c)
        ordered = ordered.where(sa.or_(*(sa.and_(*conditions) for conditions in ranges)))
    return window.apply(ordered)
