"""Opens the ledger: its keys, its place, and the presence of this process as a guard."""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mcp_guard.core.approval import Route
from mcp_guard.core.errors import LedgerError, LedgerFault
from mcp_guard.core.model import RateCounter, SequenceRule
from mcp_guard.core.people import People
from mcp_guard.identity.instances import approval_id
from mcp_guard.ledger.approvals.requests import ApprovalRequests, RequestLimits
from mcp_guard.ledger.approvals.watcher import ApprovalWatcher
from mcp_guard.ledger.keeper import new_guard_id
from mcp_guard.ledger.key_chain import receipted_keys
from mcp_guard.ledger.keys import PUBLISHED, SigningKey, publish
from mcp_guard.ledger.ledger import SqlLedger
from mcp_guard.ledger.place import FILE, ledger_place
from mcp_guard.ledger.signers import LedgerKeys, make_ledger_keys
from mcp_guard.ledger.writer import Writer
from mcp_guard.ports import Clock
from mcp_guard.settings import LEASE_SECONDS, Settings, SignerSettings
from mcp_guard.storage.background import BackgroundReader
from mcp_guard.storage.contract import Store
from mcp_guard.storage.engines import Engine, find_engine, open_read_only, open_store
from mcp_guard.storage.place import Database, Place
from mcp_guard.storage.presence import Presence


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
    lease_seconds: float = LEASE_SECONDS
    attributes: Mapping[str, Iterable[str]] = field(default_factory=dict)
    """By resource type, the facts that an approver is shown."""
    sequences: tuple[SequenceRule, ...] = ()

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
        lease_seconds=settings.lease_seconds,
        signers=settings.signers,
        people=settings.people,
        attributes=settings.attributes,
        sequences=settings.sequences,
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

    try:
        with store.reading():
            in_force = store.head().key
            key = find_key(store, in_force) if in_force else keys.first_key()
        if not in_force:
            publish(settings.state_dir, [key.verifier])
    except BaseException:
        store.close()
        raise
    return Writer(store, key, clock, find_key, on_trouble)


def publish_keys(store: Store, folder: Path, keys: LedgerKeys) -> None:
    """Bring `ledger.pub` and the private keys in line with the ledger, in case a process died before it did so.

    INVARIANT: no key is published without the receipt that put it in force, and none destroyed without the later one.

    Raises: LedgerError.
    """
    verifiers = [key.verifier for key in receipted_keys(store)]
    publish(folder, verifiers)
    if len(verifiers) > 1:
        keys.find_key(verifiers[-1])
        keys.finish_rotation(verifiers[-1], verifiers[:-1])


def publish_own_key(settings: LedgerSettings) -> None:
    """Write `ledger.pub` for a ledger in a database if it is missing, as in a container's new state folder, with the
    key in force. Nothing is written if this machine does not hold that key. Raises: LedgerError."""
    if not isinstance(settings.place, Database) or (settings.state_dir / PUBLISHED).exists():
        return
    with open_read_only(settings.place) as store:
        verifier = store.head().key
    try:
        if verifier:
            configured_keys(settings).find_key(verifier)
            publish(settings.state_dir, [verifier])
    except LedgerError as error:
        if error.fault is not LedgerFault.KEY_UNAVAILABLE:
            raise


@dataclass(frozen=True, slots=True)
class OpenLedger:
    """The ledger as one guard process has it open, and the presence of this process as a guard."""

    ledger: SqlLedger
    approvals: ApprovalRequests
    engine: Engine
    reader: BackgroundReader
    """For people and background tasks."""

    @property
    def writer(self) -> Writer:
        return self.ledger.writer

    @property
    def guard(self) -> str:
        """The id of this process."""
        return self.ledger.guard

    @property
    def presence(self) -> Presence:
        return self.ledger.presence

    @asynccontextmanager
    async def on_loop(self) -> AsyncIterator[None]:
        """While calls are served. Raises: LedgerError."""
        async with on_loop(self.writer, self.engine, self.reader):
            self.writer.executor.listen(self.approvals.watcher.hear)
            yield

    def close(self) -> None:
        self.writer.close()
        self.presence.release()


@asynccontextmanager
async def on_loop(writer: Writer, engine: Engine, reader: BackgroundReader) -> AsyncIterator[None]:
    """While an event loop uses the ledger: it waits for no network. The reader is closed at the end.

    Raises: LedgerError.
    """
    executor = writer.executor
    writer.executor = await engine.open_executor(writer.store)
    try:
        yield
    finally:
        await reader.close()
        await writer.executor.close()
        writer.executor = executor


def open_ledger(
    settings: LedgerSettings, clock: Clock, on_trouble: Callable[[str], None] = lambda _: None
) -> OpenLedger:
    """The ledger for a guard process; `on_trouble` as in `Writer`. Raises: LedgerError."""
    writer = open_writer(settings, clock, on_trouble=on_trouble)
    engine = find_engine(settings.place)
    try:
        presence = engine.open_presence(settings.state_dir, new_guard_id(), settings.lease_seconds)
    except LedgerError:
        writer.close()
        raise
    ledger = SqlLedger(
        writer,
        presence,
        counters=settings.counters,
        sequences=settings.sequences,
        kept_response_bytes=settings.kept_response_bytes,
    )
    approvals = ApprovalRequests(
        writer,
        settings.routes,
        settings.people,
        approval_id,
        ApprovalWatcher(writer),
        settings.open_requests,
        settings.attributes,
        settings.sequences,
    )
    return OpenLedger(ledger, approvals, engine, engine.background_reader())
