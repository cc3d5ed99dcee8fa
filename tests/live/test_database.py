"""A guard whose ledger is in PostgreSQL: the real command over a real database."""

from pathlib import Path

import psycopg
import pytest

from mcp_guard.storage.engines import open_read_only
from mcp_guard.storage.place import Database
from mcp_guard.storage.postgres.connection import quoted_schema
from tests.live.http_guard import free_port
from tests.live.preloaded_cli import PIPE, Forked
from tests.live.running_guard import Client, cli, scripted, seen, text, write_config
from tests.storage.postgres_server import server

ORIGIN = "live.example/ledger"
LEDGER = '[ledger]\ndatabase = { env = "DATABASE_URL" }'


def configure(folder: Path, guard: str = f'origin = "{ORIGIN}"') -> Path:
    return write_config(folder, scripted("s", folder), guard=guard, more=LEDGER)


def test_calls_of_a_guard_are_in_the_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", server().url)
    with Client(config := configure(tmp_path)) as client:
        client.start()
        assert "hello" in text(client.call("s__echo", {"text": "hello"}))
    assert client.stderr.splitlines() == [
        f"mcp-guard: started a new ledger: `postgresql://127.0.0.1:{server().port}/postgres ({ORIGIN})`",
        "mcp-guard: hint: to continue an earlier one, set ledger.database and guard.origin as they were",
    ]
    assert len(seen(tmp_path, "s")) == 1
    assert not (tmp_path / "state" / "ledger.sqlite").exists()
    with open_read_only(Database(server().url, ORIGIN)) as store:
        kinds = [row.kind for row in store.receipts_after(-1)]
    assert [kind for kind in kinds if kind in ("intent", "outcome")] == ["intent", "outcome"]
    assert kinds[-1] == "guard.stopped"
    public = tmp_path / "state" / "ledger.pub"
    public.unlink()  # as in a container that has the private key and nothing else
    cli("verify", "--config", str(config))
    (tmp_path / "state" / "ledger.key").unlink()
    public.unlink()
    assert "cannot read the public key" in cli("verify", "--config", str(config), check=False).stderr


def test_a_guard_without_the_url_says_which_variable_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    with Client(configure(tmp_path)) as client:
        assert client.process.wait(30) != 0
    assert client.stderr.startswith("mcp-guard: environment variable `DATABASE_URL` is not set")


def test_pages_of_a_role_that_lacks_their_table_say_that_nobody_can_sign_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server().new_database()
    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.setenv("SHARED_SECRET", "s" * 40)
    config, schema = configure(tmp_path), quoted_schema(Database(url, ORIGIN))
    with config.open("a") as file:
        file.write(f'\nshared_secret = {{ env = "SHARED_SECRET" }}\n[inbox]\nport = {free_port()}\n')
    with Client(config) as client:
        client.start()
    with psycopg.connect(url, autocommit=True) as owner:
        owner.execute("CREATE ROLE tests_pages LOGIN")
        owner.execute(f"GRANT USAGE ON SCHEMA {schema} TO tests_pages".encode())
        owner.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO tests_pages".encode())
        owner.execute(f"REVOKE ALL ON {schema}.item FROM tests_pages".encode())
        monkeypatch.setenv("DATABASE_URL", url.replace("guard@", "tests_pages@"))
        pages = Forked(["inbox", "--config", str(config)], stdout=PIPE, stderr=PIPE, text=True)
        assert pages.stdout is not None
        assert pages.stderr is not None
        with pages.stdout, pages.stderr:
            assert "the inbox is at" in pages.stdout.readline()
            pages.terminate()
            said = pages.stderr.read()
            pages.wait(30)
        assert "nobody can sign in to the pages: the guard's role may not do this" in said
        assert "(SELECT on item, INSERT on item, UPDATE on item, DELETE on item)" in said
        owner.execute("DROP OWNED BY tests_pages; DROP ROLE tests_pages")
