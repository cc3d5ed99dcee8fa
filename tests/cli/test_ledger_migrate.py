"""`mcp-guard ledger migrate`, and guards that meet a ledger of an older format, as people see them."""

import json
import re
from pathlib import Path

from tests.ledger.older_ledger import ORIGIN_4, unpack
from tests.live.running_guard import ALLOW_ALL, Client, cli, command, enrol, log, scripted, text, write_config

HOLD = f"""{ALLOW_ALL}
@id("gate") @require_approval("people") forbid (principal, action == Action::"up__echo", resource);
"""


def configured(folder: Path) -> Path:
    unpack(folder)
    return write_config(folder, scripted("up", folder), HOLD, guard=f'hold_seconds = 0\norigin = "{ORIGIN_4}"')


def test_ledger_of_an_older_format_is_migrated_and_guards_go_on_with_it(tmp_path: Path) -> None:
    config = configured(tmp_path)
    at, ledger = ("--config", str(config)), (tmp_path / "state/ledger.sqlite").resolve()
    for words in (("log",), ("status",)):
        refused = cli(*words, *at, check=False)
        assert refused.returncode != 0
        assert f"mcp-guard ledger migrate --ledger {ledger}" in refused.stderr
    cli("verify", *at)
    assert "mcp-guard ledger migrate" in cli("doctor", *at, check=False).stdout
    done = cli("ledger", "migrate", *at)
    assert re.fullmatch(
        rf"migrated `{ledger}` from format 4 to 5, and verified it: it continues the 62 receipts that it had\n"
        rf"the ledger as it was is in {ledger}.format-4-\d{{8}}T\d{{6}}Z\n"
        r"3 requests, approvals or grants were open, and ended with it: agents must ask again\n",
        done.stdout,
    )
    assert cli("ledger", "migrate", *at).stdout.endswith("there is nothing to do\n")
    assert json.loads(cli("ledger", "migrate", "--json", *at).stdout)["migrated"] is None
    assert {key["authorized_by"] for key in json.loads(cli("approvers", "list", "--json", *at).stdout)} == {
        "unrecorded"
    }
    assert "unrecorded" in cli("approvers", "list", *at).stdout
    bob = enrol(config, "bob")
    with Client(config, ("--agent", "tester")) as client:
        client.start()
        reply = client.call("up__echo", {"text": "nobody has decided"})
        approval = reply["result"]["_meta"]["mcp-guard/decision"]["approval"]
        assert "bob" in cli("approvals", "approve", approval, *bob, "--rationale", "x", check=False).stderr
        cli("approvals", "approve", approval, *enrol(config, "carol"), "--rationale", "x", check=False)
        assert text(client.call("up__tool_error")) == "the tool says no"
    unknown = [receipt for receipt in log(config, "--kind", "outcome") if receipt["ending"] == "unknown"]
    assert [receipt["follows"] for receipt in unknown] == [[59]]
    cli("verify", *at, "--against", str(tmp_path / "checkpoint"))
    assert "from format 4 to 5" in cli("log", *at, "--kind", "ledger.migrated").stdout


def test_guard_that_meets_an_older_format_does_not_start(tmp_path: Path) -> None:
    config = configured(tmp_path)
    refused = cli(*command("run", "--config", str(config), "--agent", "tester")[3:], check=False)
    assert refused.stderr.startswith("mcp-guard: the ledger has format 4; this version reads 5\nhint: stop every guard")


def test_backup_of_an_older_format_is_migrated_before_it_is_restored(tmp_path: Path) -> None:
    config = configured(tmp_path)
    backup = tmp_path / "backup"
    (tmp_path / "state").rename(backup)
    at = ("--config", str(config))
    refused = cli("ledger", "restore", str(backup), *at, check=False)
    assert f"mcp-guard ledger migrate --ledger {backup / 'ledger.sqlite'}" in refused.stderr
    cli("ledger", "migrate", "--ledger", str(backup / "ledger.sqlite"), *at)
    cli("ledger", "restore", str(backup), *at, "--against", str(tmp_path / "checkpoint"))
    cli("verify", *at)
