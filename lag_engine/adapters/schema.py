"""The manifest's tables, and how those of an older format become the present ones."""

from __future__ import annotations

import sqlite3

FORMAT_VERSION = 2
FAMILIES_VERSION = 3
"""Of a library whose segments hold families, from the first of them on; the tables are the same."""
READABLE = frozenset({1, FORMAT_VERSION, FAMILIES_VERSION})
"""Format 1 had neither latent adapters nor mixtures; it is read as it is."""

_ADAPTERS = """
CREATE TABLE adapters (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('task', 'knowledge', 'latent')),
    document_id TEXT,
    segment INTEGER NOT NULL REFERENCES segments (id),
    position INTEGER NOT NULL,
    layout INTEGER NOT NULL REFERENCES layouts (id),
    n_bytes INTEGER NOT NULL,
    source TEXT NOT NULL,
    base_model TEXT,
    sha256 TEXT NOT NULL,
    metadata TEXT NOT NULL,
    created TEXT NOT NULL,
    is_removed INTEGER NOT NULL DEFAULT 0
)
"""
_NAMES = "CREATE UNIQUE INDEX live_names ON adapters (name) WHERE NOT is_removed"
# Kept small: a collection has one row a passage. `created` is in seconds since 1970.
_MIXTURES = """
CREATE TABLE mixtures (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    document_id TEXT,
    weights BLOB NOT NULL,
    metadata TEXT NOT NULL,
    created INTEGER NOT NULL
)
"""
SCHEMA = (
    "CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    """
CREATE TABLE base_modules (
    module TEXT PRIMARY KEY,
    d_in INTEGER NOT NULL,
    d_out INTEGER NOT NULL,
    transposed INTEGER NOT NULL
)
""",
    """
CREATE TABLE segments (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    file TEXT NOT NULL UNIQUE,
    sha256 TEXT NOT NULL,
    n_bytes INTEGER NOT NULL
)
""",
    "CREATE TABLE layouts (id INTEGER PRIMARY KEY, modules TEXT NOT NULL UNIQUE)",
    _ADAPTERS,
    _NAMES,
    _MIXTURES,
)

LIVE_ADAPTERS = """
SELECT id, name, kind, document_id, segment, position, layout, n_bytes, source, base_model, sha256,
    metadata, created
FROM adapters WHERE NOT is_removed ORDER BY id
"""
LIVE_MIXTURES = """
SELECT id, name, document_id, weights, metadata, created FROM mixtures ORDER BY id
"""
# Adapters and mixtures count their ids together, so that all have one order of joining.
NEXT_ID = """
SELECT COALESCE(MAX(seq), 0) + 1 FROM sqlite_sequence WHERE name IN ('adapters', 'mixtures')
"""
INSERT_ADAPTER = """
INSERT INTO adapters (id, name, kind, document_id, segment, position, layout, n_bytes, source,
    base_model, sha256, metadata, created)
VALUES (:id, :name, :kind, :document_id, :segment, :position, :layout, :n_bytes, :source,
    :base_model, :sha256, :metadata, :created)
"""
INSERT_MIXTURE = """
INSERT INTO mixtures (id, name, document_id, weights, metadata, created)
VALUES (:id, :name, :document_id, :weights, :metadata, :created)
"""


def create_tables(db: sqlite3.Connection) -> None:
    """Makes the tables of the present format; leaves the transaction to be committed."""
    db.execute("BEGIN")
    for statement in SCHEMA:
        db.execute(statement)
    db.execute(f"PRAGMA user_version = {FORMAT_VERSION}")


def upgrade_tables(db: sqlite3.Connection) -> None:
    """Brings format 1 to format 2; inside a transaction, so that it is whole or not at all."""
    [last_id] = db.execute(
        "SELECT COALESCE(MAX(seq), 0) FROM sqlite_sequence WHERE name = 'adapters'"
    ).fetchone()
    db.execute("DROP INDEX live_names")
    db.execute("ALTER TABLE adapters RENAME TO adapters_of_format_1")
    db.execute(_ADAPTERS)
    db.execute("INSERT INTO adapters SELECT * FROM adapters_of_format_1")
    db.execute("DROP TABLE adapters_of_format_1")
    db.execute(_NAMES)
    db.execute(_MIXTURES)
    # Ids are never given twice, those of adapters that are gone included.
    db.execute("DELETE FROM sqlite_sequence WHERE name = 'adapters'")
    db.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('adapters', ?)", (last_id,))
    db.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
