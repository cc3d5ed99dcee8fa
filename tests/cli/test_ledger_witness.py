"""`mcp-guard ledger witness`: by hand, when due, and by a running guard; its output and exit codes."""

import json
import shlex
import shutil
from pathlib import Path

import pytest

from mcp_guard.core.tlog import note
from tests.ledger.rotation_checks import checkpoint, receipts
from tests.live.running_guard import Client, cli, scripted, write_config

FILE = """
[witnesses.storage]
kind = "file"
path = "storage/checkpoints"
{more}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "storage").mkdir()
    return write_config(tmp_path, scripted("up", tmp_path), more=FILE.format(more=""))


def call(config: Path) -> None:
    with Client(config) as client:
        client.start()
        client.call("up__echo", {"text": "hi"})


def test_checkpoint_is_sent_to_every_witness(config: Path) -> None:
    call(config)
    sent = checkpoint(config.parent / "state")
    _, said = cli("ledger", "witness", "--config", str(config)).stdout.splitlines()
    assert said.split("\t") == ["storage", "file", "taken", str(note.parse(sent)[0].size), ""]
    assert (config.parent / "storage" / "checkpoints").read_text() == sent + "\n"
    assert "storage (file)" in cli("log", "--kind", "checkpoint.witnessed", "--config", str(config)).stdout
    [again] = json.loads(cli("ledger", "witness", "storage", "--json", "--config", str(config)).stdout)
    assert again["state"] == "taken"
    assert cli("verify", "--config", str(config)).returncode == 0


def test_rolled_back_ledger_is_reported(config: Path) -> None:
    call(config)
    shutil.copytree(config.parent / "state", config.parent / "before")
    call(config)
    cli("ledger", "witness", "--config", str(config))
    shutil.rmtree(config.parent / "state")
    shutil.copytree(config.parent / "before", config.parent / "state")
    done = cli("ledger", "witness", "--config", str(config), check=False)
    assert done.returncode == 1
    assert "THE LEDGER AND witness `storage` (file) CONTRADICT EACH OTHER: the witness has seen" in done.stderr
    assert "Nothing was sent to the witness." in done.stderr
    command = shlex.split(done.stderr.rpartition("mcp-guard verify ")[2])
    compared = cli("verify", *command, "--config", str(config), check=False)
    assert (compared.returncode, "rolled back: a checkpoint of" in compared.stdout) == (1, True)


def test_failing_witness_does_not_stop_the_others(config: Path) -> None:
    broken = '[witnesses.broken]\nkind = "file"\npath = "nowhere/checkpoints"\n'
    config.write_text(config.read_text().replace("[witnesses.storage]", f"{broken}\n[witnesses.storage]"))
    call(config)
    done = cli("ledger", "witness", "--json", "--config", str(config), check=False)
    assert done.returncode == 1
    assert [entry["state"] for entry in json.loads(done.stdout)] == ["failed", "taken"]
    assert "is its storage mounted?" in done.stderr


def test_unknown_witness_is_reported(config: Path, tmp_path: Path) -> None:
    call(config)
    done = cli("ledger", "witness", "nobody", "--config", str(config), check=False)
    assert (done.returncode, "configured: `storage`" in done.stderr) == (3, True)
    config.write_text(config.read_text().partition("[witnesses.storage]")[0])
    assert "no witness is configured" in cli("ledger", "witness", "--config", str(config), check=False).stderr


def test_only_due_checkpoints_are_sent_and_an_idle_ledger_sends_none(config: Path) -> None:
    config.write_text(config.read_text() + "every_receipts = 1\n")
    call(config)
    due = ("ledger", "witness", "--due", "--json", "--config", str(config))
    [first] = json.loads(cli(*due).stdout)
    assert first["state"] == "taken"
    for _ in range(2):
        [rest] = json.loads(cli(*due).stdout)
        assert (rest["state"], rest["text"]) == ("skipped", "nothing is due")
    call(config)
    assert json.loads(cli(*due).stdout)[0]["state"] == "taken"


@pytest.mark.parametrize("often", ["every_seconds = 1", "every_receipts = 2"])
def test_running_guard_sends_checkpoints_to_witnesses(config: Path, often: str) -> None:
    config.write_text(config.read_text() + often + "\n")
    with Client(config) as client:
        client.start()
        client.call("up__echo", {"text": "hi"})
        cli("tail", "--until", "checkpoint.witnessed", "--config", str(config))
        client.call("up__echo", {"text": "hi"})
    witnessed = [said for said, _, _ in receipts(config.parent / "state") if said["kind"] == "checkpoint.witnessed"]
    held = (config.parent / "storage" / "checkpoints").read_text()
    assert witnessed
    assert all(f"\n{item['size']}\n{item['root']}\n" in held for item in witnessed)


def test_failing_witness_is_reported_and_disturbs_no_call(config: Path) -> None:
    config.write_text(config.read_text().replace("storage/checkpoints", "nowhere/checkpoints") + "every_receipts = 1\n")
    with Client(config) as client:
        client.start()
        assert client.process.stderr is not None
        said = client.process.stderr.readline().decode()
        while "witness `storage`" not in said:
            said = client.process.stderr.readline().decode()
        assert "did not accept the checkpoint" in said
        assert "result" in client.call("up__echo", {"text": "hi"})
