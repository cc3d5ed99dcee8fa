"""Deciding on the command line, from the request to the last use of a grant."""

import json
from pathlib import Path

import pytest

from tests.live.running_guard import ALLOW_ALL, Client, Json, cli, enrol, scripted, text, write_config, write_private

HOLD = '@id("g") @require_approval("people") forbid (principal, action == Action::"up__update_deal", resource);'

DEALS = """
[resources.Deal.attributes]
stage = "string"
[tools."up__update_deal"]
resource = { type = "Deal", id = "/id" }
verb = "updated deal"
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_config(tmp_path, scripted("up", tmp_path), ALLOW_ALL + HOLD, DEALS, guard="hold_seconds = 0")


def ask(client: Client, amount: int) -> Json:
    return client.call("up__update_deal", {"id": "1", "amount": amount})


def held(reply: Json) -> str:
    return str(reply["result"]["_meta"]["mcp-guard/decision"]["approval"])


def run(config: Path, *words: str, code: int = 0) -> str:
    done = cli("approvals", *words, *(() if "--as" in words else ("--config", str(config))), check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return (done.stdout + done.stderr).strip()


def test_watch_prints_the_same_details_as_show(config: Path) -> None:
    with Client(config) as client:
        client.start()
        none = cli("approvals", "list", "--config", str(config))
        assert none.stdout == "", "a script would take it for an id"
        assert none.stderr.startswith("no approval is pending; decided, expired and withdrawn ones: mcp-guard")
        id = held(ask(client, 1))
        watched = run(config, "watch", "--until", "1").splitlines()
        shown = run(config, "show", id).splitlines()
        assert watched[1:] == shown[1:]
        assert "  what           up__update_deal on Deal 1" in shown, "nothing is updated yet"
        assert "\tup__update_deal on Deal 1\t" in run(config, "list")
        assert json.loads(run(config, "watch", "--until", "1", "--json"))["id"] == id


def test_grant_is_given_listed_and_revoked(config: Path) -> None:
    alice = enrol(config)
    with Client(config) as client:
        client.start()
        id = held(ask(client, 1))
        giving = ("grant", id, *alice, "--rationale", "a batch", "--more", "2", "--for", "600", "--free")
        assert "has no argument `amuont` to leave free\nhint: its arguments: id, amount" in run(
            config, *giving, "amuont", code=7
        )
        assert run(config, *giving, "amount") == f"{id}: approved: up__update_deal on Deal 1"
        [grant] = [
            approval for approval in json.loads(run(config, "list", "--json")) if approval["id"].startswith("gr_")
        ]
        assert json.loads(text(ask(client, 1)))["arguments"]["amount"] == 1
        assert json.loads(text(ask(client, 2)))["arguments"]["amount"] == 2
        listed = run(config, "list").splitlines()[1].split("\t")
        assert (listed[0], listed[1], listed[3]) == (grant["id"], "active: 1 of 2", "up__update_deal")
        assert run(config, "revoke", grant["id"], *alice[:4], "--rationale", "enough") == f"{grant['id']}: revoked"
        assert "grant" in run(config, "revoke", grant["id"], *alice[:4], "--rationale", "enough", code=7)
        assert held(ask(client, 3)) != id
    cli("verify", "--config", str(config))
    messages = [
        line.split("\t")[-1] for line in cli("log", "--config", str(config)).stdout.splitlines() if "\tgrant." in line
    ]
    assert messages == [f"{grant['id']}: 2", f"{grant['id']}: use 1 of 2", f"{grant['id']}: enough"]
    enrolled = cli("log", "--config", str(config), "--kind", "approver.enrolled").stdout
    assert "alice: key " in enrolled


def test_unused_approval_is_revoked(config: Path) -> None:
    alice = enrol(config)
    with Client(config) as client:
        client.start()
        id = held(ask(client, 1))
        run(config, "approve", id, *alice, "--rationale", "yes")
        assert run(config, "revoke", id, *alice[:4], "--rationale", "no") == f"{id}: revoked"
        assert held(ask(client, 1)) != id


def test_wrong_passphrase_or_key_signs_nothing(config: Path, tmp_path: Path) -> None:
    alice, carol = enrol(config), enrol(config, "carol")
    with Client(config) as client:
        client.start()
        id = held(ask(client, 1))
        write_private(tmp_path / "other", "not the passphrase")
        wrong = [*alice[:-1], str(tmp_path / "other")]
        assert "cannot decrypt `" in run(config, "approve", id, *wrong, "--rationale", "x", code=7)
        (tmp_path / "other").chmod(0o640)
        readable = run(config, "approve", id, *wrong, "--rationale", "x", code=7)
        assert f"`{wrong[-1]}` is accessible to other users (mode 0640)\nhint: chmod 600 {wrong[-1]}" in readable
        swapped = [*alice[:5], carol[5], *alice[6:]]
        refused = run(config, "approve", id, *swapped, "--rationale", "x", code=7)
        assert "`alice` has no enrolled key" in refused
        assert "; to sign with one of them: --key-file FILE" in refused
        nobody = [*alice[:5], str(tmp_path / "none.key"), *alice[6:]]
        missing = run(config, "approve", id, *nobody, "--rationale", "x", code=7)
        assert "no key file at" in missing
        assert (
            "hint: alice is enrolled: bring the key file from the machine where it was made, or --key-file" in missing
        )
        assert "cannot ask for the passphrase: standard input is not a terminal" in run(
            config, "approve", id, *alice[:6], "--rationale", "x", code=3
        )
        assert [approval["state"] for approval in json.loads(run(config, "list", "--json"))] == ["requested"]


def test_a_key_file_that_others_can_read_is_reported(config: Path, tmp_path: Path) -> None:
    words, path = enrol(config), tmp_path / "alice.key"
    with Client(config) as client:
        client.start()
        path.chmod(0o644)
        printed = run(config, "approve", held(ask(client, 1)), *words, "--rationale", "x")
        assert f"warning: `{path}` is accessible to other users (mode 0644)" in printed
        assert f"hint: chmod 600 {path}" in printed
        path.chmod(0o600)
        assert "warning" not in run(config, "approve", held(ask(client, 2)), *words, "--rationale", "x")


def test_approver_key_file_is_encrypted_and_private(config: Path, tmp_path: Path) -> None:
    enrol(config)
    path = tmp_path / "alice.key"
    assert path.stat().st_mode & 0o077 == 0
    kept = json.loads(path.read_text())
    assert set(kept) == {"form", "scrypt", "salt", "nonce", "sealed", "public"}
    path.write_text(json.dumps(kept | {"public": "AAAA"}))
    with Client(config) as client:
        client.start()
        words = enrol(config)
        id = held(ask(client, 1))
        assert "cannot decrypt `" in run(config, "approve", id, *words, "--rationale", "x", code=7)
