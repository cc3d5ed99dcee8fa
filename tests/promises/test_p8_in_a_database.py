"""P8 for a ledger in PostgreSQL: whoever can write to its tables cannot change what they say unnoticed."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from mcp_guard.storage.postgres.connection import quoted_schema
from tests.live.running_guard import Client, cli, scripted, write_config
from tests.promises.engines import PostgresSchemas, using
from tests.storage.postgres_server import server

TABLES = ("receipt", "payload", "head", "guard_key")
TAMPERING = (
    "UPDATE receipt SET body = body || ' '::bytea WHERE seq = 3",
    "UPDATE receipt SET body = other.body FROM receipt AS other WHERE receipt.seq = 3 AND other.seq = 4",
    "UPDATE receipt SET signature = decode(repeat('00', 64), 'hex') WHERE seq = 2",
    "DELETE FROM receipt WHERE seq = (SELECT max(seq) FROM receipt)",
    "UPDATE receipt SET seq = seq + 1000",
    "UPDATE payload SET request = request || 'x'::bytea WHERE request IS NOT NULL",
    "UPDATE head SET size = size - 1",
    "UPDATE head SET checkpoint = replace(checkpoint, 'e', 'f')",
    "DELETE FROM guard_key",
)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Of a guard with a ledger in a database, after some calls."""
    folder = tmp_path_factory.mktemp("database")
    with using("postgres"):
        config = write_config(folder, scripted("up", folder))
        with Client(config) as client:
            client.start()
            for number in range(3):
                client.call("up__echo", {"text": str(number)})
        yield config


def tables_of(folder: Path) -> "psycopg.Connection[Any]":
    db = psycopg.connect(server().url, autocommit=True)
    db.execute(f"SET search_path = {quoted_schema(PostgresSchemas().database(folder))}".encode())
    return db


def test_changes_to_the_rows_of_a_ledger_are_found(config: Path) -> None:
    whole = json.loads(cli("verify", "--config", str(config), "--json").stdout)
    assert (whole["ok"], whole["receipts"] > 6) == (True, True)
    with tables_of(config.parent) as db:
        for table in TABLES:
            db.execute(f"CREATE TEMPORARY TABLE kept_{table} AS TABLE {table}".encode())
        for tampering in TAMPERING:
            assert db.execute(tampering.encode()).rowcount > 0, tampering
            done = cli("verify", "--config", str(config), "--json", check=False)
            assert (done.returncode, json.loads(done.stdout)["ok"]) == (1, False), tampering
            for table in TABLES:
                db.execute(f"DELETE FROM {table}; INSERT INTO {table} SELECT * FROM kept_{table}".encode())
    assert json.loads(cli("verify", "--config", str(config), "--json").stdout)["ok"]
