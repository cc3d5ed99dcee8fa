"""Writes the ledger of a database to a SQLite file, without the guard's own code that reads databases."""

import sqlite3
from contextlib import closing
from pathlib import Path

import psycopg
from psycopg import sql

from mcp_guard.storage.place import Database
from mcp_guard.storage.postgres.connection import schema_of
from mcp_guard.storage.sqlite.store import open_store


def write_as_file(database: Database, path: Path) -> Path:
    """The same rows in the tables of a file, of one snapshot, for the verifier and other readers of files."""
    path.unlink(missing_ok=True)
    open_store(path, unsafe_skip_fsync=True).close()
    schema = schema_of(database)
    with closing(sqlite3.connect(path, isolation_level=None)) as file, psycopg.connect(database.url) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        file.execute("BEGIN")
        for (table,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            columns = [row[1] for row in file.execute(f"PRAGMA table_info({table})")]
            names = sql.SQL(", ").join(map(sql.Identifier, columns))
            rows = connection.execute(sql.SQL("SELECT {} FROM {}").format(names, sql.Identifier(schema, table)))
            file.execute(f"DELETE FROM {table}")
            marks = ", ".join("?" * len(columns))
            file.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", rows)
        file.execute("COMMIT")
    return path
