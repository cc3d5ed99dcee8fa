"""Ways to kill a guard at a random point. Each is armed before the load and then triggers on its own."""

import ctypes
import os
import random
import select
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.guard_process import GuardProcess
from tests.faults.preload import DIE_AFTER, DIE_BEFORE, DIE_HALFWAY, Page, library

IN_MODIFY = 0x2
LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass
class Victim:
    """A guard to kill, with the files that the kill depends on. Once spared, no planned kill takes effect."""

    guard: GuardProcess
    page: Page
    wal: Path
    spared: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def spare(self) -> None:
        with self.lock:
            self.spared = True
        self.page.disarm()


def strike(victim: Victim) -> None:
    with victim.lock:
        if not victim.spared and victim.guard.process.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(victim.guard.pid, signal.SIGKILL)


def at_a_time(victim: Victim, luck: random.Random) -> None:
    """After up to 0.3 s."""
    timer = threading.Timer(luck.uniform(0, 0.3), strike, [victim])
    timer.daemon = True
    timer.start()


def at_a_byte(victim: Victim, luck: random.Random) -> None:
    """As soon as it has written this many bytes to its client."""
    limit = luck.randrange(12_000)

    def on_bytes(total: int) -> None:
        if total >= limit:
            strike(victim)

    victim.guard.on_bytes = on_bytes


def at_a_write_to_the_wal(victim: Victim, luck: random.Random) -> None:
    """As soon as this many writes to the write-ahead log were seen, from any guard."""
    events = LIBC.inotify_init1(os.O_CLOEXEC)
    if LIBC.inotify_add_watch(events, str(victim.wal).encode(), IN_MODIFY) < 0:
        os.close(events)
        at_a_time(victim, luck)
        return
    left = luck.randrange(1, 400)

    def watch() -> None:
        seen = 0
        while seen < left and not victim.spared:
            if select.select([events], [], [], 0.1)[0]:
                seen += len(os.read(events, 16)) // 16
        os.close(events)
        strike(victim)

    threading.Thread(target=watch, daemon=True).start()


def at_a_system_call(victim: Victim, luck: random.Random) -> None:
    """Before, halfway through, or after one of its own writes or syncs; half a write leaves a torn page."""
    victim.page.arm(victim.guard.pid, luck.choice((DIE_BEFORE, DIE_HALFWAY, DIE_AFTER)), luck.randrange(1, 900))


KILLS: tuple[Callable[[Victim, random.Random], None], ...] = (
    at_a_time, at_a_byte, at_a_write_to_the_wal, at_a_system_call,
)  # fmt: skip
"""By name of the function; besides, the upstream kills at a call, and a start is killed at a system call or a time."""


def choose(luck: random.Random) -> Callable[[Victim, random.Random], None]:
    """System calls are twice as likely: they reach the most points."""
    known = [kill for kill in KILLS if kill is not at_a_system_call or library() is not None]
    return luck.choice([*known, known[-1]])
