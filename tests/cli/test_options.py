"""The user of a command comes from the system, not the environment; accounts without name or home work too."""

import json
import os
from pathlib import Path

import pytest

from mcp_guard.cli.client_files import this_host
from mcp_guard.cli.options import account
from tests.live.running_guard import cli, scripted, write_config


def test_user_is_not_taken_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = str(write_config(tmp_path, scripted("up", tmp_path)))
    for name in ("USER", "LOGNAME", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "mallory")
    cli("instances", "issue", "--config", config)
    cli("agents", "add", "helper", "--owner", "bob", "--config", config)
    receipts = json.loads(cli("log", "--json", "--config", config).stdout)
    assert [receipt["by"] for receipt in receipts if "by" in receipt] == [account(), account()]
    assert account() != "mallory"


def test_account_without_name_or_home_is_supported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 4_294_967)
    monkeypatch.delenv("HOME")
    assert account() == "4294967"
    assert not this_host().home.exists()
