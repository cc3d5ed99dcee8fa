"""`mcp_guard.files`: files are written whole or not at all, and locks end with their holder."""

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mcp_guard.files import FileLock, create_file, is_locked, publish_file, remove_stale_draft, replace_file


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_created_file_has_its_contents_and_is_private(tmp_path: Path) -> None:
    create_file(tmp_path / "key", b"secret")
    assert ((tmp_path / "key").read_bytes(), mode_of(tmp_path / "key")) == (b"secret", 0o600)


def test_creating_does_not_overwrite(tmp_path: Path) -> None:
    create_file(tmp_path / "key", b"first")
    with pytest.raises(FileExistsError):
        create_file(tmp_path / "key", b"second")
    assert (tmp_path / "key").read_bytes() == b"first"


@pytest.mark.parametrize(
    ("mode", "exact", "expected"),
    [(0o600, False, 0o600), (0o644, False, 0o640), (0o644, True, 0o644), (0o400, True, 0o400)],
)
def test_a_replaced_file_has_the_mode_asked_for(tmp_path: Path, mode: int, exact: bool, expected: int) -> None:
    create_file(tmp_path / "file", b"before")
    replace_file(tmp_path / "file", b"after", mode, exact_mode=exact)
    assert ((tmp_path / "file").read_bytes(), mode_of(tmp_path / "file")) == (b"after", expected)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_link_in_the_way_is_replaced_and_not_followed(tmp_path: Path) -> None:
    create_file(tmp_path / "elsewhere", b"untouched")
    (tmp_path / "file").symlink_to(tmp_path / "elsewhere")
    replace_file(tmp_path / "file", b"new")
    assert not (tmp_path / "file").is_symlink()
    assert (tmp_path / "elsewhere").read_bytes() == b"untouched"


def be_killed_at(step: str, call: str) -> None:
    """Run a call in another process that is killed when it is about to make this system call."""
    code = f"""
import os, signal
from pathlib import Path
from mcp_guard.files import publish_file, replace_file
os.{step} = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
{call}
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_the_draft_of_a_killed_process_is_removed_by_the_next_write(tmp_path: Path, step: str) -> None:
    path = tmp_path / "token"
    be_killed_at(step, f"replace_file(Path({str(path)!r}), b'a longer secret')")
    [draft] = tmp_path.iterdir()
    assert mode_of(draft) == 0o600
    replace_file(path, b"new")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"token": b"new"}


def test_a_published_file_leaves_no_copy_even_after_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "key"
    be_killed_at("unlink", f"publish_file(Path({str(path)!r}), b'secret')")
    assert len(list(tmp_path.iterdir())) == 2
    remove_stale_draft(path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"key": b"secret"}
    with pytest.raises(FileExistsError):
        publish_file(path, b"other")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"key": b"secret"}


def test_a_link_at_the_name_of_the_draft_is_not_followed(tmp_path: Path) -> None:
    create_file(tmp_path / "elsewhere", b"untouched")
    (tmp_path / ".file.draft").symlink_to(tmp_path / "elsewhere")
    replace_file(tmp_path / "file", b"new")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"elsewhere": b"untouched", "file": b"new"}


def test_processes_that_replace_one_file_at_once_do_not_mix_their_contents(tmp_path: Path) -> None:
    path = tmp_path / "file"
    code = """
import sys
from pathlib import Path
from mcp_guard.files import remove_stale_draft, replace_file
for _ in range(200):
    replace_file(Path(sys.argv[1]), sys.argv[2].encode() * 5000, durable=False)
    remove_stale_draft(Path(sys.argv[1]))
"""
    replace_file(path, b"0" * 5000)
    writers = [subprocess.Popen([sys.executable, "-c", code, str(path), number]) for number in "1234"]
    while any(writer.poll() is None for writer in writers):
        data = path.read_bytes()
        assert (len(data), len(set(data))) == (5000, 1)
    assert [writer.returncode for writer in writers] == [0, 0, 0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def fail(*_: object) -> None:
    raise OSError("the disk is full")


def test_a_file_that_cannot_be_written_is_not_created(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="the disk is full"):
        create_file(tmp_path / "file", b"half of it")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_file_that_cannot_be_replaced_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    create_file(tmp_path / "file", b"before")
    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="the disk is full"):
        replace_file(tmp_path / "file", b"after")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"file": b"before"}


def test_contents_and_name_are_synced_unless_durability_is_waived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        synced.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    create_file(tmp_path / "created", b"one")
    assert synced == ["file", "folder"]
    replace_file(tmp_path / "file", b"one")
    assert synced == ["file", "folder"] * 2
    replace_file(tmp_path / "file", b"two", durable=False)
    assert synced == ["file", "folder"] * 2


def test_a_lock_has_one_holder_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with FileLock(path):
        assert mode_of(path) == 0o600
        assert is_locked(path)
        with pytest.raises(BlockingIOError):
            FileLock(path, wait=False)
    assert not is_locked(path)
    FileLock(path, wait=False).release()


def test_a_missing_lock_file_is_not_made_by_looking(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        is_locked(tmp_path / "lock")
    assert list(tmp_path.iterdir()) == []


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    hold = f"from pathlib import Path; from mcp_guard.files import FileLock; lock = FileLock(Path({str(path)!r}));"
    code = f"{hold} print('held', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        assert is_locked(path)
        process.kill()
        process.wait()
    FileLock(path)  # the lock ends with its process
