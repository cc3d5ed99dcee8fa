"""`mcp-guard approvers`: a key that is enrolled is never without its file, however a command ends."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mcp_guard.identity.key_file import read_public_key
from mcp_guard.ledger.approvals.approver_keys import NewKey
from tests.live.running_guard import ALLOW_ALL, Json, cli, enrol, scripted, write_config


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_config(tmp_path, scripted("up", tmp_path), ALLOW_ALL)


def enrolled_keys(config: Path) -> list[Json]:
    keys: list[Json] = json.loads(cli("approvers", "list", "--json", "--config", str(config)).stdout)
    return keys


def key_in(path: Path) -> str:
    return NewKey("ed25519", read_public_key(path), {}).id


def run_changed(change: str, *words: str) -> "subprocess.CompletedProcess[str]":
    """Run a command in a process in which a statement has been executed first."""
    code = f"import os, signal, sys\nfrom mcp_guard.cli import main\n{change}\nsys.exit(main(sys.argv[1:]))"
    run = [sys.executable, "-c", code, *words]
    return subprocess.run(run, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)


KILLED_AT_RENAME = """
rename, left = os.rename, [{}]
def killed(*paths):
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    rename(*paths)
os.rename = killed
"""


@pytest.mark.parametrize("renamed", [0, 1])
def test_a_rotation_killed_after_its_commit_is_finished_by_the_next_one(config: Path, renamed: int) -> None:
    path = config.parent / "alice.key"
    rotate = ("approvers", "rotate", "alice", *enrol(config)[2:])
    before = key_in(path)
    assert run_changed(KILLED_AT_RENAME.format(renamed), *rotate).returncode == -signal.SIGKILL
    [old, new] = enrolled_keys(config)
    assert (old["key"], old["removed"] is None, new["removed"]) == (before, False, None)
    assert f"key {new['key']} of alice is in use since a rotation that was interrupted" in cli(*rotate).stdout
    assert enrolled_keys(config) == [old, new]
    assert key_in(path) == new["key"]
    assert key_in(path.with_name(f"alice.key.{before}.old")) == before
    assert len(list(config.parent.glob("alice.key*"))) == 2
    assert f" replaces {new['key']}, which signed it" in cli(*rotate).stdout


KILLED_BEFORE_COMMIT = """
from mcp_guard.ledger.approvals import approver_keys
approver_keys.rotate = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_rotation_killed_before_its_commit_is_repeated(config: Path, is_whole: bool) -> None:
    path = config.parent / "alice.key"
    rotate = ("approvers", "rotate", "alice", *enrol(config)[2:])
    assert run_changed(KILLED_BEFORE_COMMIT, *rotate).returncode == -signal.SIGKILL
    assert path.with_name("alice.key.new").exists()
    if not is_whole:
        path.with_name("alice.key.new").write_text("")
    before, repeated = key_in(path), cli(*rotate).stdout
    assert f" replaces {before}, which signed it" in repeated
    assert key_in(path) == enrolled_keys(config)[1]["key"]
    aside = [*config.parent.glob("alice.key.new.*")]
    assert len(aside) == is_whole  # another guard may have enrolled it
    assert all(f"maybe at another guard, is now in {file}" in repeated for file in aside)


ROTATED_MEANWHILE = """
import subprocess
from mcp_guard.ledger.approvals import approver_keys
work = approver_keys.rotate
def rotate(*words):
    second = [sys.executable, "-m", "mcp_guard.cli", *sys.argv[1:]]
    done = subprocess.run(second, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    print(done.returncode, done.stderr)
    return work(*words)
approver_keys.rotate = rotate
"""


def test_two_rotations_at_once_take_no_key_of_each_other(config: Path) -> None:
    path, words = config.parent / "alice.key", ("approvers", "rotate", "alice", *enrol(config)[2:])
    before = key_in(path)
    first = run_changed(ROTATED_MEANWHILE, *words)
    assert first.stdout.startswith("7 mcp-guard: another rotation of the key in ")
    [old, new] = enrolled_keys(config)
    assert f"key {new['key']} of alice replaces {old['key']}" in first.stdout
    assert key_in(path) == new["key"]
    assert key_in(path.with_name(f"alice.key.{before}.old")) == before == old["key"]
    assert len(list(config.parent.glob("alice.key*"))) == 2


@pytest.mark.parametrize("is_there", [True, False])
def test_rotation_without_a_key_file_says_where_it_is_missed(config: Path, is_there: bool) -> None:
    folder = config.parent / "keys"
    if is_there:
        folder.mkdir()
    words = ("approvers", "rotate", "alice", *enrol(config)[2:], "--key-file", str(folder / "alice.key"))
    refused = run_changed("", *words)
    assert f"no key file at `{folder / 'alice.key'}`" in refused.stderr
    assert "alice is enrolled: bring the key file" in refused.stderr
    assert folder.exists() is is_there


FAILED = """
from mcp_guard.core.errors import ApprovalError, LedgerError
from mcp_guard.ledger.approvals import approver_keys
work = approver_keys.{0}
def fail(*words):
    {1}
    raise {2}("for this test")
approver_keys.{0} = fail
"""


@pytest.mark.parametrize(
    ("verb", "work", "who", "name"),
    [("add", "enrol", "bob", "bob.key"), ("rotate", "rotate", "alice", "alice.key.new")],
)
def test_a_refused_key_has_no_file_and_one_that_may_be_enrolled_has(
    config: Path, verb: str, work: str, who: str, name: str
) -> None:
    path = config.parent / name
    words = ("approvers", verb, who, *enrol(config)[2:], "--key-file", str(config.parent / f"{who}.key"))
    refused = run_changed(FAILED.format(work, "pass", "ApprovalError"), *words)
    assert "for this test" in refused.stderr
    assert not path.exists()
    in_doubt = run_changed(FAILED.format(work, "work(*words)", "LedgerError"), *words)
    assert "for this test" in in_doubt.stderr
    assert key_in(path) == enrolled_keys(config)[1]["key"]
