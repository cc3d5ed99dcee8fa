"""Provenance and anomaly detection with the real command: the launch task, content read, and learning at the end."""

import json
from pathlib import Path

from tests.live.running_guard import Client, cli, log, scripted, text, write_config

EVIL = "evil@attacker.example"
LABELS = """
[tools."up__get_deal"]
effect = "read"
returns = ["untrusted"]

[tools."up__echo"]
sinks = ["text"]

[risk.drift]
false_alarm_rate = 0.1
runs = 60
"""
POLICIES = """
@id("all") permit (principal, action, resource);
@id("known-only") @reason("not from what others wrote") forbid (principal, action, resource)
unless { context.history.sinks.from_untrusted.isEmpty() };
"""


def test_destination_is_judged_by_its_first_source(tmp_path: Path) -> None:
    (tmp_path / "deals.json").write_text(json.dumps({"7": {"contact": EVIL}}))
    up = scripted("up", tmp_path, DEALS=str(tmp_path / "deals.json"))
    config = write_config(tmp_path, up, POLICIES, LABELS)
    task = tmp_path / "task.txt"
    task.write_text("Look up anna@corp.example, as the note says")
    with Client(config, ("--task-file", str(task))) as client:
        client.start()
        client.call("up__get_deal", {"id": "7"})
        assert "not from what others wrote" in text(client.call("up__echo", {"text": EVIL.upper()}))
        assert "anna" in text(client.call("up__echo", {"text": "anna@corp.example"}))
    receipts = log(config)
    started = next(receipt for receipt in receipts if receipt["kind"] == "instance.started")
    assert started["request"].startswith("sha256:")  # the receipt commits to the task text, which is stored beside it
    assert "anna" not in json.dumps(receipts)
    denied = next(receipt for receipt in receipts if receipt["kind"] == "decision")
    assert denied["history"] == {"untrusted_seen": True, "sinks": {"from_untrusted": ["text"]}}
    printed = cli("show", str(denied["seq"]), "--config", str(config)).stdout
    assert "untrusted content was read; text from untrusted" in printed
    assert "Look up anna@corp.example" in cli("show", str(started["seq"]), "--config", str(config)).stdout
    assert "verified" in cli("verify", "--config", str(config)).stdout


def test_run_is_learned_at_its_end_and_a_missing_task_is_reported(tmp_path: Path) -> None:
    config = write_config(tmp_path, scripted("up", tmp_path), POLICIES, LABELS)
    with Client(config, ("--task", "look up 7")) as client:
        client.start()
        client.call("up__echo", {"text": "7"})
    from mcp_guard.storage.engines import open_store

    store = open_store(tmp_path / "state" / "ledger.sqlite")
    [(_, acts)] = store.runs("tester", 10)
    store.close()
    [[tool, names, sinks]] = json.loads(acts)
    assert (tool, names) == ("up__echo", ["text"])
    assert len(sinks) == 1
    assert sinks != ["7"]
    failed = cli("run", "--config", str(config), "--task-file", str(tmp_path / "nowhere"), check=False)
    assert failed.returncode == 3
    assert "cannot read the task" in failed.stderr
    assert "hint: " in failed.stderr
