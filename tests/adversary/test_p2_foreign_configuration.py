"""Attack on P2 and P10: another user of the machine, or an agent that may write a folder, leaves a configuration there,
or changes what one names, and waits for somebody to type a command. Real commands, real owners and modes.
"""

import os
import struct
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import mcp_guard
from mcp_guard.config import load
from mcp_guard.config.cache import FILE, store_settings
from mcp_guard.core.tlog import note
from mcp_guard.own_command import OWN_COMMAND
from tests.live.running_guard import cli

NOBODY = 65534
COMMANDS = (["status"], ["run"], ["inbox"], ["policy", "validate"])
RUNS_A_PROGRAM = "who could make mcp-guard run any program"
pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root can make files of other users")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A configuration whose signer, upstream and policies are the owner's own."""
    public = note.verifier("mcp-guard.local/ledger", Ed25519PrivateKey.generate().public_key().public_bytes_raw())
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "p.cedar").write_text('@id("a") permit(principal, action, resource);')
    for name in ("signer", "server", "token"):
        (tmp_path / name).write_text(f"#!/bin/sh\ntouch {tmp_path}/OWNED\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "jwks.json").write_text("{}")
    (tmp_path / "mcp-guard.toml").write_text(f"""
[guard]
policies = "policies"
[agents.a]
owner = "x"
[approvers.alice]
name = "Alice"
[serve]
[issuers.corp]
issuer = "https://login.example"
jwks = {{ file = "jwks.json" }}
[upstreams.up]
command = "{tmp_path}/server"
env = {{ TOKEN = {{ command = ["./token"] }} }}
[ledger.signer]
command = ["./signer"]
public = "{public}"
""")
    return tmp_path


def run(folder: Path, *words: str, environment: dict[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, value in (environment or {}).items():
            patch.setenv(name, value)
        return cli(*words, check=False)


def owned_by_nobody(name: str) -> Callable[[Path], None]:
    return lambda folder: os.chown(folder / name, NOBODY, NOBODY)


def writable(name: str, mode: int = 0o666) -> Callable[[Path], None]:
    return lambda folder: (folder / name).chmod(mode)


def acl_for_nobody(name: str) -> Callable[[Path], None]:
    """Let another user write the file by a list (version 2, see acl(5)), which `ls -l` shows as bits of the group."""
    no_id, read_write, read = 2**32 - 1, 6, 4
    entries = (
        (1, read_write, no_id), (2, read_write, NOBODY), (4, read, no_id), (16, read_write, no_id), (32, read, no_id)
    )  # fmt: skip
    text = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)

    def attack(folder: Path) -> None:
        os.chown(folder / name, 0, 0)
        try:
            os.setxattr(folder / name, "system.posix_acl_access", text)
        except OSError:
            pytest.skip("this file system has no access control lists")

    return attack


ATTACKS = {
    "a file of another user": owned_by_nobody("mcp-guard.toml"),
    "a file that all can write": writable("mcp-guard.toml"),
    "a file that a group can write": writable("mcp-guard.toml", 0o620),
    "a folder of another user": owned_by_nobody("."),
    "a folder that all can write": writable(".", 0o777),
    "policies of another user": owned_by_nobody("policies"),
    "policies that all can write": writable("policies", 0o777),
    "one policy that all can write": writable("policies/p.cedar"),
    "one policy of another user": owned_by_nobody("policies/p.cedar"),
    "a signer of another user": owned_by_nobody("signer"),
    "a signer that all can write": writable("signer", 0o777),
    "a program for a secret that all can write": writable("token", 0o777),
    "an upstream of another user": owned_by_nobody("server"),
    "keys of an issuer that all can write": writable("jwks.json"),
    "a file that an access control list lets another user write": acl_for_nobody("mcp-guard.toml"),
    "a policy that an access control list lets another user write": acl_for_nobody("policies/p.cedar"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_another_user_can_change_is_not_obeyed(folder: Path, attack: str) -> None:
    os.chown(folder / "mcp-guard.toml", 0, NOBODY)
    ATTACKS[attack](folder)
    for words in COMMANDS[:2]:
        refused = run(folder, *words)
        assert refused.returncode == 3
        assert "who could make mcp-guard run any program" in refused.stderr
        assert "hint: " in refused.stderr
    assert not (folder / "OWNED").exists()
    assert not (folder / "state").exists()


@pytest.mark.parametrize("words", COMMANDS)
def test_every_way_to_name_the_file_is_checked(folder: Path, words: list[str]) -> None:
    ATTACKS["a file of another user"](folder)
    path = str(folder / "mcp-guard.toml")
    for refused in (
        run(folder, *words),
        run(folder, *words, "--config", path),
        run(Path("/"), *words, environment={"MCP_GUARD_CONFIG": path}),
    ):
        assert refused.returncode == 3
        assert "belongs to user" in refused.stderr
    assert not (folder / "OWNED").exists()


def test_a_link_in_a_foreign_folder_is_not_followed(folder: Path) -> None:
    foreign = folder / "foreign"
    foreign.mkdir()
    (foreign / "mcp-guard.toml").symlink_to(folder / "mcp-guard.toml")
    os.chown(foreign, NOBODY, NOBODY)
    assert "belongs to user" in run(foreign, "status").stderr


def test_a_link_to_a_foreign_file_is_not_followed(folder: Path) -> None:
    config = folder / "mcp-guard.toml"
    target = config.rename(folder / "policies" / "other.toml")
    config.symlink_to(target)
    os.chown(target, NOBODY, NOBODY)
    assert "belongs to user" in run(folder, "status").stderr


@pytest.mark.parametrize(("owner", "mode"), [(NOBODY, 0o700), (0, 0o777)])
def test_a_ledger_that_another_user_can_replace_is_not_used(folder: Path, owner: int, mode: int) -> None:
    """Whoever makes the state folder first, in a folder like `/tmp`, would own the ledger and the approvals in it."""
    folder.chmod(0o1777)
    (folder / "state").mkdir()
    os.chown(folder / "state", owner, owner)
    (folder / "state").chmod(mode)
    for words in COMMANDS[:2]:
        refused = run(folder, *words)
        assert refused.returncode == 3
        assert "state` " in refused.stderr
    assert not list((folder / "state").iterdir())
    assert not (folder / "OWNED").exists()


@pytest.mark.parametrize("attack", [owned_by_nobody(FILE), writable(FILE), owned_by_nobody("."), writable(".", 0o777)])
def test_a_cached_configuration_that_another_user_can_replace_is_not_obeyed(
    folder: Path, attack: Callable[[Path], None]
) -> None:
    config, state = folder / "mcp-guard.toml", folder / "state"
    state.mkdir(mode=0o700)
    settings = load(config)
    store_settings(config, config.read_text(), replace(settings, hold_seconds=0.5, policies=Path("/tmp/permit-all")))
    assert load(config).hold_seconds == 0.5  # it is one that would be obeyed
    attack(state)
    assert load(config) == settings


def test_the_guards_own_user_may_own_the_state_folder(folder: Path) -> None:
    """Root looks at a guard that runs as another user."""
    (folder / "state").mkdir()
    os.chown(folder / "state", NOBODY, NOBODY)
    (folder / "state").chmod(0o2770)
    assert RUNS_A_PROGRAM not in run(folder, "status").stderr


def test_own_files_are_obeyed(folder: Path) -> None:
    assert RUNS_A_PROGRAM not in run(folder, "run").stderr
    assert (folder / "OWNED").exists()


def test_what_an_agent_leaves_in_the_folder_of_its_project_is_no_part_of_the_guard(tmp_path: Path) -> None:
    """Clients start the guard there, and it starts its pages, witnesses and calls as processes of their own."""
    for module in ("json.py", "orjson.py", "mcp_guard/__init__.py", "mcp_guard/cli/__init__.py"):
        (tmp_path / module).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / module).write_text("import pathlib; pathlib.Path('OWNED').touch()")
    done = subprocess.run([*OWN_COMMAND, "--version"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("mcp-guard ")
    assert not (tmp_path / "OWNED").exists()
    sources = (Path(mcp_guard.__file__).parent).rglob("*.py")
    named = {path.name for path in sources if '"-m", "mcp_guard' in path.read_text()}
    assert named == {"own_command.py", "server_entries.py"}  # which reads such a command
