"""The verbs of `mcp-guard policy` that look back, on the ledger of all transcripts."""

import json
from pathlib import Path
from typing import Any

from tests.cli.conftest import POLICIES, Past
from tests.cli.test_transcripts import transcript
from tests.live.guarded import cli

OPEN = '@id("all") permit (principal, action, resource);'


def candidate(folder: Path, text: str) -> str:
    (folder / "candidate.cedar").write_text(text)
    return str(folder)


def test_replay_of_the_policies_in_force_makes_no_difference(past: Past, tmp_path: Path) -> None:
    printed = transcript(past, "policy", "replay", "--candidate", candidate(tmp_path, POLICIES))
    assert printed.splitlines()[0] == "was \\ would be  allow  deny  require_approval"
    assert printed.endswith("not run again: 1, refused before any policy was asked\nnever more permissive: yes")
    assert "seq" not in printed


def test_replay_names_each_difference_and_fails_if_more_is_let(past: Past, tmp_path: Path) -> None:
    where = candidate(tmp_path, OPEN)
    printed = transcript(past, "policy", "replay", "--candidate", where, code=1)
    assert "13  TIME  tester  up__echo  deny  allow  all  MORE PERMISSIVE" in printed.splitlines()
    assert printed.endswith("never more permissive: no")


def test_replay_of_stricter_policies(past: Past, tmp_path: Path) -> None:
    nothing = '@id("none") forbid (principal, action, resource);'
    report = as_json(past, "policy", "replay", "--candidate", candidate(tmp_path, nothing), "--last", "2")
    assert report["never_more_permissive"] is True
    assert [each["more_permissive"] for each in report["differences"]] == [False]
    assert sum(each["count"] for each in report["matrix"]) == 1
    assert report["unlike_recorded"] == []


def test_replay_refuses_a_candidate_that_does_not_fit_the_tools(past: Past, tmp_path: Path) -> None:
    wrong = '@id("w") permit (principal, action == Action::"up__echo", resource) when { context.input.txt == "x" };'
    printed = transcript(past, "policy", "replay", "--candidate", candidate(tmp_path, wrong), code=4)
    assert "candidate.cedar: w: " in printed


def as_json(past: Past, *words: str, code: int = 0) -> Any:
    done = cli(*words, "--json", "--config", str(past.config), check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout)
