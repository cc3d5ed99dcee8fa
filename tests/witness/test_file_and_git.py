"""Witnesses that can be read back, a file and a git repository: they must hold an earlier state of the ledger."""

import subprocess
from pathlib import Path

import pytest

from mcp_guard.core.tlog import note
from mcp_guard.ledger import key_rotation
from mcp_guard.ledger.open import open_writer
from mcp_guard.settings import WitnessSettings
from mcp_guard.witness.run import WitnessRun, current_head
from tests.ledger.rotation_checks import chain, checkpoint
from tests.promises.harness import Clock
from tests.witness.rounds import Witnessing

PATH = {"PATH": "/usr/bin:/bin:/usr/local/bin"}


def git(*words: str, cwd: Path) -> str:
    return subprocess.run(("git", *words), cwd=cwd, check=True, capture_output=True, text=True).stdout


@pytest.fixture(params=["file", "one file", "git"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Witnessing:
    """A ledger of 300 receipts, and an external witness."""
    if request.param == "git":
        git("init", "--quiet", "--bare", "remote.git", cwd=tmp_path)
        options = {"remote": "remote.git", "branch": "main", "path": "ledgers/checkpoint"}
        witnessing = Witnessing(tmp_path, "git", options, PATH | {"HOME": str(tmp_path)})
    else:
        (tmp_path / "storage").mkdir()
        options = {"path": Path("storage/checkpoints"), "append": request.param == "file"}  # type: ignore[dict-item]
        witnessing = Witnessing(tmp_path, "file", options, PATH)
    witnessing.grow(300)
    return witnessing


def held(place: Witnessing) -> str:
    """The content stored at the witness."""
    if place.kind == "git":
        return git("show", "main:ledgers/checkpoint", cwd=place.folder / "remote.git")
    return (place.folder / "storage" / "checkpoints").read_text()


def test_checkpoint_is_stored_and_recorded(place: Witnessing) -> None:
    sent = checkpoint(place.state)
    assert place.send().state == "taken"
    assert held(place).strip("\n") == sent.strip("\n")
    [said] = place.witnessed()
    head, _ = note.parse(sent)
    assert (said["witness"], said["method"], said["size"]) == ("outside", place.kind, head.size)
    assert f"\n{said['root']}\n" in sent
    list(chain(place.state, place.verifier))


def test_next_checkpoint_extends_the_last(place: Witnessing) -> None:
    place.send()
    for count in (1, 255, 700):
        place.grow(count)
        assert place.send().state == "taken"
    sizes = [item["size"] for item in place.witnessed()]
    assert sizes == [300, 302, 558, 1259]
    assert [item["evidence"].get("continues") for item in place.witnessed()] == [None, *sizes[:-1]]
    kept = held(place).count("test.example/ledger\n")
    assert kept == (4 if place.options.get("append") else 1)


def test_unrecorded_checkpoint_is_not_sent_twice(place: Witnessing) -> None:
    place.keep()
    place.send()
    before = held(place)
    place.roll_back()  # as if the guard had died before recording it
    assert place.send().state == "taken"
    assert held(place) == before
    assert len(place.witnessed()) == 1


def test_witness_with_a_later_head_is_not_a_contradiction(place: Witnessing) -> None:
    writer = open_writer(place.settings, Clock())
    round = WitnessRun(writer, place.state, place.environment, current_head(writer))
    place.grow(7)
    place.send()
    result = round.send("outside", WitnessSettings(place.kind, place.options, place.folder))
    assert (result.state, result.size) == ("taken", 308)


def test_rolled_back_ledger_is_reported_and_nothing_is_overwritten(place: Witnessing) -> None:
    place.keep()
    place.grow(10)
    place.send()
    before = held(place)
    place.roll_back()
    result = place.send()
    assert result.state == "contradicted"
    assert "the witness has seen 310 receipts, but the ledger has 300" in result.text
    assert held(place) == before
    assert place.witnessed() == []


def test_forked_ledger_is_reported_at_any_size(place: Witnessing) -> None:
    place.keep()
    place.grow(10)
    place.send()
    before = held(place)
    place.roll_back()
    place.grow(400, "another story")
    result = place.send()
    assert result.state == "contradicted"
    assert "differs from the ledger's first 310" in result.text
    assert held(place) == before


def test_ledger_rolled_back_before_a_rotation_is_reported(place: Witnessing) -> None:
    """The rolled-back ledger does not know the key of the newest stored checkpoint."""
    place.send()
    place.keep()
    key_rotation.rotate(place.settings, Clock())
    place.grow(5)
    place.send()
    before = held(place)
    place.roll_back()
    place.grow(50, "another story")
    result = place.send()
    assert result.state == "contradicted"
    assert "is not signed by a key of this ledger" in result.text
    assert held(place) == before


def test_another_ledgers_checkpoint_is_not_overwritten(place: Witnessing, tmp_path: Path) -> None:
    place.send()
    before = held(place)
    other = tmp_path / "elsewhere"
    other.mkdir()
    options = {name: value if name != "remote" else "../remote.git" for name, value in place.options.items()}
    options |= {"path": Path("..", place.options["path"])} if place.kind == "file" else {}
    stranger = Witnessing(other, place.kind, options, place.environment)
    stranger.grow(400)
    result = stranger.send()
    assert result.state == "contradicted"
    assert "is not signed by a key of this ledger" in result.text
    assert held(place) == before


def test_a_rotation_changes_nothing_for_the_witness(place: Witnessing) -> None:
    place.send()
    key_rotation.rotate(place.settings, Clock())
    assert place.send().state == "taken"
    place.grow(5)
    assert place.send().state == "taken"


def test_emptied_witness_restarts_only_on_request(place: Witnessing) -> None:
    place.send()
    if place.kind == "git":
        git("update-ref", "-d", "refs/heads/main", cwd=place.folder / "remote.git")
    else:
        (place.folder / "storage" / "checkpoints").unlink()
    place.grow(1)
    result = place.send()
    assert result.state == "contradicted"
    assert "the witness no longer has the checkpoint of 300 receipts" in result.text
    assert place.send(anew=True).state == "taken"
    assert "\n302\n" in held(place)


def test_rolled_back_witness_is_reported(place: Witnessing) -> None:
    place.send()
    before = held(place)
    commit = git("rev-parse", "main", cwd=place.folder / "remote.git").strip() if place.kind == "git" else ""
    place.grow(5)
    place.send()
    if place.kind == "git":
        git("update-ref", "refs/heads/main", commit, cwd=place.folder / "remote.git")
    else:
        (place.folder / "storage" / "checkpoints").write_text(before)
    result = place.send()
    assert result.state == "taken"
    assert result.text == "the witness held only 300 receipts, although it had been sent 306"


# A file


@pytest.fixture
def file(tmp_path: Path) -> Witnessing:
    (tmp_path / "storage").mkdir()
    witnessing = Witnessing(tmp_path, "file", {"path": Path("storage/checkpoints"), "append": True}, PATH)
    witnessing.grow(3)
    witnessing.send()
    return witnessing


def test_unmounted_folder_is_not_created(file: Witnessing) -> None:
    (file.folder / "storage" / "checkpoints").unlink()
    (file.folder / "storage").rmdir()
    result = file.send()
    assert result.state == "failed"
    assert "is its storage mounted?" in result.text
    assert not (file.folder / "storage").exists()


@pytest.mark.parametrize("cut", [1, 2, 30, 90, 120, 160])
def test_truncated_checkpoint_is_skipped(file: Witnessing, cut: int) -> None:
    path = file.folder / "storage" / "checkpoints"
    whole = path.read_text()
    file.grow(1)
    file.send()
    path.write_text(path.read_text()[:-cut])
    assert file.send().state == "taken"
    file.grow(1)
    assert file.send().state == "taken"
    assert file.witnessed()[-1]["evidence"]["continues"] == file.witnessed()[-2]["size"]
    assert path.read_text().startswith(whole)


def test_invalid_content_is_reported_and_left_alone(file: Witnessing) -> None:
    path = file.folder / "storage" / "checkpoints"
    path.write_text("rubbish\n")
    result = file.send()
    assert (result.state, result.text) == ("contradicted", "the witness returned something other than a checkpoint")
    assert path.read_text() == "rubbish\n"


# Git


@pytest.fixture
def remote(tmp_path: Path) -> Witnessing:
    git("init", "--quiet", "--bare", "remote.git", cwd=tmp_path)
    options = {"remote": str(tmp_path / "remote.git"), "branch": "main", "path": "checkpoint"}
    witnessing = Witnessing(tmp_path, "git", options, PATH | {"HOME": str(tmp_path)})
    witnessing.grow(3)
    return witnessing


def test_every_checkpoint_is_a_commit_and_other_files_are_kept(remote: Witnessing) -> None:
    remote.send()
    git("clone", "--quiet", "--branch", "main", "remote.git", "clone", cwd=remote.folder)
    clone = remote.folder / "clone"
    (clone / "README").write_text("kept by somebody else\n")
    git("add", "README", cwd=clone)
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "-m", "a file", cwd=clone)
    git("push", "--quiet", cwd=clone)
    remote.grow(1)
    remote.send()
    assert git("ls-tree", "--name-only", "main", cwd=remote.folder / "remote.git").split() == ["README", "checkpoint"]
    log = git("log", "--format=%an %s", "main", cwd=remote.folder / "remote.git").splitlines()
    assert log == ["mcp-guard Checkpoint of 5 receipts", "a a file", "mcp-guard Checkpoint of 3 receipts"]
    commits = git("log", "--format=%H", "main", cwd=remote.folder / "remote.git").split()
    assert [item["evidence"]["commit"] for item in remote.witnessed()] == [commits[2], commits[0]]


def test_missing_remote_is_reported_without_its_address(remote: Witnessing) -> None:
    remote.options["remote"] = "https://user:s3cret@127.0.0.1:1/ledger.git"
    result = remote.send()
    assert result.state == "failed"
    assert "git ls-remote" in result.text
    assert "s3cret" not in result.text
    assert "127.0.0.1" not in result.text
    assert remote.witnessed() == []


def test_refused_push_is_reported(remote: Witnessing) -> None:
    hook = remote.folder / "remote.git" / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    result = remote.send()
    assert result.state == "failed"
    assert "git push" in result.text
    assert remote.witnessed() == []
