"""P7: who is calling does not change by reconnecting, so a limit on an agent's calls does not start again."""

from pathlib import Path

import pytest

from tests.live.running_guard import Client, cli, scripted, seen, write_config

LIMIT = """@id("all") permit (principal, action, resource);
@id("rate") @reason("two an hour") forbid (principal, action in Action::"write", resource)
when { context.rate.writes > 2 };"""
COUNTER = "[rates.writes]\nwindow_seconds = 3600\n"


def connect_and_write(config: Path, *arguments: str) -> None:
    with Client(config, arguments) as client:
        client.start()
        for _ in range(2):
            client.call("up__echo", {"text": "x"})


def test_reconnecting_does_not_reset_a_rate(tmp_path: Path) -> None:
    config = write_config(tmp_path, scripted("up", tmp_path), policies=LIMIT, more=COUNTER)
    connect_and_write(config)
    connect_and_write(config, "--ticket", "INC-2")
    assert len(seen(tmp_path, "up")) == 2


def test_naming_another_user_does_not_reset_a_rate_by_agent(tmp_path: Path) -> None:
    config = write_config(tmp_path, scripted("up", tmp_path), policies=LIMIT, more=f'{COUNTER}by = "agent"\n')
    connect_and_write(config, "--on-behalf-of", "dana")
    connect_and_write(config, "--on-behalf-of", "lee")
    assert len(seen(tmp_path, "up")) == 2


@pytest.mark.parametrize("by", ['"instance"', '["instance", "tool"]'])
def test_lint_points_out_a_limit_that_a_reconnect_resets(tmp_path: Path, by: str) -> None:
    config = write_config(tmp_path, scripted("up", tmp_path), policies=LIMIT, more=f"{COUNTER}by = {by}\n")
    linted = cli("policy", "lint", "--config", str(config), check=False)
    assert linted.returncode == 1
    assert "rate: a client that reconnects is a new instance, for which `writes` starts at zero" in linted.stdout
