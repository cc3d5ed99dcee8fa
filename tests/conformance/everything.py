"""The servers for the conformance suite, on the official SDK: its reference server, from the source archive of the
version in our lock, and one with the tasks extension, which that does not have."""

import os
import re
import subprocess
import sys
import tarfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
LOCK = ROOT / "requirements-dev.lock"
KEPT = Path(sys.prefix) / "everything"
"""Beside what the environment has installed: it is as old as that."""


def unpack() -> Path:
    """The folder of the server, fetched by its hash the first time."""
    locked = re.search(r"^mcp==(?:.*\\\n)*.*", LOCK.read_text(), re.MULTILINE)
    assert locked is not None
    version = locked.group().split("==")[1].split()[0]
    folder = KEPT / f"mcp-{version}" / "examples" / "servers" / "everything-server"
    if not folder.exists():
        KEPT.mkdir(exist_ok=True)
        wanted = KEPT / "requirements.txt"
        wanted.write_text(locked.group() + "\n")
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", "mcp", "--require-hashes"]
        subprocess.run([*pip, "-r", str(wanted), "-d", str(KEPT)], check=True)
        with tarfile.open(KEPT / f"mcp-{version}.tar.gz") as archive:
            archive.extractall(KEPT, filter="data")
    return folder


@contextmanager
def everything(port: int) -> Iterator[str]:
    """Runs the reference server on this loopback port; yields its URL."""
    words = ["-m", "mcp_everything_server", "--port", str(port), "--log-level", "ERROR"]
    with _running(words, port, PYTHONPATH=str(unpack())) as url:
        yield url


@contextmanager
def tasks(port: int) -> Iterator[str]:
    """The same for the one with the tasks extension."""
    with _running([str(Path(__file__).with_name("tasks_server.py")), str(port)], port) as url:
        yield url


@contextmanager
def _running(words: list[str], port: int, **env: str) -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, *words], env={**os.environ, **env}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    url = f"http://localhost:{port}/mcp"
    try:
        while process.poll() is None and not _answers(url):
            pass
        assert process.poll() is None, "the server has ended"
        yield url
    finally:
        process.terminate()
        process.wait(20)


def _answers(url: str) -> bool:
    try:
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=1)
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True
