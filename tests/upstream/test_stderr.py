"""The copy of an upstream's stderr: bounded in bytes and in speed, and without secrets even when parts are dropped."""

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from mcp_guard.core.errors import UpstreamError
from mcp_guard.core.secret_scrubber import Scrubber
from mcp_guard.upstream.stdio import (
    MAX_STDERR_FILE_BYTES,
    OMISSION,
    StdioServerParameters,
    copy_stderr,
    open_stderr_file,
    start_process,
)

SECRET = "a-secret-of-some-length"


def copied(folder: Path, *blocks: bytes) -> bytes:
    """What is in the file after these blocks were written."""
    scrubber = Scrubber()
    scrubber.learn("it", SECRET)
    near, far = os.pipe()
    path = folder / "stderr.log"
    thread = threading.Thread(target=copy_stderr, args=(os.fdopen(near, "rb", 0), path.open("ab", 0), scrubber))
    thread.start()
    with os.fdopen(far, "wb", 0) as sink:
        for block in blocks:
            sink.write(block)
    thread.join(20)
    assert not thread.is_alive()
    return path.read_bytes()


def test_lines_are_copied_without_secrets(tmp_path: Path) -> None:
    assert copied(tmp_path, b"one\n", b"it is " + SECRET.encode() + b"\nend") == b"one\nit is [secret it]\nend"


def test_a_flood_is_left_out_and_the_file_stays_small(tmp_path: Path) -> None:
    flood = [(SECRET.encode() + b" x" * 20 + b"\n") * 1000] * 60
    kept = copied(tmp_path, *flood, b"last " + SECRET.encode())
    assert OMISSION in kept
    assert len(kept) <= MAX_STDERR_FILE_BYTES
    assert SECRET[4:].encode() not in kept


def test_a_file_that_cannot_be_written_is_named_and_not_the_command(tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    with pytest.raises(UpstreamError, match=r"its stderr cannot be written to `.*/state/upstreams/up\.stderr\.log`: "):
        open_stderr_file(tmp_path / "state" / "upstreams" / "up.stderr.log")


def test_a_file_that_is_full_is_emptied(tmp_path: Path) -> None:
    (tmp_path / "stderr.log").write_bytes(b"x" * (MAX_STDERR_FILE_BYTES - 10))
    assert copied(tmp_path, b"a line of twenty-one\n") == b"a line of twenty-one\n"


@pytest.mark.parametrize("failing", ["threading.Thread.start", "os.dup"])
def test_a_process_whose_stderr_cannot_be_copied_is_ended(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("can't start new thread") if "Thread" in failing else OSError(errno.EMFILE, "too many files")

    started: list[int] = []

    class Recorded(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            started.append(self.pid)

    monkeypatch.setattr(subprocess, "Popen", Recorded)
    monkeypatch.setattr(failing, fail)
    argv = (sys.executable, "-c", "import time; time.sleep(60)")
    with pytest.raises(UpstreamError, match=r"^cannot be started: .*(can't start new thread|too many files)"):
        start_process(StdioServerParameters("up", argv, tmp_path / "upstreams" / "up.stderr.log"))
    [pid] = started
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
