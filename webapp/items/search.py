"""Which items hold a text, letter for letter: exact everywhere, quick where it is indexed.

The index of letters (``TEXT_INDEX``) only leads to candidates; their texts decide. Without it, or
for texts shorter than the trigrams that it consists of, all items are candidates.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import InstrumentedAttribute, Session

from webapp.items.models import TEXT_INDEX, Item

TRIGRAM = 3

# SQLite's table of trigrams; the column that bears its name stands for all of its columns.
_texts = sa.table(TEXT_INDEX, sa.column("rowid"), sa.column(TEXT_INDEX))


def select_items_with(
    session: Session, text: str, *columns: InstrumentedAttribute[Any]
) -> sa.Select[Any]:
    """Return the SELECT of these columns of the items whose name or description holds a text."""
    matching = sa.select(*columns).where(holds(session, (Item.name, Item.description), text))
    # PostgreSQL finds its index by itself.
    if len(text) < TRIGRAM or not _has_trigram_table(session):
        return matching
    found = _texts.join(Item, Item.id == _texts.c.rowid)
    return matching.select_from(found).where(_texts.c[TEXT_INDEX].match(_all_trigrams_of(text)))


def holds(
    session: Session,
    columns: Iterable[sa.ColumnElement[str] | InstrumentedAttribute[str]],
    text: str,
) -> sa.ColumnElement[bool]:
    """Return the condition that one of some columns holds a text, letter for letter.

    On PostgreSQL by what its index understands; SQLite's LIKE does not tell cases apart.
    """
    if session.get_bind().dialect.name == "postgresql":
        return sa.or_(*(column.contains(text, autoescape=True) for column in columns))
    return sa.or_(*(sa.func.instr(column, text) > 0 for column in columns))


def _has_trigram_table(session: Session) -> bool:
    if session.get_bind().dialect.name != "sqlite":
        return False
    named = sa.text("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = :name")
    return session.scalar(named, {"name": TEXT_INDEX}) is not None


def _all_trigrams_of(text: str) -> str:
    """Return the FTS5 query for what has all trigrams of a text, in whatever place."""
    starts = range(len(text) - TRIGRAM + 1)
    trigrams = dict.fromkeys(text[start : start + TRIGRAM] for start in starts)
    return " ".join('"{}"'.format(trigram.replace('"', '""')) for trigram in trigrams)
