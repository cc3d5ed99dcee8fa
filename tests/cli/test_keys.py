"""`mcp-guard keys` beside a running guard: a rotation disturbs no session, and the commands report what they did."""

import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path

from mcp_guard.core import credential
from mcp_guard.core.tlog import note
from mcp_guard.identity.ed25519 import PrivateKey
from mcp_guard.ledger.keys import parse_private
from tests.ledger.rotation_checks import chain, receipts
from tests.live.http_guard import Served, free_port, serving
from tests.live.running_guard import Client, cli, log, scripted, text, write_config


def test_key_rotation_does_not_disturb_a_running_guard(tmp_path: Path) -> None:
    config = write_config(tmp_path, scripted("up", tmp_path))
    at = ("--config", str(config))
    with Client(config) as client, Client(config) as other:
        for item in (client, other):
            item.start()
            assert "before" in text(item.call("up__echo", {"text": "before"}))
        [first] = json.loads(cli("keys", "list", "--json", *at).stdout)
        output = cli("keys", "rotate", "--why", "every year", *at).stdout
        for item in (client, other):
            assert "after" in text(item.call("up__echo", {"text": "after"}))
    keys = json.loads(cli("keys", "list", "--json", *at).stdout)
    assert [key["verifier"] for key in keys] == list(chain(tmp_path / "state", first["verifier"]))
    assert keys[0]["until"] + 1 == keys[1]["since"]
    assert keys[1]["verifier"] in output
    assert "signed it and is retired" in output
    after = [output for output, _, _ in receipts(tmp_path / "state")][keys[1]["since"] :]
    assert [item["kind"] for item in after].count("outcome") == 2
    credentials = {
        receipt["credential"] for receipt in log(config) if receipt["kind"] in ("intent", "credential.issued")
    }
    assert len(credentials) == 2  # each run continued with the key it had
    table = cli("keys", "list", *at).stdout
    assert "in force" in table
    assert f"0 to {keys[0]['until']}" in table
    assert "the previous key signed the change" in cli("verify", *at).stdout
    assert "every year" in cli("log", "--kind", "key.rotated", *at).stdout
    assert "without a copy of the retired key" in output
    assert cli("keys", "rotate", *at, check=False).returncode == 2  # nothing is rotated by a slip of the hand
    assert len(json.loads(cli("keys", "list", "--json", *at).stdout)) == 2


def test_a_row_that_is_no_key_is_reported_and_not_listed(tmp_path: Path) -> None:
    config = write_config(tmp_path, scripted("up", tmp_path))
    with Client(config) as client:
        client.start()
    with closing(sqlite3.connect(tmp_path / "state" / "ledger.sqlite")) as db, db:
        db.execute("INSERT INTO guard_key VALUES (9, 1, 'no key')")
    for command in (("keys", "list"), ("approvals", "list")):
        done = cli(*command, "--config", str(config), check=False)
        assert (done.returncode, "Traceback" in done.stderr) == (5, False), done.stderr
        assert "`guard_key`, is not as the signed receipts say" in done.stderr


def test_a_row_in_the_table_of_keys_lets_nobody_else_sign_tokens(tmp_path: Path) -> None:
    port = free_port()
    config = write_config(tmp_path, scripted("up", tmp_path), more=serving(port))
    with Served(config, port) as guard:
        _, token = guard.issue()
        private = PrivateKey.generate()
        line = note.verifier(note.parse_verifier(keys_of(tmp_path))[0], private.public_key().public_bytes_raw())
        forged = credential.encode(credential.read_unverified(token).claims, private.sign)
        with closing(sqlite3.connect(tmp_path / "state" / "ledger.sqlite")) as db, db:
            db.execute("INSERT INTO guard_key VALUES (9, 1, ?)", (line,))
        assert guard.raw(forged).stateless("tools/list").status_code != 200


def keys_of(folder: Path) -> str:
    return (folder / "state" / "ledger.pub").read_text().strip()


def test_tokens_stay_valid_after_a_rotation_and_a_retired_key_signs_none(tmp_path: Path) -> None:
    port = free_port()
    config = write_config(tmp_path, scripted("up", tmp_path), more=serving(port))
    with Served(config, port) as guard:
        _, before = guard.issue()
        retired = parse_private((tmp_path / "state" / "ledger.key").read_text().strip())
        cli("keys", "rotate", "--why", "every year", "--config", str(config))
        _, after = guard.issue()
        assert [guard.raw(token).stateless("tools/list").status_code for token in (after, before)] == [200, 200]
    forged = credential.encode(credential.read_unverified(after).claims, retired.sign)
    with Served(config, port) as restarted:
        answers = [restarted.raw(token).stateless("tools/list").status_code for token in (before, after, forged)]
    assert answers == [200, 200, 401]


def test_lost_key_stops_the_guard_until_it_is_replaced(tmp_path: Path) -> None:
    config = write_config(tmp_path, scripted("up", tmp_path))
    at = ("--config", str(config))
    with Client(config) as client:
        client.start()
        client.call("up__echo", {"text": "before"})
        refused = cli("keys", "replace", "--lost", *at, check=False)
        assert (refused.returncode, "a guard is using" in refused.stderr) == (5, True)
    refused = cli("keys", "replace", "--lost", *at, check=False)
    assert (refused.returncode, "is not lost" in refused.stderr) == (5, True)
    assert "hint: mcp-guard keys rotate" in refused.stderr
    (tmp_path / "state" / "ledger.key").unlink()
    refused = cli("keys", "rotate", "--why", "every year", *at, check=False)
    assert refused.returncode == 5
    assert "hint: copy it from another gateway or a backup" in refused.stderr
    assert cli("keys", "replace", *at, check=False).returncode == 2  # `--lost` is required
    document = json.loads(cli("keys", "replace", "--lost", "--why", "the disk died", "--json", *at).stdout)
    with Client(config) as client:
        client.start()
        assert "after" in text(client.call("up__echo", {"text": "after"}))
    assert list(chain(tmp_path / "state", document["old"])) == [document["old"], document["new"]]
    (tmp_path / "new.pub").write_text(document["new"] + "\n")
    refused = cli("verify", "--key", str(tmp_path / "new.pub"), *at, check=False)
    assert refused.returncode == 1
    assert "the old key did not sign; to accept the change, give both keys" in refused.stdout
    assert cli("verify", *at).returncode == 0  # `ledger.pub` has both


def test_rotation_without_a_ledger_is_refused(tmp_path: Path) -> None:
    config = write_config(tmp_path, scripted("up", tmp_path))
    for words in (("list",), ("rotate", "--why", "every year"), ("replace", "--lost")):
        refused = cli("keys", *words, "--config", str(config), check=False)
        assert refused.returncode == 5
        assert "no ledger at" in refused.stderr


def test_first_key_of_a_shared_ledger_is_made_once_and_used_by_every_guard_that_gets_it(tmp_path: Path) -> None:
    key = tmp_path / "ledger.key"
    made = json.loads(cli("keys", "create", str(key), "--origin", "shared.example/ledger", "--json").stdout)
    printed = cli("keys", "create", str(tmp_path / "another.key"), "--origin", "shared.example/ledger").stdout
    assert re.search(r"; its public key:\nshared\.example/ledger\+[0-9a-f]{8}\+\S+\n\Z", printed)
    assert key.stat().st_mode & 0o777 == 0o600
    again = cli("keys", "create", str(key), "--origin", "shared.example/ledger", check=False)
    assert again.returncode != 0
    assert again.stderr.startswith(f"mcp-guard: cannot write `{key}`: File exists\n")
    config = write_config(tmp_path, scripted("up", tmp_path), guard='origin = "shared.example/ledger"')
    (tmp_path / "state").mkdir(mode=0o700)
    key.rename(tmp_path / "state" / "ledger.key")
    with Client(config) as client:
        client.start()
    [in_force] = json.loads(cli("keys", "list", "--json", "--config", str(config)).stdout)
    assert in_force["verifier"] == made["verifier"]
