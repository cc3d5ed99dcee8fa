"""A PostgreSQL server of the tests' own, from the system's package, on a free port of the loopback interface."""

import atexit
import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from functools import cache
from pathlib import Path

INSTALLED = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
"""Debian keeps each version's programs in a folder of its own, outside of PATH."""
MEMORY = Path("/dev/shm")
"""Where a server syncs without waiting for a disk. What a crash of the machine would lose is not tested."""
USER = "postgres"
"""As root, the server runs as this user, which the package makes: it refuses to run as root."""


_NUMBERS = itertools.count()


class Server:
    """One server with an empty cluster. Ends with the process that started it."""

    def __init__(self, where: Path | None = None) -> None:
        """In a folder that its user can read; without one, in memory."""
        self._programs = INSTALLED[-1] if INSTALLED else Path(shutil.which("postgres") or "postgres").parent
        where = where or (MEMORY if MEMORY.is_dir() else None)
        self._folder = Path(tempfile.mkdtemp(prefix="mcp-guard-postgres-", dir=where))
        self._user = USER if os.getuid() == 0 else None
        if self._user:
            shutil.chown(self._folder, USER, USER)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        data = str(self._folder / "data")
        self._run("initdb", "-D", data, "-A", "trust", "-U", "guard", "-E", "UTF8", "--locale=C", "--no-instructions")
        self.start()
        atexit.register(self.remove)

    def _run(self, program: str, *arguments: str) -> None:
        command, user = [str(self._programs / program), *arguments], self._user
        done = subprocess.run(command, capture_output=True, text=True, cwd=self._folder, user=user, group=user)
        assert done.returncode == 0, f"{program}: {done.stdout}{done.stderr}"

    def start(self) -> None:
        options = f"-p {self.port} -k {self._folder} -c listen_addresses=127.0.0.1"
        log = str(self._folder / "log")
        self._run("pg_ctl", "-D", str(self._folder / "data"), "-l", log, "-w", "-o", options, "start")

    def stop(self, mode: str = "immediate") -> None:
        """As pg_ctl does it: `immediate` is a crash."""
        self._run("pg_ctl", "-D", str(self._folder / "data"), "-m", mode, "-w", "stop")

    def pause(self) -> None:
        """No process of the server does anything until `resume`."""
        for pid in self._processes():
            os.kill(pid, signal.SIGSTOP)

    def resume(self) -> None:
        for pid in self._processes():
            os.kill(pid, signal.SIGCONT)

    @property
    def first_process(self) -> int:
        """It starts the others."""
        return int((self._folder / "data" / "postmaster.pid").read_text().split()[0])

    def _processes(self) -> list[int]:
        first = self.first_process
        return [first, *map(int, Path(f"/proc/{first}/task/{first}/children").read_text().split())]

    @property
    def url(self) -> str:
        return f"postgresql://guard@127.0.0.1:{self.port}/postgres"

    def new_database(self) -> str:
        """The URL of an empty database of its own."""
        name = f"test_{next(_NUMBERS)}"
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "guard", name)
        return self.url.replace("/postgres", f"/{name}")

    def remove(self) -> None:
        """Stop it if it runs, and remove what it has stored."""
        atexit.unregister(self.remove)
        if (self._folder / "data" / "postmaster.pid").exists():
            self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)


@cache
def server() -> Server:
    """The server of this process's tests, started when it is first needed."""
    return Server()
