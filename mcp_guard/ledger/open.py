"""Opens the ledger: key, file, the lock of this process, and calls that dead processes left without an outcome."""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from mcp_guard.core.approval import Route
from mcp_guard.core.errors import LedgerError
from mcp_guard.core.model import ExecutionStatus, Json, RateCounter
from mcp_guard.core.people import People
from mcp_guard.core.receipt import Draft
from mcp_guard.files import FileLock, is_locked
from mcp_guard.identity.instances import random_text
from mcp_guard.ledger.approvals import transitions
from mcp_guard.ledger.approvals.requests import ApprovalRequests, RequestLimits
from mcp_guard.ledger.approvals.watcher import ApprovalWatcher
from mcp_guard.ledger.keys import SigningKey, publish
from mcp_guard.ledger.ledger import SqlLedger
from mcp_guard.ledger.place import FILE, ledger_place
from mcp_guard.ledger.signers import LedgerKeys, make_ledger_keys
from mcp_guard.ledger.writer import Transaction, Writer
from mcp_guard.ports import Clock
from mcp_guard.settings import Settings, SignerSettings
from mcp_guard.storage.contract import Store
from mcp_guard.storage.engines import Engine, find_engine, open_store
from mcp_guard.storage.place import Place

GUARDS = "guards"
"""The folder with the locks of running guards."""
COPIED_FIELDS = (
    "agent", "owner", "instance", "credential", "on_behalf_of", "user_issuer", "call", "trace", "purpose", "ticket",
    "reason", "claimed", "upstream", "tool", "definition", "resource",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class LedgerSettings:
    """Where the ledger is, and what it keeps. `origin` is its name in checkpoints and in its public key."""

    state_dir: Path
    origin: str
    routes: Mapping[str, Route] = field(default_factory=dict)
    counters: tuple[RateCounter, ...] = ()
    kept_response_bytes: int = 64 * 1024
    open_requests: RequestLimits = field(default_factory=RequestLimits)
    unsafe_skip_fsync: bool = False
    database: Place | None = None
    """Where the ledger is, if not in the usual file of the folder."""
    signers: tuple[SignerSettings, ...] = (SignerSettings(),)
    people: People = field(default_factory=People)
    attributes: Mapping[str, Iterable[str]] = field(default_factory=dict)
    """By resource type, the facts that an approver is shown."""

    @property
    def place(self) -> Place:
        return self.database or self.state_dir / FILE


def ledger_settings(settings: Settings) -> LedgerSettings:
    """Raises: ConfigError if the URL of the database cannot be read."""
    return LedgerSettings(
        state_dir=settings.state_dir,
        origin=settings.origin,
        routes=settings.routes,
        counters=settings.counters,
        kept_response_bytes=settings.kept_response_bytes,
        open_requests=RequestLimits(settings.client_limits.open_requests, settings.client_limits.open_request_bytes),
        unsafe_skip_fsync=settings.unsafe_skip_fsync,
        database=ledger_place(settings) if settings.database else None,
        signers=settings.signers,
        people=settings.people,
        attributes=settings.attributes,
    )


def configured_keys(settings: LedgerSettings) -> LedgerKeys:
    """Raises: LedgerError."""
    return make_ledger_keys(settings.state_dir, settings.origin, settings.signers)


def open_writer(
    settings: LedgerSettings,
    clock: Clock,
    create: bool = True,
    on_trouble: Callable[[str], None] = lambda _: None,
) -> Writer:
    """The ledger of this folder, for a guard or a command; `on_trouble` as in `Writer`. Raises: LedgerError."""
    store = open_store(settings.place, settings.unsafe_skip_fsync, create)
    keys = configured_keys(settings)

    def find_key(store: Store, verifier: str) -> SigningKey:
        key = keys.find_key(verifier)
        publish_keys(store, settings.state_dir, keys)
        return key

    with store.reading():
        if in_force := store.head().key:
            return Writer(store, find_key(store, in_force), clock, find_key, on_trouble)
    key = keys.first_key()
    publish(settings.state_dir, [key.verifier])
    return Writer(store, key, clock, find_key, on_trouble)


def publish_keys(store: Store, folder: Path, keys: LedgerKeys) -> None:
    """Bring `ledger.pub` and the private keys in line with the ledger, in case a process died before it did so.

    Raises: LedgerError.
    """
    verifiers = [key.verifier for key in store.guard_keys()]
    publish(folder, verifiers)
    if len(verifiers) > 1:
        keys.finish_rotation(verifiers[-1], verifiers[:-1])


@dataclass(frozen=True, slots=True)
class OpenLedger:
    """The ledger as one guard process has it open. The lock lasts as long as the process, however it ends."""

    ledger: SqlLedger
    approvals: ApprovalRequests
    lock: FileLock
    engine: Engine

    @property
    def writer(self) -> Writer:
        return self.ledger.writer

    @property
    def guard(self) -> str:
        """The id of this process."""
        return self.ledger.guard

    @asynccontextmanager
    async def on_loop(self) -> AsyncIterator[None]:
        """While calls are served: the event loop waits for no network in the steps of a call. Raises: LedgerError."""
        executor = self.writer.executor
        self.writer.executor = await self.engine.open_executor(self.writer.store)
        try:
            yield
        finally:
            await self.writer.executor.close()
            self.writer.executor = executor

    def close(self) -> None:
        self.writer.close()
        self.lock.path.unlink(missing_ok=True)
        self.lock.release()


def open_ledger(
    settings: LedgerSettings, clock: Clock, on_trouble: Callable[[str], None] = lambda _: None
) -> OpenLedger:
    """The ledger for a guard process; `on_trouble` as in `Writer`. Raises: LedgerError."""
    writer = open_writer(settings, clock, on_trouble=on_trouble)
    guard = f"guard_{random_text(12)}"
    path = settings.state_dir / GUARDS / f"{guard}.lock"
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        lock = FileLock(path)
    except OSError as error:
        raise LedgerError(f"cannot lock `{path}`: {error.strerror}", "check the folder's owner and mode") from None
    ledger = SqlLedger(writer, guard, counters=settings.counters, kept_response_bytes=settings.kept_response_bytes)
    approvals = ApprovalRequests(
        writer,
        settings.routes,
        settings.people,
        lambda: f"ap_{random_text(10)}",
        ApprovalWatcher(writer),
        settings.open_requests,
        settings.attributes,
    )
    return OpenLedger(ledger, approvals, lock, find_engine(settings.place))


def recover(writer: Writer, state_dir: Path, tell: Callable[[list[Json]], None] = lambda _: None) -> list[Json]:
    """Close every call that a dead process left without outcome as `unknown`; returns their intents (promise P9).

    A process is dead if its lock can be taken: the system releases it, even after kill -9. Nothing is run again.
    If several guards start at once, the first closes the calls. `tell` gets the intents before the commit: a process
    that dies in between has them reported twice rather than never.
    """
    guards = {guard for _, guard in writer.read(lambda store: store.open_calls())}
    dead = {guard for guard in guards if is_dead(state_dir / GUARDS / f"{guard}.lock")}
    if not dead:
        return []

    def op(tx: Transaction) -> list[Json]:
        intents = []
        for seq in [seq for seq, guard in tx.store.open_calls() if guard in dead]:
            row = tx.store.receipt(seq)
            intent: Json = orjson.loads(row.body) if row else {}
            fields = {name: intent.get(name) for name in COPIED_FIELDS}
            detail = "the guard ended before the outcome was recorded; the call may have taken effect"
            tx.store.close_call(seq)
            closed = Draft(
                "outcome", fields | {"ending": str(ExecutionStatus.UNKNOWN), "detail": detail, "follows": [seq]}
            )
            outcome, used = tx.add(closed), intent.get("approval") or {}
            if used and "grant" not in used:
                transitions.conclude(tx, used["id"], outcome, answered=False)
            intents.append(intent)
        tell(intents)
        return intents

    return writer.run(op)


def is_dead(path: Path) -> bool:
    """Whether the guard of this lock has ended; if so, its files are removed."""
    try:
        if is_locked(path):
            return False
    except FileNotFoundError:
        return True
    path.unlink(missing_ok=True)
    path.with_suffix(".upstreams").unlink(missing_ok=True)
    return True
