"""Servers, roles and URLs that a gateway refuses: each with what to do about it, and without the password."""

import asyncio
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psycopg
import pytest

from mcp_guard.core.errors import LedgerError, LedgerFault
from mcp_guard.storage.engines import Engine, find_engine
from mcp_guard.storage.place import Database
from mcp_guard.storage.postgres.connection import ServerCheck, connect_on_loop, quoted_schema
from mcp_guard.storage.postgres.watch import ServerWatch
from mcp_guard.storage.postgres.wire import BlockingWire
from mcp_guard.storage.sql.schema import VERSION
from tests.live.http_guard import free_port
from tests.storage.pooler import Pooler
from tests.storage.postgres_server import server

PASSWORD = "s3cret"
ROLES = (
    "CREATE ROLE tests_weak LOGIN",
    "CREATE ROLE tests_limited LOGIN CONNECTION LIMIT 0",
    "CREATE ROLE tests_reader LOGIN; ALTER ROLE tests_reader SET default_transaction_read_only = on",
)


@dataclass
class Case:
    """What the URL differs in from that of the tests' server, and what is said of it."""

    message: str
    hint: str
    role: str = "guard"
    database: str = "postgres"
    port: int | None = None
    options: str = ""
    password: str = PASSWORD
    fault: LedgerFault = LedgerFault.CANNOT_OPEN

    @property
    def url(self) -> str:
        port = self.port or server().port
        return f"postgresql://{self.role}:{self.password}@127.0.0.1:{port}/{self.database}{self.options}"


CONNECT = "the address, role, password, database and sslmode of the URL"
CASES = {
    "nobody listens": Case("the database cannot be reached", CONNECT, port=free_port()),
    "no such database": Case("there is no such database", "createdb NAME", database="none"),
    "no such role": Case("the database refuses the guard's role", "role and password", role="nobody"),
    "TLS is refused": Case("server does not support SSL", CONNECT, options="?sslmode=require"),
    "may not create": Case("permission denied", "grants", role="tests_weak", fault=LedgerFault.READ_ONLY),
    "no connection left": Case('role "tests_limited"', "with its pages 16: raise", role="tests_limited"),
    "read-only role": Case("is read-only", "ALTER ROLE", role="tests_reader", fault=LedgerFault.READ_ONLY),
    "not UTF-8": Case("UTF-8", "createdb", database="tests_ascii", fault=LedgerFault.OTHER),
    "unknown option": Case(
        "cannot be read", "only options of PostgreSQL", options="?nonsense=1", fault=LedgerFault.OTHER
    ),
    "slash in the password": Case("cannot be read", "%2F", password="s3/cret", fault=LedgerFault.OTHER),
    "at sign in the password": Case("cannot be read", "%40", password="s3@cret", fault=LedgerFault.OTHER),
    "number sign in the password": Case("cannot be read", "%23", password="s3#cret", fault=LedgerFault.OTHER),
    "question mark in the password": Case("cannot be read", "%3F", password="s3?cret", fault=LedgerFault.OTHER),
}


@pytest.fixture(scope="module", autouse=True)
def roles() -> Iterator[None]:
    with psycopg.connect(server().url, autocommit=True) as connection:
        for statement in ROLES:
            connection.execute(statement.encode())
        connection.execute("CREATE DATABASE tests_ascii ENCODING 'SQL_ASCII' TEMPLATE template0")
        yield
        connection.execute("DROP ROLE tests_weak, tests_limited, tests_reader")
        connection.execute("DROP DATABASE tests_ascii")


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_server_is_refused_with_what_to_do(case: Case) -> None:
    with pytest.raises(LedgerError) as refused:
        find_engine(Database(case.url, "refused.example/ledger")).open_store(unsafe_skip_fsync=False, create=True)
    assert case.message in refused.value.full
    assert case.hint in refused.value.hint
    assert refused.value.fault is case.fault
    assert "cret" not in str(refused.value)
    assert "postgresql:" not in refused.value.message, "agents are told"


@pytest.mark.parametrize(
    ("server_has", "unsafe_skip_fsync", "session_has"),
    [("off", False, "on"), ("local", False, "on"), ("remote_apply", False, "remote_apply"), ("off", True, "off")],
)
def test_commits_wait_until_they_are_durable_however_the_server_is_set(
    server_has: str, unsafe_skip_fsync: bool, session_has: str
) -> None:
    options = f"?options=-c%20synchronous_commit%3D{server_has}"
    database = Database(server().url + options, "synced.example/ledger")
    wire = BlockingWire(database, ServerCheck(database, unsafe_skip_fsync=unsafe_skip_fsync))
    wire.connect()
    [found] = wire.exchange([("SHOW synchronous_commit", ())])
    assert found.fetchone() == (session_has,)
    wire.close()


def grant_all_that_is_documented(owner: "psycopg.Connection[object]", schema: str) -> None:
    owner.execute(f"GRANT USAGE ON SCHEMA {schema} TO tests_weak".encode())
    owner.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO tests_weak".encode())
    owner.execute(f"REVOKE UPDATE, DELETE ON {schema}.receipt FROM tests_weak".encode())


def test_role_without_the_tables_rights_is_refused() -> None:
    database = Database(server().url, "rights.example/ledger")
    engine = find_engine(database)
    engine.open_store(unsafe_skip_fsync=True, create=True).close()
    with psycopg.connect(server().url, autocommit=True) as connection:
        schema = '"mcp-guard rights.example/ledger"'
        weak = find_engine(Database(f"postgresql://tests_weak@127.0.0.1:{server().port}/postgres", database.origin))
        assert weak.exists(), "a role that may not see the tables is not told that there is no ledger"
        with pytest.raises(LedgerError, match="has no USAGE on their schema"):
            weak.open_store(unsafe_skip_fsync=True, create=True)
        grant_all_that_is_documented(connection, schema)
        connection.execute(f"REVOKE INSERT ON {schema}.payload FROM tests_weak".encode())
        with pytest.raises(LedgerError, match=r"may not do this: .*\(INSERT on payload\)") as refused:
            weak.open_store(unsafe_skip_fsync=True, create=True)
        assert refused.value.fault is LedgerFault.READ_ONLY
        assert weak.inspect(weak.format).not_writable == (refused.value.full, refused.value.hint)
        connection.execute(f"GRANT INSERT ON {schema}.payload TO tests_weak".encode())
        assert weak.inspect(weak.format).not_writable is None
        store = weak.open_store(unsafe_skip_fsync=True, create=True)
        connection.execute(f"REVOKE UPDATE ON {schema}.head FROM tests_weak".encode())
        with pytest.raises(store.failures) as failed:
            store.begin()
        explained = store.explain(failed.value)
        assert explained.fault is LedgerFault.READ_ONLY
        assert "permission denied for table head" in explained.full
        store.rollback()
        connection.execute(f"REVOKE USAGE ON SCHEMA {schema} FROM tests_weak".encode())
        with pytest.raises(store.failures) as failed:
            store.begin()
        explained = store.explain(failed.value)
        assert explained.fault is LedgerFault.NOT_A_LEDGER
        assert 'relation "head" does not exist' in explained.full
        assert "grants" in explained.hint
        store.rollback()
        store.close()
        connection.execute("DROP OWNED BY tests_weak")


async def test_role_that_may_not_write_any_more_is_noticed() -> None:
    database = Database(server().url, "noticed.example/ledger")
    find_engine(database).open_store(unsafe_skip_fsync=True, create=True).close()
    weak = Database(f"postgresql://tests_weak@127.0.0.1:{server().port}/postgres", database.origin)
    watch, schema = ServerWatch(ServerCheck(weak)), '"mcp-guard noticed.example/ledger"'
    with psycopg.connect(server().url, autocommit=True) as owner:
        owner.execute(f"GRANT USAGE ON SCHEMA {schema} TO tests_weak".encode())
        owner.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO tests_weak".encode())
        async with await connect_on_loop(weak) as connection:
            await watch.look(connection)
            with pytest.raises(LedgerError, match=r"may not do this: .* and \d+ more\)") as refused:
                watch.check()
            assert "grants" in refused.value.hint
            grant_all_that_is_documented(owner, schema)
            await watch.look(connection)
            watch.check()
            owner.execute(f"REVOKE DELETE ON {schema}.open_call FROM tests_weak".encode())
            await watch.look(connection)
            with pytest.raises(LedgerError, match=r"\(DELETE on open_call\)"):
                watch.check()
            owner.execute(f"GRANT DELETE ON {schema}.open_call TO tests_weak".encode())
            owner.execute(f"REVOKE EXECUTE ON FUNCTION {schema}.one_row FROM PUBLIC".encode())
            await watch.look(connection)
            with pytest.raises(LedgerError, match=r"may not do this: .*\(EXECUTE on one_row\)") as refused:
                watch.check()
            found = find_engine(weak).inspect(VERSION).not_writable
            assert found == (refused.value.full, refused.value.hint)
            with pytest.raises(LedgerError, match=r"\(EXECUTE on one_row\)"):
                find_engine(weak).open_store(unsafe_skip_fsync=True, create=True)
        owner.execute("DROP OWNED BY tests_weak")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("TABLE {}.granted RENAME TO elsewhere", r"the tables of the ledger cannot be found: .*\(granted\)"),
        ("FUNCTION {}.one_row RENAME TO elsewhere", r"a function of the ledger cannot .*\(function one_row\)"),
    ],
)
def test_ledger_of_which_a_part_is_missing_is_reported_and_not_opened(change: str, reason: str) -> None:
    database = Database(server().url, f"part.example/{change.split(maxsplit=1)[0]}")
    engine = find_engine(database)
    engine.open_store(unsafe_skip_fsync=True, create=True).close()
    with psycopg.connect(server().url, autocommit=True) as owner:
        owner.execute(f"ALTER {change.format(quoted_schema(database))}".encode())
    with pytest.raises(LedgerError, match=reason) as refused:
        engine.open_store(unsafe_skip_fsync=True, create=True)
    assert engine.inspect(VERSION).not_writable == (refused.value.full, refused.value.hint)


def test_documented_grants_are_enough_where_new_functions_are_granted_to_nobody() -> None:
    database = Database(server().new_database(), "hardened.example/ledger")
    with psycopg.connect(database.url, autocommit=True) as owner:
        owner.execute("ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC")
        find_engine(database).open_store(unsafe_skip_fsync=True, create=True).close()
        grant_all_that_is_documented(owner, quoted_schema(database))
        weak = Database(database.url.replace("guard@", "tests_weak@"), database.origin)
        find_engine(weak).open_store(unsafe_skip_fsync=True, create=True).close()
        assert find_engine(weak).inspect(VERSION).not_for_pages is None
        owner.execute("DROP OWNED BY tests_weak")


def test_database_that_is_read_only_is_reported() -> None:
    database = Database(server().new_database(), "reported.example/ledger")
    engine = find_engine(database)
    engine.open_store(unsafe_skip_fsync=True, create=True).close()
    assert engine.inspect(VERSION).not_writable is None
    with psycopg.connect(server().url, autocommit=True) as owner:
        name = database.url.rpartition("/")[2]
        owner.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on".encode())
    found = engine.inspect(VERSION).not_writable
    assert found is not None
    assert "is read-only for the guard's role" in found[0]


async def test_table_of_the_pages_is_made_and_its_lack_reported() -> None:
    database = Database(server().new_database(), "pages.example/ledger")
    find_engine(database).open_store(unsafe_skip_fsync=True, create=True).close()
    weak = find_engine(Database(database.url.replace("guard@", "tests_weak@"), database.origin))
    schema = quoted_schema(database)
    with psycopg.connect(database.url, autocommit=True) as owner:
        grant_all_that_is_documented(owner, schema)
        await check_items(weak)
        owner.execute(f"REVOKE INSERT ON {schema}.item FROM tests_weak".encode())
        await check_lack_of_items(weak, "(INSERT on item)")
        owner.execute(f"DROP TABLE {schema}.item".encode())
        with pytest.raises(LedgerError, match="permission denied for schema"):
            await check_items(weak)
        await check_items(find_engine(database))  # which makes it
        await check_lack_of_items(weak, "(SELECT on item, INSERT on item, UPDATE on item, DELETE on item)")
        owner.execute("DROP OWNED BY tests_weak")


async def check_items(engine: Engine) -> None:
    items = engine.open_items(Path())
    try:
        await items.check()
    finally:
        await items.close()


async def check_lack_of_items(engine: Engine, what: str) -> None:
    with pytest.raises(LedgerError, match=re.escape(what)) as refused:
        await check_items(engine)
    inspected = engine.inspect(VERSION)
    assert inspected.not_for_pages == (refused.value.full, refused.value.hint)
    assert inspected.not_writable is None, "gateways go on"


async def test_pooler_that_shares_connections_is_refused() -> None:
    """What a gateway has set for its session would hold for others, of other origins too, and theirs for it."""
    async with Pooler(server().port).running() as port:
        engine = find_engine(Database(server().url.replace(f":{server().port}/", f":{port}/"), "pooled.example/ledger"))
        for use in (partial(engine.open_store, unsafe_skip_fsync=False, create=True), engine.exists):
            with pytest.raises(LedgerError, match=r"a pooler in front of the database .* share") as refused:
                await asyncio.to_thread(use)
            assert "pool_mode = session" in refused.value.hint
            assert refused.value.fault is not LedgerFault.CANNOT_OPEN, "waiting changes nothing"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:p@db.example:5433/guard", "postgresql://db.example:5433/guard (o)"),
        (
            "postgresql://u:p@a.example,b.example:5433/guard?sslmode=prefer",
            "postgresql://a.example,b.example:5433/guard (o)",
        ),
        ("postgresql:///guard", "postgresql://localhost/guard (o)"),
        ("postgresql://u:p@[::1]:5433/guard", "postgresql://[::1]:5433/guard (o)"),
        ("postgresql://u:p@/guard?host=/run/postgresql&password=secret", "postgresql://localhost/guard (o)"),
    ],
)
def test_database_is_shown_without_its_password(url: str, shown: str) -> None:
    assert str(Database(url, "o")) == shown
    find_engine(Database(url, "o"))


@pytest.mark.parametrize(
    "url",
    [
        "host=db.example dbname=guard password=s3cret",
        "db.example/guard?password=s3cret",
        "guard:s3cret@db.example/guard",
        "file:///var/lib/guard",
        "",
    ],
)
def test_text_that_is_no_url_of_a_database_is_refused_without_showing_it(url: str) -> None:
    database = Database(url, "o")
    with pytest.raises(LedgerError) as refused:
        find_engine(database)
    assert refused.value.hint == "give a URL: postgresql://ROLE:PASSWORD@HOST:PORT/DATABASE"
    assert "cret" not in f"{refused.value}{database}"
