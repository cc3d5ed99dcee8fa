"""What the operator configured, as plain values: the only form in which the configuration travels."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcp_guard.core.approval import Route
from mcp_guard.core.canonical import Limits
from mcp_guard.core.model import Agent, Effect, Mode, RateCounter, ToolRule
from mcp_guard.core.tool_pins import PinRule

if TYPE_CHECKING:  # what is not configured is not loaded
    from mcp_guard.core.anomaly import DriftRule


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """An agent with the defaults of its instances."""

    agent: Agent
    on_behalf_of: str | None = None
    credential_seconds: int = 8 * 3600


@dataclass(frozen=True, slots=True)
class SecretReference:
    """Where a secret is, never the secret itself: a name in `upstream.secrets.SOURCES`, and which one there.

    `words` are the command and its arguments, where a command prints it.
    """

    source: str
    name: str
    words: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OAuthSettings:
    """How tokens for one upstream are had. With `is_interactive` a person has signed in; else the client is itself
    whom the token is for. What is empty is discovered; `resource` is the upstream's address if it is empty."""

    client_id: str
    client_secret: SecretReference | None = None
    is_interactive: bool = False
    token_url: str = ""
    authorization_url: str = ""
    issuer: str = ""
    scope: str = ""
    resource: str = ""
    redirect_port: int = 0
    in_keyring: bool = False


@dataclass(frozen=True, slots=True)
class UpstreamSettings:
    """How one upstream is started, or with `url`, reached.

    `env` and `secrets` are what its environment gains, or what headers each request has; `secrets` are read when it is
    started, and so is `bearer`, a token. `old` says that it speaks HTTP with SSE, of 2024-11-05.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    secrets: Mapping[str, SecretReference] = field(default_factory=dict)
    cwd: Path = Path()
    timeout: float = 300
    url: str = ""
    bearer: SecretReference | None = None
    is_legacy_sse: bool = False
    oauth: OAuthSettings | None = None


@dataclass(frozen=True, slots=True)
class NotifierSettings:
    """How one notifier is reached. A secret in `options` is a `SecretReference`, read when it is used.

    `base_dir` is the folder that relative paths are taken from.
    """

    kind: str
    options: Mapping[str, Any]
    base_dir: Path


@dataclass(frozen=True, slots=True)
class SignalSettings:
    """An operator's own signal of risk: a command, or `entry`, a Python function `module:function`.

    `weight` is what it adds to the score when raised, `unknown_weight` when it does not answer in `timeout` seconds.
    """

    name: str
    argv: tuple[str, ...]
    entry: str
    weight: int
    unknown_weight: int
    timeout: float
    tools: tuple[str, ...]
    effects: tuple[Effect, ...]
    base_dir: Path


@dataclass(frozen=True, slots=True)
class SocketSettings:
    """A Unix socket, who may open it, and as which agent each user calls, by uid or name."""

    path: Path
    mode: int = 0o600
    group: str = ""
    users: Mapping[str, str] = field(default_factory=dict)

    def group_id(self) -> int:
        """Raises: OSError."""
        import grp

        try:
            return int(self.group) if self.group.isdigit() else grp.getgrnam(self.group).gr_gid
        except KeyError:
            raise OSError(f"this machine has no group `{self.group}`") from None


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """Where HTTP is served. `url` is how clients reach it, and the resource that tokens are for; `issuers` are kept as
    keyword arguments of `identity.bearer.OtherIssuer`, which only a guard that serves HTTP loads."""

    host: str
    port: int
    url: str
    hosts: frozenset[str]
    origins: frozenset[str]
    max_sessions: int
    idle_seconds: float
    issuers: tuple[Mapping[str, Any], ...] = ()
    socket: SocketSettings | None = None


@dataclass(frozen=True, slots=True)
class SignerSettings:
    """How the ledger's private key is held: `file`, `keyring` or `command`, of which alone the rest speaks.

    `public` is the verifier line of the key that the command signs with, `seconds` how long it may take, `base_dir` the
    folder that it runs in.
    """

    kind: str = "file"
    command: tuple[str, ...] = ()
    public: str = ""
    seconds: float = 5
    base_dir: Path = Path()


@dataclass(frozen=True, slots=True)
class WitnessSettings:
    """A place that checkpoints are sent to. `every_seconds` and `every_receipts` say when a guard does so by itself.

    `options`, their secrets and `base_dir` are as in `NotifierSettings`.
    """

    kind: str
    options: Mapping[str, Any]
    base_dir: Path
    every_seconds: float | None = None
    every_receipts: int | None = None

    @property
    def is_scheduled(self) -> bool:
        """Whether a running guard sends checkpoints without being told."""
        return self.every_seconds is not None or self.every_receipts is not None


@dataclass(frozen=True, slots=True)
class Settings:
    """The whole configuration. Paths are absolute; `approvers` maps ids to names, `pin_rules` are by upstream."""

    path: Path
    state_dir: Path
    policies: Path
    origin: str
    hold_seconds: float
    ticket_pattern: str | None
    plain_names: bool
    unsafe_skip_fsync: bool
    limits: Limits
    message_bytes: int
    kept_response_bytes: int
    agents: Mapping[str, AgentSettings]
    upstreams: Mapping[str, UpstreamSettings]
    tool_rules: Mapping[str, ToolRule]
    attributes: Mapping[str, Mapping[str, str]]
    counters: tuple[RateCounter, ...]
    approvers: Mapping[str, str]
    routes: Mapping[str, Route]
    notifiers: Mapping[str, NotifierSettings]
    inbox_port: int
    pin_rules: Mapping[str, PinRule]
    mode: Mode = Mode.ENFORCE
    shadow: Path | None = None
    serve: ServeSettings | None = None
    keep_payload_days: int = 0
    signers: tuple[SignerSettings, ...] = (SignerSettings(),)
    witnesses: Mapping[str, WitnessSettings] = field(default_factory=dict)
    signals: tuple[SignalSettings, ...] = ()
    drift: "DriftRule | None" = None

    @property
    def audience(self) -> str:
        """The resource that issued credentials are good for: where the guard serves HTTP, if it does."""
        return self.serve.url if self.serve else ""

    @property
    def inbox(self) -> str:
        """The address of the inbox page. A passkey needs a name, so it is not 127.0.0.1."""
        return f"http://localhost:{self.inbox_port}"
