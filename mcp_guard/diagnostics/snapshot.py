"""What the checks of `doctor` look at: a snapshot of the guard, its files and its clients."""

from dataclasses import dataclass
from enum import StrEnum

from mcp_guard.core.approval import Approval, Route
from mcp_guard.core.model import Micros
from mcp_guard.diagnostics.hidden_tools import HiddenFrom
from mcp_guard.diagnostics.identity_provider import ProviderState
from mcp_guard.diagnostics.pages import PagesState
from mcp_guard.diagnostics.reach import Reach
from mcp_guard.extras import MissingExtra
from mcp_guard.settings import ConfiguredSecret


class ResultLevel(StrEnum):
    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class FileInfo:
    """Path, mode and owner of a file or folder."""

    path: str
    mode: int
    owner: int


@dataclass(frozen=True, slots=True)
class DiskInfo:
    """Free space in bytes; the duration of a small synced write, or why it failed."""

    free: int
    sync_seconds: float
    failure: str = ""


@dataclass(frozen=True, slots=True)
class LedgerContents:
    """The content of the ledger. `checkpoint_fits` is None if there is no head; `key_id` is the current key's.

    `bytes` is the room that it takes; `damage` lists SQLite's findings; `open_calls` are pairs of intent and guard.
    """

    format: int
    known_format: int
    size: int
    last_seq: int
    last_time: Micros
    bytes: int
    checkpoint_fits: bool | None
    key_id: str
    damage: tuple[str, ...]
    open_calls: tuple[tuple[int, str], ...]
    leased: frozenset[str] = frozenset()
    """Guards that run on any machine, where the ledger says so."""


@dataclass(frozen=True, slots=True)
class PendingApproval:
    """A pending approval; `guard` is the process without which its instance cannot go on, if there is one."""

    approval: Approval
    guard: str | None


@dataclass(frozen=True, slots=True)
class RefusalTest:
    """One call that must be refused, made on a scratch ledger with the configured policies.

    `permitted` means that the policies allow the call to everybody, so it was not made.
    """

    what: str
    refused: bool
    receipted: bool
    said: str
    permitted: bool = False


@dataclass(frozen=True, slots=True)
class ClientFile:
    """The servers of an MCP client: its guard entries and its unguarded servers.

    `words` name the client in a command. `no_program` and `no_config` are missing files that its guard entries name;
    `others` are configurations of other guards; `failure` says why the file cannot be read.
    """

    title: str
    words: str
    path: str
    is_guarded: bool = False
    no_program: str = ""
    no_config: str = ""
    others: tuple[str, ...] = ()
    unguarded: tuple[str, ...] = ()
    failure: str = ""


@dataclass(frozen=True, slots=True)
class HookedFile:
    """The hooks of a coding agent in one file. `missing` are the events without the guard's hook, `changed` those whose
    hook is not as `wrap` writes it, `others` sockets of other guards, `gone` programs that do not exist, and `off` the
    setting that switches all hooks off. `is_wrapped`: this guard has put its hooks there.
    """

    title: str
    id: str
    path: str
    is_wrapped: bool
    missing: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    has_hooks: bool = False
    others: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    failure: str = ""
    off: str = ""


@dataclass(frozen=True, slots=True)
class HooksState:
    """Where the guard answers hooks (empty if it is not configured to), whether something listens there, whether a
    policy names what they ask about, the file with such policies, and the settings of coding agents on this machine."""

    socket: str = ""
    is_answered: bool = False
    has_policies: bool = True
    pack: str = ""
    files: tuple[HookedFile, ...] = ()


@dataclass(frozen=True, slots=True)
class OutgoingRoute:
    """How requests to `name` leave this machine. `proxy` is empty if directly, `cas` if only the system's are trusted.

    `exposes_secrets`: the proxy, or whoever is on the way, can read secrets. `failure` says why none can be sent.
    """

    name: str
    proxy: str = ""
    exposes_secrets: bool = False
    cas: tuple[str, ...] = ()
    failure: str = ""


@dataclass(frozen=True, slots=True)
class SecretState:
    """Whether a secret can be read: why not, and what may help. It is not known unless `is_read`."""

    secret: ConfiguredSecret
    is_read: bool = True
    failure: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class AbsentUpstream:
    """An upstream that listed no tools: why, and what may help; both empty if that is not known."""

    name: str
    why: str = ""
    lacked: str = ""
    """Names of variables that are set here and that it did not get."""
    fix: str = ""
    url: str = ""
    """Where it is, over HTTP."""


@dataclass(frozen=True, slots=True)
class TrialConnection:
    """What an MCP client got from a new guard: its revision of MCP and this many tools, or nothing and why."""

    protocol_version: str = ""
    tools: int = 0
    failure: str = ""


@dataclass(frozen=True, slots=True)
class UnnamedGroup:
    """A group of an agent that no policy names; `nearest` is the named one that may be meant, or empty."""

    agent: str
    group: str
    nearest: str

    def __str__(self) -> str:
        meant = f"; did you mean `{self.nearest}`?" if self.nearest else ""
        return f"no policy names group `{self.group}` of agent `{self.agent}`{meant}"


@dataclass(frozen=True, slots=True)
class GuardSnapshot:
    """Everything the checks look at. `failure` and `hint` say why the ledger could not be read, if it could not."""

    now: Micros
    user: int
    folder: FileInfo | None
    disk: DiskInfo | None
    ledger: str
    """Where it is."""
    file: FileInfo | None
    is_in_database: bool
    not_durable: tuple[str, str] | None
    """Why the database could lose receipts, and what to do."""
    not_writable: tuple[str, str] | None
    """Why no guard could use the database, and what to do."""
    not_for_pages: tuple[str, str] | None
    """Why the pages could not use it, and what to do."""
    unused_file: FileInfo | None
    """A ledger file in the state folder that is not the one in use."""
    failure: str
    hint: str
    contents: LedgerContents | None
    table_differences: tuple[str, ...]
    key: FileInfo | None
    key_failure: tuple[str, str] | None
    public_ids: tuple[str, ...]
    guards: tuple[tuple[str, bool], ...]
    pending: tuple[PendingApproval, ...]
    approvers_with_keys: frozenset[str]
    approvers: frozenset[str]
    """The names of the configuration."""
    policies_failure: tuple[str, str] | None
    policies_note: str
    policy_approval: tuple[str, str]
    """What of four eyes on policy needs attention, and what to do; both empty if nothing does."""
    agents: tuple[tuple[str, tuple[str | None, ...]], ...]
    """Each agent with its owner and user, who may not approve its calls."""
    routes: tuple[Route, ...]
    has_upstreams: bool
    absent: tuple[AbsentUpstream, ...]
    refusal_tests: tuple[RefusalTest, ...]
    is_observing: bool
    unsafe_keys: tuple[str, ...]
    """Configuration keys that switch off a guarantee (`Settings.unsafe_keys`)."""
    clients: tuple[ClientFile, ...]
    decide: tuple[str, ...] = ()
    """The areas of MCP that are decided beside tool calls."""
    several_keys: tuple[tuple[str, int], ...] = ()
    """Approvers with more than one key in use, and how many."""
    unmapped_issuers: tuple[str, ...] = ()
    """Issuers of tokens of whose users the configuration knows nobody."""
    outgoing: tuple[OutgoingRoute, ...] = ()
    is_served_unencrypted: bool = False
    """Whether clients on other machines may connect over plain HTTP."""
    hidden: tuple[HiddenFrom, ...] = ()
    unmatched_names: tuple[tuple[str, ResultLevel], ...] = ()
    """Names in the configuration that no tool has, in words, and how bad that is."""
    unmatched_arguments: tuple[tuple[str, ResultLevel], ...] = ()
    """Arguments in the configuration that their tool does not declare, likewise."""
    discontinued: str = ""
    """How the ledger contradicts what `mcp-guard verify` verified last on this machine; empty if it does not."""
    outdated: tuple[str, ...] = ()
    """How running guards differ from one that was started now."""
    unnamed_groups: tuple[UnnamedGroup, ...] = ()
    reached: tuple[Reach, ...] = ()
    missing_extras: tuple[MissingExtra, ...] = ()
    """What the configuration needs and is not installed."""
    secrets: tuple[SecretState, ...] = ()
    pages: PagesState | None = None
    """How the pages at `web.url` answer; None if there are none."""
    provider: ProviderState | None = None
    """The identity provider that people sign in with."""
    hooks: HooksState = HooksState()
    unread_policies: tuple[str, ...] = ()
    """Folders with policies that are not read."""
    connection: TrialConnection | None = None
    """None if no client was tried."""
