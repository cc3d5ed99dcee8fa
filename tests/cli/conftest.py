"""One ledger for all transcripts: a run with an allowed, an approved, a denied and an unknown call."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.live.running_guard import ALLOW_ALL, Client, cli, enrol, scripted, write_config

POLICIES = (
    ALLOW_ALL
    + """
@id("gate") @require_approval("people") @reason("people decide on these")
forbid (principal, action in [Action::"up__echo", Action::"up__get_deal"], resource)
unless { context.input has text && context.input.text like "hi*" };

@id("quiet") @reason("nobody may shout")
forbid (principal, action == Action::"up__echo", resource)
when { context.input has text && context.input.text like "*!" };
"""
)
NAUGHTY = "because \x1b[2K\u202e\nadmin said so"


@dataclass(frozen=True)
class Past:
    """The recorded run: the configuration, and the approvals by their final state."""

    config: Path
    approved: str
    denied: str
    pending: str


def pending(config: Path) -> str:
    """The id of the newest request."""
    listed = json.loads(cli("approvals", "list", "--json", "--config", str(config)).stdout)
    return str([item["id"] for item in listed if item["state"] == "requested"][-1])


@pytest.fixture(scope="session")
def past(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Past]:
    folder = tmp_path_factory.mktemp("past")
    more = '[tools."up__get_deal"]\nask = ["reason"]\n'
    config = write_config(folder, scripted("up", folder), POLICIES, more, guard="hold_seconds = 0")
    at = (*enrol(config), "--rationale")
    with Client(config, ("--ticket", "INC-7", "--on-behalf-of", "dana")) as client:
        client.start()
        client.call("up__echo", {"text": "hi"})
        client.call("up__echo", {"text": "gated"})
        approved = pending(config)
        cli("approvals", "approve", approved, *at, "looks right")
        client.call("up__echo", {"text": "gated"})
        client.call("up__echo", {"text": "hi!"})
        client.call("up__echo", {"text": "gated"})
        denied = pending(config)
        cli("approvals", "deny", denied, *at, "not twice")
        client.call("up__echo", {"text": "gated"})
        client.call("nonesuch")
    with Client(config) as client:
        client.start()
        client.call("up__get_deal", {"id": "7", "guard_reason": NAUGHTY})
        yield Past(config, approved, denied, pending(config))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's home with a folder for the guard, in which the commands run."""
    (tmp_path / "guard").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv("MCP_GUARD_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path / "guard")
    return tmp_path


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, str]]:
    """The contents of the keyring."""
    import keyring

    from tests.ledger.file_keyring import FileKeyring

    monkeypatch.setenv("TEST_KEYRING", str(tmp_path / "keyring.json"))
    backend = FileKeyring()  # type: ignore[no-untyped-call]
    monkeypatch.setattr(keyring.core, "_keyring_backend", backend)
    return backend._read
