"""A guard that is shut down as the SDKs do it leaves nothing behind: their end of input, SIGTERM, SIGKILL."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.live.running_guard import SERVERS, Client, log, upstream, write_config
from tests.live.test_session import eventually

STUBBORN = """
import os, signal, subprocess, sys, threading, time
sys.path.insert(0, {servers!r})
import raw_replies
how, pids = sys.argv[1:]
if how != "listens":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
children = [os.getpid()]
if how == "family":
    sleep = [sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"]
    children += [subprocess.Popen(sleep, start_new_session=own).pid for own in (False, True)]
open(pids, "w").write(" ".join(map(str, children)))
sys.argv[1:] = []
serving = threading.Thread(target=raw_replies.main, daemon=True)
serving.start()
if how == "late":
    serving.join()
    open(pids, "a").write(" " + str(subprocess.Popen(["sleep", "60"], start_new_session=True).pid))
time.sleep(60)
"""
"""A server that does not exit at the end of its input, because another thread still works. With `ignores` and `family`
it does not exit at SIGTERM either, nor with `family` do its two processes, one of them in a session of its own. With
`late` it starts such a process at the end of its input."""


def run(tmp_path: Path, how: str) -> tuple[Client, Path]:
    script, pids = tmp_path / "stubborn.py", tmp_path / "pids"
    script.write_text(STUBBORN.format(servers=str(SERVERS)))
    config = write_config(tmp_path, upstream("up", sys.executable, str(script), how, str(pids)))
    return Client(config), pids


def is_running(pid: int) -> bool:
    try:
        return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def shut_down(client: Client) -> float:
    """As the SDKs do it; returns the seconds it took. Raises: AssertionError if the guard had to be killed."""
    assert client.process.stdin
    began = time.monotonic()
    client.process.stdin.close()
    try:
        client.process.wait(2)
    except subprocess.TimeoutExpired:
        client.process.terminate()
        client.process.wait(2)
    return time.monotonic() - began


@pytest.mark.parametrize("how", ["listens", "ignores", "family", "late"])
def test_nothing_is_left_of_a_call_that_is_under_way(tmp_path: Path, how: str) -> None:
    client, pids = run(tmp_path, how)
    with client:
        client.start()
        client.tools()
        client.send("tools/call", {"name": "up__never", "arguments": {}})
        while not any(receipt["kind"] == "intent" for receipt in log(client.config)):
            time.sleep(0.02)
        took = shut_down(client)
        left = [pid for pid in map(int, pids.read_text().split()) if is_running(pid)]
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        assert not left
        assert took < 3
        assert client.process.returncode == 0
    [outcome] = log(client.config, "--kind", "outcome")
    assert outcome["ending"] == "cancelled"
    assert log(client.config)[-1]["kind"] == "guard.stopped"


def test_a_guard_that_is_ended_while_it_starts_leaves_nothing(tmp_path: Path) -> None:
    client, pids = run(tmp_path, "ignores")
    with client:
        while not (pids.exists() and pids.read_text()):
            assert client.process.poll() is None
            time.sleep(0.005)
        client.process.terminate()
        client.process.wait(5)
        eventually(lambda: not any(map(is_running, map(int, pids.read_text().split()))))  # a kill takes a moment
