"""A configured sequence, from the call of a client to what `show`, `policy explain` and `policy replay` say of it."""

import json
from pathlib import Path

from tests.live.running_guard import Client, cli, log, scripted, text, write_config

SEQUENCE = """[tools."up__free"]
effect = "read"

[sequences.looked]
tools = ["up__free"]
same = "/text"
earlier = "/about"
"""
LOOK_FIRST = """@id("all") permit (principal, action, resource);

@id("look") @reason("look at it first")
forbid (principal, action == Action::"up__echo", resource) unless { context.sequence.looked };
"""


def test_commands_know_what_came_before_a_call(tmp_path: Path) -> None:
    config = write_config(tmp_path, scripted("up", tmp_path), LOOK_FIRST, SEQUENCE)
    at = ("--config", str(config))
    with Client(config) as client:
        client.start()
        assert "look at it first" in text(client.call("up__echo", {"text": "hi"}))
        client.call("up__free", {"about": "hi"})
        assert "look at it first" in text(client.call("up__echo", {"text": "hello"}))
        assert "hi" in text(client.call("up__echo", {"text": "hi"}))
    decided = [receipt for receipt in log(config) if receipt["kind"] in ("decision", "intent")]
    refused, _, _, allowed = decided
    assert (refused["sequences"], allowed["sequences"]) == ({"looked": False}, {"looked": True})
    assert '"looked":true' in cli("show", str(allowed["seq"]), *at).stdout.replace(" ", "")
    explained = cli("policy", "explain", str(refused["seq"]), *at).stdout
    assert "context.sequence.looked true instead of false" in explained
    same = cli("policy", "replay", "--candidate", str(tmp_path / "policies"), "--json", *at).stdout
    assert json.loads(same)["never_more_permissive"] is True
    (tmp_path / "loose.cedar").write_text(LOOK_FIRST.partition("\n\n")[0])
    loose = cli("policy", "replay", "--candidate", str(tmp_path / "loose.cedar"), "--json", *at, check=False).stdout
    assert json.loads(loose)["never_more_permissive"] is False
