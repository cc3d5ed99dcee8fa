"""Whether a guard that serves HTTP can do its work now, for `/readyz`: its ledger, its policies and its upstreams.

Upstreams belong to sessions. While a client is connected, what its session knows counts. Without one, the upstreams are
started for a listing and ended again: when somebody asks for the first time, and later from time to time.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Collection, Iterable
from pathlib import Path

from mcp_guard.core.errors import GuardError, defect_text
from mcp_guard.core.model import Tool
from mcp_guard.core.visible_text import say
from mcp_guard.downstream.http.health import Check, Readiness
from mcp_guard.downstream.session import Session
from mcp_guard.ledger.ledger import SqlLedger
from mcp_guard.upstream.status_file import UpstreamStatus

FRESH_SECONDS = 1.0
"""For how long an answer is repeated, because anybody may ask."""
PROBE_SECONDS, RETRY_SECONDS = 300.0, 15.0
"""How long the result of a listing without a client counts, if all is well and if it is not."""
PAGE = bytes(4096)

Probe = Callable[[], Awaitable[tuple[list[Tool], Collection[str]]]]
"""Starts the upstreams and ends them; returns their tools, and the names of those that listed none."""


class ReadinessChecks:
    """The checks of one process. `run` must be running.

    `remote` are the upstreams that are one server for all sessions, so that the latest knowledge of any counts.
    `sessions` are those that are open, `probe` lists the upstreams without one. `try_policies` raises GuardError if the
    policies cannot be loaded for the result, and `policy_files` is the state of their files. `note` writes a message
    for the operator.
    """

    def __init__(
        self,
        upstreams: Collection[str],
        ledger: SqlLedger,
        state_dir: Path,
        *,
        remote: Collection[str],
        sessions: Callable[[], Iterable[Session]],
        probe: Probe,
        try_policies: Callable[[list[Tool], Collection[str]], Awaitable[None]],
        policy_files: Callable[[], object],
        note: Callable[[str], None],
    ) -> None:
        self._upstreams = upstreams
        self._ledger = ledger
        self._state_dir = state_dir
        self._remote = remote
        self._sessions = sessions
        self._probe = probe
        self._try_policies = try_policies
        self._policy_files = policy_files
        self._note = note
        self._up: dict[str, bool] = {}
        """What is known of each upstream."""
        self._policies = Check.UNKNOWN
        """How they were loaded for the latest probe."""
        self._listing: tuple[list[Tool], Collection[str]] = [], ()
        """What the latest probe found."""
        self._probed: float | None = None
        """When it ended, by the event loop's clock."""
        self._tried: object = None
        """The state of the policy files that were loaded for it."""
        self._wake = asyncio.Event()
        self._checking = asyncio.Lock()
        self._latest: tuple[float, Readiness] | None = None
        self._was_ready: bool | None = None

    async def run(self) -> None:
        """Probe the upstreams whenever that is needed, until cancelled."""
        while True:
            await self._wake.wait()
            try:
                await self._look()
            except Exception as defect:  # the edge: it must not end the guard
                self._policies = Check.UNKNOWN
                self._note(say("internal error: readiness could not be checked: {}", defect_text(defect)))
            self._latest = None
            self._wake.clear()

    async def _look(self) -> None:
        """Probe the upstreams if that is due, and try the policies with what they list."""
        loop = asyncio.get_running_loop()
        if self._is_probe_due(loop.time()):
            try:
                self._listing = await self._probe()
            finally:
                self._probed = loop.time()
            self._up = {name: name not in self._listing[1] for name in self._upstreams}
        self._tried = self._policy_files()
        try:
            await self._try_policies(*self._listing)
            self._policies = Check.OK
        except GuardError as error:
            self._policies = Check.FAILING
            self._note(say("the policies could not be loaded:\n{}", str(error)))

    def known_upstreams(self) -> dict[str, bool]:
        """Whether each upstream of which anything is known can be called. Starts nothing to find out."""
        self._look_at_upstreams([session for session in self._sessions() if not session.upstreams.is_closed])
        return dict(self._up)

    async def check(self) -> Readiness:
        """How it is now, or was a moment ago."""
        async with self._checking:
            now = asyncio.get_running_loop().time()
            if self._latest is None or now - self._latest[0] >= FRESH_SECONDS:
                self._latest = now, await self._check(now)
            return self._latest[1]

    async def _check(self, now: float) -> Readiness:
        sessions = [session for session in self._sessions() if not session.upstreams.is_closed]
        policies = self._check_policies(sessions)
        is_attended = self._look_at_upstreams(sessions)
        if not is_attended and self._is_probe_due(now):
            self._wake.set()
        if not sessions and self._tried != self._policy_files():
            self._wake.set()
        readiness = Readiness(await self._check_ledger(), policies, sum(self._up.values()), len(self._upstreams))
        if readiness.is_ready() != self._was_ready and policies is not Check.UNKNOWN:
            self._was_ready = readiness.is_ready()
            self._tell(readiness)
        return readiness

    def _check_policies(self, sessions: list[Session]) -> Check:
        listed = [session for session in sessions if session.upstreams.has_catalog]
        if not listed:
            return self._policies
        return Check.OK if all(session.guard.policies.version != "none" for session in listed) else Check.FAILING

    def _look_at_upstreams(self, sessions: list[Session]) -> bool:
        """Take over what the sessions know. Returns whether they look after all upstreams that are down."""
        known: dict[str, UpstreamStatus] = {}
        for session in sessions:
            for name, status in session.upstreams.statuses().items():
                if status.is_up or not session.upstreams.connections[name].is_starting:
                    other = known.get(name)
                    is_better = status.since > other.since if other and name in self._remote else status.is_up
                    if other is None or is_better:
                        known[name] = status
        self._up |= {name: status.is_up for name, status in known.items()}
        return bool(sessions) and all(self._up.get(name) or name in known for name in self._upstreams)

    def _is_probe_due(self, now: float) -> bool:
        if self._probed is None:
            return True
        is_well = all(self._up.get(name) for name in self._upstreams)
        return now - self._probed >= (PROBE_SECONDS if is_well else RETRY_SECONDS)

    async def _check_ledger(self) -> Check:
        """Whether this guard is present, its folder takes a synced write, and the ledger a transaction, which reads so
        that it is begun."""
        if self._ledger.presence.seconds_left() <= 0:
            return Check.FAILING
        try:
            await asyncio.to_thread(write_page, self._state_dir / f".ready.{os.getpid()}")
            await self._ledger.writer.submit(lambda tx: tx.store.version())
            self._ledger.writer.check()
        except (OSError, GuardError):  # the writer reports its own
            return Check.FAILING
        return Check.OK

    def _tell(self, readiness: Readiness) -> None:
        if readiness.is_ready():
            self._note("ready")
        else:
            upstreams = f"{readiness.up} of {readiness.configured} upstreams can be called"
            self._note(f"not ready: ledger {readiness.ledger}, policies {readiness.policies}, {upstreams}")


def write_page(path: Path) -> None:
    """Write one page, sync it and remove it. Raises: OSError."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        os.write(handle, PAGE)
        os.fsync(handle)
    finally:
        os.close(handle)
        path.unlink()
