"""`serve` with `[web]`: the pages run in a process of their own, which is started again when it dies."""

import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.live.preloaded_cli import PIPE, Forked
from tests.live.running_guard import cli, scripted, write_config
from tests.web.inbox_process import free_port
from tests.web.web_client import WebClient
from tests.web.web_process import HOST, OwnCertificate, make_certificate, web_section


@dataclass
class Served:
    guard: Forked
    url: str
    certificate: OwnCertificate

    def children(self) -> list[int]:
        """The processes of the pages."""
        listed = Path(f"/proc/{self.guard.pid}/task/{self.guard.pid}/children").read_text().split()
        return [int(pid) for pid in listed if b"--supervised" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    def status(self) -> int:
        """Of the sign-in page; 0 while nothing answers."""
        try:
            return WebClient(self.url, context=self.certificate.context).get("/sign-in")[0]
        except OSError:
            return 0


def wait_until_answered(served: Served) -> None:
    deadline = time.monotonic() + 60
    while served.status() != 200:
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    certificate, port = make_certificate(tmp_path), free_port()
    more = f"[serve]\nport = {free_port()}\n{web_section(port)}"
    config = write_config(tmp_path, scripted("up", tmp_path), more=more)
    guard = Forked(("serve", "--config", str(config)), stderr=PIPE, text=True)
    assert guard.stderr is not None
    with guard.stderr:
        yield Served(guard, f"https://{HOST}:{port}", certificate)
        guard.kill()
        guard.wait()


def test_pages_are_served_again_after_their_process_died_and_end_with_the_guard(served: Served) -> None:
    wait_until_answered(served)
    [child] = served.children()
    assert os.getpriority(os.PRIO_PROCESS, child) > os.getpriority(os.PRIO_PROCESS, served.guard.pid)
    os.kill(child, signal.SIGKILL)
    while served.children() == [child]:
        time.sleep(0.05)
    wait_until_answered(served)
    [child] = served.children()
    served.guard.terminate()
    assert served.guard.stderr is not None
    log = served.guard.stderr.read()
    served.guard.wait(30)
    assert "the process of the pages has ended; it starts again in 1 s. Calls are served meanwhile" in log
    assert log.count(f"serving the pages at {served.url} on 127.0.0.1 port") == 2
    assert not Path(f"/proc/{child}").exists()


def test_pages_end_with_a_guard_that_is_killed(served: Served) -> None:
    wait_until_answered(served)
    [child] = served.children()
    served.guard.kill()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{child}").exists()


def test_pages_need_their_section(tmp_path: Path) -> None:
    done = cli("web", "--config", str(write_config(tmp_path, scripted("up", tmp_path))), check=False)
    assert done.returncode == 3
    assert "missing `[web]` section" in done.stderr
    assert "mcp-guard inbox" in done.stderr


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda folder: (folder / "web.key").chmod(0o644), "is accessible to other users (mode 0644)"),
        (lambda folder: (folder / "web.crt").unlink(), "web.crt`: No such file or directory"),
        (lambda folder: (folder / "web.crt").write_text("-"), "are not a certificate and its key"),
    ],
)
def test_certificate_that_cannot_be_served_is_named(tmp_path: Path, change: object, problem: str) -> None:
    make_certificate(tmp_path)
    assert callable(change)
    change(tmp_path)
    config = write_config(tmp_path, scripted("up", tmp_path), more=web_section(free_port()))
    done = cli("web", "--config", str(config), check=False)
    assert done.returncode == 3
    assert problem in done.stderr
    assert json.loads(cli("log", "--json", "--config", str(config), check=False).stdout or "[]") == []
