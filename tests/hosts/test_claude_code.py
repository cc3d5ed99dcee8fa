"""The real Claude Code with the guard's hooks: a sample of `make hosts`. Its model is scripted, its shell its own."""

from pathlib import Path

import pytest

from tests.hosts.agents import claude_program
from tests.hosts.hooked import AGENTS, run


@pytest.mark.skipif(claude_program() is None, reason="npm has no Claude Code for this machine")
def test_allowed_denied_and_held_calls_of_its_shell_are_in_the_ledger(tmp_path: Path) -> None:
    outcome = run(next(agent for agent in AGENTS if agent.id == "claude-code"), tmp_path / "house")
    assert outcome.works, (outcome.steps, outcome.calls, outcome.results, outcome.notes)
