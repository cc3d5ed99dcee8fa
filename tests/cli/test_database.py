"""Commands say the same of a ledger in a database as of the same one in a file."""

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from mcp_guard.config import load
from mcp_guard.ledger.open import ledger_settings
from mcp_guard.ledger.place import ledger_place
from mcp_guard.storage.copying import copy_ledger
from mcp_guard.storage.engines import find_engine
from mcp_guard.storage.place import Database
from tests.cli.conftest import Past
from tests.live.running_guard import cli, write_private
from tests.storage.postgres_server import server

READING = [
    ("log", "--last", "100"),
    ("log", "--json"),
    ("log", "--agent", "tester", "--kind", "outcome"),
    ("show", "CALL", "--json"),
    ("show", "CALL"),
    ("status",),
    ("status", "--json"),
    ("verify", "--workers", "2"),
    ("verify", "--json", "--from", "3", "--to", "9"),
    ("verify", "--json", "--receipt", "4"),
    ("agents", "list"),
    ("instances", "list", "--json"),
    ("approvals", "list", "--all"),
    ("approvals", "show", "APPROVAL"),
    ("approvers", "list"),
    ("tools", "list"),
    ("keys", "list", "--json"),
    ("ledger", "prove", "5", "--payloads"),
    ("ledger", "events", "--format", "ocsf"),
    ("ledger", "forget", "--call", "CALL", "--reason", "x", "--dry-run"),
    ("policy", "suggest"),
    ("policy", "validate"),
    ("policy", "replay", "--candidate", "POLICIES"),
]
"""Commands with words for what is in the ledger."""
OF_FILES = ("disk", "sync", "ledger", "integrity")
"""Checks of `doctor` that differ by where the ledger is."""


@dataclass(frozen=True)
class Copies:
    """Two configurations of the same ledger and the same files beside it."""

    in_file: Path
    in_database: Path
    words: Mapping[str, str]

    def said(self, words: tuple[str, ...], config: Path) -> tuple[int, str, str]:
        """What a command prints, without what differs between two ledgers or two times."""
        done = cli(*(self.words.get(word, word) for word in words), "--config", str(config), check=False)
        place = str(ledger_settings(load(config)).place)
        texts = (text.replace(place, "LEDGER").replace(str(config), "CONFIG") for text in (done.stdout, done.stderr))
        output, errors = (re.sub(r"\d+ min \d+ s|[\d.]+ MiB|\"bytes\": \d+", "", text) for text in texts)
        return done.returncode, output, errors


@pytest.fixture(scope="module")
def copies(past: Past, tmp_path_factory: pytest.TempPathFactory) -> Copies:
    folder = tmp_path_factory.mktemp("copies") / "of"
    shutil.copytree(past.config.parent, folder, ignore=shutil.ignore_patterns("guards", "ledger.sqlite*"))
    config, settings = folder / past.config.name, load(past.config)
    copy_ledger(ledger_place(settings), ledger_place(load(config)))
    copy_ledger(ledger_place(settings), Database(server().url, settings.origin))
    write_private(folder / "url", server().url)
    other = folder / "database.toml"
    other.write_text(config.read_text() + '\n[ledger]\ndatabase = { file = "url" }\n')
    shutil.copystat(config, other)
    call = json.loads(cli("log", "--config", str(config), "--kind", "intent", "--json").stdout)[0]["call"]
    known = {"CALL": call, "APPROVAL": past.approved, "POLICIES": str(folder / "policies")}
    cli("verify", "--config", str(config))
    return Copies(config, other, known)


@pytest.mark.parametrize("words", READING, ids=" ".join)
def test_command_says_the_same_of_a_ledger_in_a_database(copies: Copies, words: tuple[str, ...]) -> None:
    code, output, errors = copies.said(words, copies.in_file)
    assert output, "a command that prints nothing proves nothing"
    assert copies.said(words, copies.in_database) == (code, output, errors)


def test_export_of_a_database_is_that_of_the_file(copies: Copies, tmp_path: Path) -> None:
    for name, config in (("file", copies.in_file), ("database", copies.in_database)):
        cli("ledger", "export", str(tmp_path / name), "--payloads", "--config", str(config))
    files = [path.relative_to(tmp_path / "file") for path in (tmp_path / "file").rglob("*") if path.is_file()]
    assert len(files) > 5
    for file in files:
        assert (tmp_path / "database" / file).read_bytes() == (tmp_path / "file" / file).read_bytes()


def test_doctor_finds_the_same_in_a_database_and_names_the_file_that_is_not_used(copies: Copies) -> None:
    found = [copies.said(("doctor", "--json"), config) for config in (copies.in_file, copies.in_database)]
    apart = {*OF_FILES, "secrets"}  # the URL of the database is one
    rows = [[row for row in json.loads(output) if row["check"] not in apart] for _, output, _ in found]
    assert rows[0] == rows[1]
    [warning] = [row["what"] for row in json.loads(found[1][1]) if row["check"] == "ledger"]
    assert "ledger.sqlite` is another ledger" in warning


def test_guard_on_another_machine_keeps_the_key_from_being_replaced(copies: Copies, tmp_path: Path) -> None:
    place, at = ledger_place(load(copies.in_database)), ("--config", str(copies.in_database))
    presence = find_engine(place).open_presence(tmp_path, "guard_elsewhere", 60)
    try:
        assert "guards: 0 running, 1 elsewhere (guard_elsewhere)\n" in cli("status", *at).stdout
        refused = cli("keys", "replace", "--lost", *at, check=False)
        assert f"a guard is using `{place}`: guard_elsewhere" in refused.stderr
    finally:
        presence.release()
    assert "guards: 0 running\n" in cli("status", *at).stdout
