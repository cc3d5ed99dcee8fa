"""`mcp-guard ledger copy`, as people see it: whole and verified, or not there."""

import re
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from mcp_guard.files import FileLock
from mcp_guard.ledger.migration import migrate
from mcp_guard.ledger.place import FILE
from mcp_guard.storage.copying import copy_ledger
from mcp_guard.storage.engines import find_engine
from mcp_guard.storage.place import Database
from tests.kill_points import killed_at
from tests.ledger.older_ledger import ORIGIN_4, unpack
from tests.live.running_guard import cli, write_config, write_private
from tests.promises.harness import Clock
from tests.storage.postgres_server import server


@dataclass(frozen=True)
class Guard:
    """A guard with a ledger in a file, and an empty database that the file `url` names."""

    config: Path
    ledger: Path
    database: Database

    def copy(self, *words: str, check: bool = False) -> tuple[int, str, str]:
        done = cli("ledger", "copy", *words, "--config", str(self.config), check=check)
        return done.returncode, done.stdout, done.stderr


@pytest.fixture
def guard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Guard:
    settings, clock = unpack(tmp_path), Clock()
    clock.time = 4_000_000_000_000_000
    migrate(settings, clock, settings.place, "operator test")
    url = server().new_database()
    write_private(tmp_path / "url", url)
    monkeypatch.chdir(tmp_path)
    config = write_config(tmp_path, "", guard=f'origin = "{ORIGIN_4}"')
    return Guard(config, settings.state_dir / FILE, Database(url, ORIGIN_4))


def exists(guard: Guard) -> bool:
    return find_engine(guard.database).exists()


def test_copy_says_what_it_did_and_what_comes_next(guard: Guard) -> None:
    before = guard.ledger.read_bytes()
    code, output, errors = guard.copy("--to", "file:url")
    assert (code, errors) == (0, "")
    assert output.splitlines()[0] == (
        f"copied 63 receipts from `{guard.ledger}` to `{guard.database}`, and verified the copy"
    )
    assert f"mv {guard.ledger} {guard.ledger}.unused" in output
    assert guard.ledger.read_bytes() == before
    code, output, errors = guard.copy("--to", "file:url")
    assert (code, output) == (5, "")
    assert f"there is a ledger already: `{guard.database}`" in errors
    assert 'ALTER SCHEMA "mcp-guard test.example/format-4" RENAME TO unused' in errors


def test_configured_database_is_the_default(guard: Guard) -> None:
    with guard.config.open("a") as file:
        file.write('\n[ledger]\ndatabase = { file = "url" }\n')
    code, _, errors = guard.copy()
    assert (code, "name the file to copy: --ledger FILE" in errors) == (3, True)
    code, output, _ = guard.copy("--ledger", str(guard.ledger))
    assert (code, "[ledger]" in output, exists(guard)) == (0, False, True)


@pytest.mark.parametrize(
    ("to", "error"),
    [
        ("", "is not the URL of a database"),
        ("copy.sqlite", "is not the URL of a database"),
        ("mysql://host/db", "is not the URL of a database"),
        ("env:NO_SUCH_VARIABLE", "environment variable `NO_SUCH_VARIABLE` is not set"),
        ("file:no-such-file", "cannot read `no-such-file`"),
        ("postgresql://guard:hunter2@127.0.0.1:1/db", "the database cannot be reached"),
        (None, "no database is named"),
    ],
)
def test_wrong_target_is_refused_without_its_password(guard: Guard, to: str | None, error: str) -> None:
    code, output, errors = guard.copy(*(() if to is None else ("--to", to)))
    assert code in (3, 5)
    assert (output, "hunter2" in errors, error in errors, "hint: " in errors) == ("", False, True, True)


def test_password_on_the_command_line_is_warned_of(guard: Guard) -> None:
    url = guard.database.url.replace("guard@", "guard:hunter2@")
    code, _, errors = guard.copy("--to", url)
    assert (code, "others can see the password" in errors, "hunter2" in errors) == (0, True, False)


def test_nothing_is_copied_while_a_guard_runs(guard: Guard) -> None:
    locks = guard.ledger.parent / "guards"
    locks.mkdir()
    with FileLock(locks / "guard_x.lock"):
        code, _, errors = guard.copy("--to", "file:url")
    assert (code, "a guard is using" in errors, exists(guard)) == (5, True, False)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("UPDATE receipt SET signature = zeroblob(64) WHERE seq = 40", "receipt 40: "),
        ("DELETE FROM payload WHERE seq = 49", "receipt 49: its payload"),
        ("UPDATE head SET key = 'other+00000000+AAAA'", ""),
    ],
)
def test_copy_that_does_not_verify_is_not_there(guard: Guard, change: str, problem: str) -> None:
    with closing(sqlite3.connect(guard.ledger)) as db, db:
        db.execute(change)
    code, output, errors = guard.copy("--to", "file:url")
    assert (code, output, exists(guard)) == (5, "", False)
    assert not problem or re.search(f"the copy does not verify, and was not kept: {problem}", errors)


def test_killed_copy_is_not_there_and_can_be_repeated(guard: Guard) -> None:
    assert killed_at(0, lambda at: copy_ledger(guard.ledger, guard.database, check=lambda _: at("before commit")))
    assert not exists(guard)
    assert guard.copy("--to", "file:url")[0] == 0
