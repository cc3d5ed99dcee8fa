"""Policies change during a session: valid ones take effect, invalid ones never do."""

import json
import signal
from pathlib import Path

import pytest

from tests.live.running_guard import ALLOW_ALL, Client, cli, log, scripted, text, without_config, write_config

NO_ECHO = ALLOW_ALL + '@id("quiet") @reason("quiet now") forbid (principal, action == Action::"up__echo", resource);'
NO_HI = ALLOW_ALL + (
    '@id("no-hi") @reason("not that word") forbid (principal, action == Action::"up__echo", resource)'
    ' when { context.input has text && context.input.text == "hi" };'
)


BROKEN = "policies: the files have mistakes; running guards keep what they loaded before: mcp-guard policy validate\n"


def wait_for_new_tools(client: Client) -> None:
    """Read until the client is notified of changed tools, which is when the new policies apply."""
    if not any(message.get("method") == "notifications/tools/list_changed" for message in client.others):
        while client.read().get("method") != "notifications/tools/list_changed":
            pass
    client.others.clear()


def write(config: Path, policies: str) -> None:
    draft = config.parent / "draft"
    draft.write_text(policies)
    draft.replace(config.parent / "policies" / "test.cedar")


@pytest.mark.parametrize("hurry", [True, False], ids=["by SIGHUP", "automatically"])
def test_changed_policies_apply_within_the_session(tmp_path: Path, hurry: bool) -> None:
    config = write_config(tmp_path, scripted("up", tmp_path))
    with Client(config) as client:
        client.start()
        assert "hi" in text(client.call("up__echo", {"text": "hi"}))
        write(config, NO_HI)
        if hurry:
            client.process.send_signal(signal.SIGHUP)
        wait_for_new_tools(client)
        assert "not that word" in text(client.call("up__echo", {"text": "hi"}))
        write(config, NO_ECHO)
        client.process.send_signal(signal.SIGHUP)
        wait_for_new_tools(client)
        assert "up__echo" not in client.tools()
        assert "up__count" in client.tools()
    loaded = [receipt["policy_version"] for receipt in log(config, "--kind", "policy.loaded")]
    assert len(set(loaded)) == 3
    assert [f"policies reloaded: version {version[7:19]} is in force" in client.stderr for version in loaded] == [
        False, True, True,
    ]  # fmt: skip
    assert len(log(config, "--kind", "instance.started")) == 1


def test_invalid_policies_never_replace_valid_ones(tmp_path: Path) -> None:
    config = write_config(tmp_path, scripted("up", tmp_path), NO_HI)
    with Client(config) as client:
        client.start()
        assert "not that word" in text(client.call("up__echo", {"text": "hi"}))
        write(config, ALLOW_ALL + "permit (principal, action")
        client.process.send_signal(signal.SIGHUP)
        write(config, ALLOW_ALL)
        client.process.send_signal(signal.SIGHUP)
        wait_for_new_tools(client)
        assert "hi" in text(client.call("up__echo", {"text": "hi"}))
        write(config, "permit (principal, action")
        client.process.send_signal(signal.SIGHUP)
        while not log(config, "--kind", "policy.rejected"):
            client.request("ping")
        assert "hi" in text(client.call("up__echo", {"text": "hi"})), "the good set stays"
        assert BROKEN in without_config(cli("status", "--config", str(config)).stdout)
        write(config, ALLOW_ALL)
        assert BROKEN not in without_config(cli("status", "--config", str(config)).stdout)
    assert "the current ones stay in force" in client.stderr
    assert "test.cedar" in log(config, "--kind", "policy.rejected")[0]["reasons"][0]


def test_observe_mode_blocks_nothing_and_says_so(tmp_path: Path) -> None:
    policies = NO_ECHO + '@id("hard") @enforce("always") forbid (principal, action == Action::"up__free", resource);'
    (tmp_path / "shadow").mkdir()
    (tmp_path / "shadow" / "s.cedar").write_text('@id("s") permit (principal, action in Action::"read", resource);')
    config = write_config(tmp_path, scripted("up", tmp_path), policies, guard='mode = "observe"\nshadow = "shadow"')
    with Client(config) as client:
        client.start()
        tools = client.tools()
        assert tools["up__echo"]["_meta"]["mcp-guard/mode"] == "observe"
        assert "up__free" not in tools
        assert "hi" in text(client.call("up__echo", {"text": "hi"}))
        assert "policy `hard` forbids every call of it" in text(client.call("up__free"))
    assert "observe mode" in client.stderr
    intent = log(config, "--kind", "intent")[0]
    assert (intent["outcome"], intent["mode"], intent["would"]["policies"]) == ("allow", "observe", ["quiet"])
    assert intent["shadow"]["outcome"] == "deny"
    assert "\tallow (observed; would be deny)\t" in cli("log", "--config", str(config)).stdout
    assert log(config, "--kind", "guard.started")[0]["mode"] == "observe"
    assert [receipt.get("shadow") for receipt in log(config, "--kind", "policy.loaded")] == [None, True]
    report = json.loads(cli("policy", "shadow", "--json", "--config", str(config)).stdout)
    assert report["never_more_permissive"]
    assert report["matrix"] == [{"was": "deny", "would": "deny", "count": 1}]
