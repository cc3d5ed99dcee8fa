"""Drills in the terminal: like any request until they are decided, told at once, and counted."""

import json
import time
from pathlib import Path

import pytest

from tests.live.running_guard import cli, enrol
from tests.promises.drilling import HUNDREDFOLD, drilling, make_drill
from tests.promises.harness import SECOND

CONFIG = """
[guard]
policies = "policies.cedar"
origin = "test.example/ledger"
[approvers.alice]
name = "Alice"
[approvers.carol]
name = "Carol"
[routes.people]
approvers = ["alice", "carol"]
"""


@pytest.fixture
async def drill(tmp_path: Path) -> tuple[Path, str]:
    """The configuration, and the id of an open drill."""
    harness = drilling(tmp_path)
    harness.clock.time = int((time.time() - 600) * SECOND)  # what the commands take for now, but for some minutes
    id = await make_drill(harness)
    harness.close()
    config = tmp_path / "mcp-guard.toml"
    config.write_text(CONFIG)
    return config, id


def run(config: Path, *words: str) -> str:
    return cli("approvals", *words, *(() if "--as" in words else ("--config", str(config)))).stdout


def test_drill_is_told_after_the_decision_and_counted(drill: tuple[Path, str]) -> None:
    config, id = drill
    assert f"{id}\trequested\tagent\tcrm__update_deal on Deal 1\tpeople" in run(config, "list")
    open_one = json.loads(run(config, "show", id, "--json"))
    assert "drill" not in run(config, "show", id)
    assert "drill" not in open_one["subject"]
    told = run(config, "deny", id, *enrol(config), "--rationale", "too much").splitlines()
    assert told == [
        f"{id}: This was a drill: a request made to be wrong, which nothing could execute.",
        "You caught it.",
        f"What was wrong (amount): {HUNDREDFOLD.why}",
    ]
    assert f"{id}\tdrill, denied\t" in run(config, "list", "--all")
    assert HUNDREDFOLD.why in run(config, "show", id)
    header, alice, carol = run(config, "stats").splitlines()
    assert header.split("\t") == ["approver", "waiting", "approved", "denied", "median time", "drills caught"]
    assert alice.startswith("alice\t0\t2\t0\t")
    assert alice.endswith("\t1 of 1 (100 %)")
    assert carol == "carol\t0\t0\t0\t–\t–"
    counted = json.loads(run(config, "stats", "--since", "1d", "--json"))
    assert counted["drills"] == {"ended": 1, "undecided": 0}
    call = open_one["subject"]["call"]
    [line] = [line for line in cli("show", call, "--config", str(config)).stdout.splitlines() if "never made" in line]
    assert "a drill, caught by alice: a request like one of agent" in line
    cli("verify", "--config", str(config))
