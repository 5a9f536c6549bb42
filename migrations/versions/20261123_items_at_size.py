"""Items by the million: counts by block of ids, indexes of whole orders, an index of letters.

Revision ID: b7e2d4f18a35
Revises: 6c0f4e7a91d2
Create Date: 2026-11-23 02:05:00
"""

import sqlalchemy as sa
from alembic import context, op

revision = "b7e2d4f18a35"
down_revision = "6c0f4e7a91d2"
branch_labels = None
depends_on = None

BigInt = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

# The triggers keep `item_block` right within the transaction that changes `item`. On PostgreSQL
# one row for each block would make all who create queue for it until the one before has
# committed: each backend counts in one of several slots. A statement counts all its rows at once,
# in the order of the blocks, so that no two statements can wait for each other.
ADD = """
INSERT INTO item_block (block, slot, items)
SELECT id / 8192, pg_backend_pid() % 16, {sign} count(*) FROM changed GROUP BY 1 ORDER BY 1
ON CONFLICT (block, slot) DO UPDATE SET items = item_block.items + excluded.items
"""
POSTGRESQL_FUNCTIONS = {
    "item_count_inserted": ADD.format(sign=""),
    "item_count_deleted": ADD.format(sign="-"),
    "item_count_none": "DELETE FROM item_block",
}
POSTGRESQL_TRIGGERS = (
    "CREATE TRIGGER item_inserted AFTER INSERT ON item REFERENCING NEW TABLE AS changed "
    "FOR EACH STATEMENT EXECUTE FUNCTION item_count_inserted()",
    "CREATE TRIGGER item_deleted AFTER DELETE ON item REFERENCING OLD TABLE AS changed "
    "FOR EACH STATEMENT EXECUTE FUNCTION item_count_deleted()",
    "CREATE TRIGGER item_truncated AFTER TRUNCATE ON item "
    "FOR EACH STATEMENT EXECUTE FUNCTION item_count_none()",
)
# Where the server has no pg_trgm, or the role may not create it, searches read all items.
POSTGRESQL_TEXT_INDEX = """
DO $$ BEGIN
  CREATE EXTENSION IF NOT EXISTS pg_trgm;
  CREATE INDEX item_text ON item USING gin (name gin_trgm_ops, description gin_trgm_ops);
EXCEPTION WHEN feature_not_supported OR undefined_file OR undefined_object
    OR insufficient_privilege THEN
  RAISE NOTICE 'no pg_trgm: searches will read all items';
END $$
"""

SQLITE_TRIGGERS = {
    "item_inserted": """AFTER INSERT ON item BEGIN
        INSERT INTO item_block (block, slot, items) VALUES (new.id / 8192, 0, 1)
        ON CONFLICT (block, slot) DO UPDATE SET items = items + 1; END""",
    "item_deleted": """AFTER DELETE ON item BEGIN
        UPDATE item_block SET items = items - 1 WHERE block = old.id / 8192 AND slot = 0; END""",
}
# Which items hold which three letters; not where, which would double it. Who searches looks at
# the texts of what is found.
SQLITE_TEXT_INDEX = """
CREATE VIRTUAL TABLE item_text USING fts5(
    name, description, content='item', content_rowid='id',
    tokenize='trigram case_sensitive 1', detail='none')
"""
ADD_TEXT = (
    "INSERT INTO item_text (rowid, name, description) VALUES (new.id, new.name, new.description)"
)
DROP_TEXT = (
    "INSERT INTO item_text (item_text, rowid, name, description) "
    "VALUES ('delete', old.id, old.name, old.description)"
)
SQLITE_TEXT_TRIGGERS = {
    "item_text_inserted": f"AFTER INSERT ON item BEGIN {ADD_TEXT}; END",
    "item_text_deleted": f"AFTER DELETE ON item BEGIN {DROP_TEXT}; END",
    "item_text_updated": "AFTER UPDATE OF name, description ON item BEGIN "
    f"{DROP_TEXT}; {ADD_TEXT}; END",
}


def upgrade():
    for key in ("created_at", "name"):
        op.drop_index(f"ix_item_{key}", "item")
        op.create_index(f"ix_item_{key}_id", "item", [key, "id"])
    create_blocks()
    if op.get_context().dialect.name == "postgresql":
        op.execute(POSTGRESQL_TEXT_INDEX)
    elif has_trigrams():
        op.execute(SQLITE_TEXT_INDEX)
        op.execute("INSERT INTO item_text (item_text) VALUES ('rebuild')")
        create_sqlite_triggers(SQLITE_TEXT_TRIGGERS)


def create_blocks():
    """Create the table of counts and the triggers that keep it; count what is there."""
    op.create_table(
        "item_block",
        sa.Column("block", BigInt, autoincrement=False, nullable=False),
        sa.Column("slot", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("items", BigInt, nullable=False),
        sa.PrimaryKeyConstraint("block", "slot", name="pk_item_block"),
    )
    if op.get_context().dialect.name == "postgresql":
        for name, statement in POSTGRESQL_FUNCTIONS.items():
            op.execute(
                f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS "
                f"$$ BEGIN {statement}; RETURN NULL; END $$"
            )
        # The first trigger locks out who would write: what is counted then stays as it is.
        for statement in POSTGRESQL_TRIGGERS:
            op.execute(statement)
    else:
        create_sqlite_triggers(SQLITE_TRIGGERS)
    op.execute(
        "INSERT INTO item_block (block, slot, items) "
        "SELECT id / 8192, 0, count(*) FROM item GROUP BY 1"
    )


def create_sqlite_triggers(triggers):
    for name, body in triggers.items():
        op.execute(f"CREATE TRIGGER {name} {body}")


def has_trigrams():
    """Say whether this SQLite can index trigrams: from 3.34 on, unless built without FTS5."""
    if context.is_offline_mode():
        return True
    connection = op.get_bind()
    modules = connection.execute(sa.text("SELECT name FROM pragma_module_list"))
    version = connection.dialect.dbapi.sqlite_version_info
    return version >= (3, 34) and "fts5" in modules.scalars().all()


def drop_blocks():
    """Drop the table of counts and the triggers that keep it."""
    if op.get_context().dialect.name == "postgresql":
        for trigger in ("item_inserted", "item_deleted", "item_truncated"):
            op.execute(f"DROP TRIGGER {trigger} ON item")
        for function in POSTGRESQL_FUNCTIONS:
            op.execute(f"DROP FUNCTION {function}()")
    else:
        for trigger in SQLITE_TRIGGERS:
            op.execute(f"DROP TRIGGER {trigger}")
    op.drop_table("item_block")


def downgrade():
    if op.get_context().dialect.name == "postgresql":
        # The extension stays: others may use it by now.
        op.execute("DROP INDEX IF EXISTS item_text")
    else:
        for trigger in SQLITE_TEXT_TRIGGERS:
            op.execute(f"DROP TRIGGER IF EXISTS {trigger}")
        op.execute("DROP TABLE IF EXISTS item_text")
    drop_blocks()
    for key in ("created_at", "name"):
        op.drop_index(f"ix_item_{key}_id", "item")
        op.create_index(f"ix_item_{key}", "item", [key])
