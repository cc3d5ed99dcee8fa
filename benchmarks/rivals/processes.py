"""The processes of a target of `make bench-rivals`: what is below it, and its processor time. Linux only."""

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path


def processes() -> dict[int, tuple[int, int]]:
    """Every process: its parent, and the CPU ticks that it and its reaped children used."""
    table = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        table[int(entry)] = int(fields[1]), sum(map(int, fields[11:15]))
    return table


def tree(root: int) -> list[int]:
    table = processes()
    found = [root]
    for parent in found:
        found += [pid for pid, (its_parent, _) in table.items() if its_parent == parent]
    return found


def cpu_us(root: int) -> float:
    table = processes()
    return sum(table[pid][1] for pid in tree(root) if pid in table) * 1e6 / os.sysconf("SC_CLK_TCK")


def stop(process: subprocess.Popen) -> None:
    """End everything below the process; strace ends with what it traces."""
    below = tree(process.pid)
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(5)
    for pid in below:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()
