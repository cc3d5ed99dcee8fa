"""A restore refuses a backup in which somebody changed who may call, though its receipts verify."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from mcp_guard.core.errors import IdentityError, LedgerError
from mcp_guard.core.model import Agent
from mcp_guard.ledger import registry
from mcp_guard.ledger.backup import Backup
from mcp_guard.ledger.place import FILE
from mcp_guard.settings import AgentSettings
from mcp_guard.verifier import verify_ledger
from tests.ledger.test_backup import restored, saved
from tests.promises.harness import Harness, make_instance, open_harness

DISABLED = ("agent", "mail-agent")


def prepared(tmp_path: Path) -> Harness:
    harness = open_harness(tmp_path)
    writer = harness.ledger.writer
    enrolled = AgentSettings(Agent("mail-agent", "bob", ("mail",)), None, 60)
    writer.run(lambda tx: registry.enrol_agent(tx, enrolled, "test"))
    writer.run(lambda tx: registry.revoke(tx, DISABLED, "leaks", "test", registry.FOREVER))
    writer.run(lambda tx: registry.revoke(tx, ("user", "dana"), "left", "test"))
    writer.run(lambda tx: registry.revoke(tx, ("agent", "old"), "drifts", "test", registry.FOREVER))
    writer.run(lambda tx: registry.enable_agent(tx, "old", "fixed", "test"))
    return harness


def edit(backup: Backup, *statements: str) -> None:
    with closing(sqlite3.connect(backup.folder / FILE)) as db:
        for statement in statements:
            db.execute(statement)
        db.commit()
    assert verify_ledger(backup.folder / FILE, backup.folder / "ledger.pub").ok


def test_a_disabled_agent_comes_back_through_no_edited_backup(tmp_path: Path) -> None:
    harness = prepared(tmp_path)
    backup = saved(harness)
    harness.close()
    for n, (statement, message) in enumerate(
        {
            "DELETE FROM revocation": "the revocation of agent `mail-agent` is not as its receipts say",
            "UPDATE revocation SET until = 1 WHERE name = 'dana'": "of user `dana` is not as",
            "UPDATE revocation SET until = until / 2 WHERE name = 'mail-agent'": "of agent `mail-agent` is not as",
            "INSERT INTO revocation VALUES ('user', 'zoe', 1)": "of user `zoe` is not as",
            f"UPDATE revocation SET until = {registry.FOREVER} WHERE name = 'old'": "of agent `old` is not as",
            "UPDATE enrolled_agent SET owner = 'eve'": "the enrolled agent `mail-agent` is not as",
            "DELETE FROM enrolled_agent": "the enrolled agent `mail-agent` is not as",
        }.items()
    ):
        changed = Backup(tmp_path / f"changed-{n}", backup.receipts, backup.checkpoint, True)
        changed.folder.mkdir()
        for file in backup.folder.iterdir():
            (changed.folder / file.name).write_bytes(file.read_bytes())
        edit(changed, statement)
        with pytest.raises(LedgerError, match=message):
            restored(tmp_path / "new", changed, harness.clock)
        assert not (tmp_path / "new" / "state").exists()
    assert restored(tmp_path / "new", backup, harness.clock).receipts == backup.receipts


def test_a_disabled_agent_stays_disabled_when_its_credentials_are_revoked_once_more(tmp_path: Path) -> None:
    harness = prepared(tmp_path)
    writer = harness.ledger.writer
    writer.run(lambda tx: registry.revoke(tx, ("agent", "agent"), "leaks", "test", registry.FOREVER))
    writer.run(lambda tx: registry.revoke(tx, ("agent", "agent"), "to be sure", "test"))
    later = make_instance("run_2", started=harness.clock.time + 1)
    with pytest.raises(IdentityError, match="is disabled"):
        writer.run(lambda tx: registry.issue(tx, later, {}))
    backup = saved(harness)
    harness.close()
    assert "agent" not in restored(tmp_path, backup, harness.clock, may_replace=True).agents
