"""The operator's configuration as plain values, which is the only form in which it is passed on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcp_guard.core.approval import Route
from mcp_guard.core.canonical import Limits
from mcp_guard.core.configured_names import ConfiguredName
from mcp_guard.core.identity_provider import IdentityProvider
from mcp_guard.core.model import Agent, Effect, Mode, RateCounter, SequenceRule, ToolRule
from mcp_guard.core.names import SEPARATOR, listed_name
from mcp_guard.core.people import People
from mcp_guard.core.tool_pins import PinRule

if TYPE_CHECKING:  # loaded only if it is configured
    from mcp_guard.core.anomaly import DriftRule


class OnCancel(StrEnum):
    """What becomes of the request for approval when a client cancels a call that is held: it stays open, so that the
    agent can come back to it, or it is withdrawn."""

    KEEP = "keep"
    WITHDRAW = "withdraw"


class InstanceScope(StrEnum):
    """Which launches of `run` are one instance: each one alone; all of an agent by one user of this machine; or those
    by one process of the host, for hosts that start a server for each call."""

    LAUNCH = "launch"
    AGENT = "agent"
    HOST_SESSION = "host-session"


MAX_CREDENTIAL_DAYS = 3650
LEASE_SECONDS = 15


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """An enrolled agent, with defaults for its instances. Without a `scope`, that of all agents counts."""

    agent: Agent
    on_behalf_of: str | None = None
    credential_seconds: int = 8 * 3600
    scope: InstanceScope | None = None


@dataclass(frozen=True, slots=True)
class SecretReference:
    """A reference to a secret, never the secret itself. `source` is a key of `mcp_guard.secrets.SOURCES`.

    `words` are the command and its arguments, if a command prints the secret.
    """

    source: str
    name: str
    words: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ConfiguredSecret:
    """A reference to a secret, its key in the configuration, and how long the secret has to be."""

    key: str
    reference: SecretReference
    min_characters: int = 0


@dataclass(frozen=True, slots=True)
class WebSettings:
    """Where the pages are for people's browsers. `url` is their origin, without a slash at its end; `listen` is a host
    and port, or a Unix socket. `roles` has the approvers of each role that is given by name."""

    url: str
    listen: "tuple[str, int] | SocketSettings" = ("127.0.0.1", 8764)
    certificate: Path | None = None
    key: Path | None = None
    serve: bool = True
    """Whether `mcp-guard serve` serves them as well, in a process of its own."""
    local_sign_in: bool = True
    """Whether people sign in with one-time codes and passkeys."""
    session_seconds: float = 8 * 3600
    idle_seconds: float = 30 * 60
    roles: Mapping[str, frozenset[str]] = field(default_factory=dict)
    provider: IdentityProvider | None = None
    """Where people sign in by OpenID Connect; `client_secret` is the guard's there."""
    client_secret: SecretReference | None = None


MIN_SHARED_SECRET = 32
MIN_METRICS_TOKEN = 16


@dataclass(frozen=True, slots=True)
class NetworkSettings:
    """How requests leave this machine (`network.py`). What is None is taken from the environment, if that is read.

    `proxy` is for every URL but those on this machine, unless `proxies_loopback`, and those that `no_proxy` covers. The
    certificates in `ca_file` are trusted besides those of the system.
    """

    proxy: str | SecretReference | None = None
    no_proxy: tuple[str, ...] | None = None
    ca_file: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = None
    reads_environment: bool = True
    proxies_loopback: bool = False


class OAuthGrant(StrEnum):
    """How tokens are obtained: by the guard itself, by a sign-in, or for the token of the caller (RFC 8693; ID-JAG)."""

    CLIENT_CREDENTIALS = "client_credentials"
    AUTHORIZATION_CODE = "authorization_code"
    TOKEN_EXCHANGE = "token_exchange"  # noqa: S105
    ID_JAG = "id_jag"


@dataclass(frozen=True, slots=True)
class OAuthSettings:
    """How the guard obtains tokens for one upstream.

    With `as_user`, each user of the guard has tokens of their own; otherwise all sessions use the guard's. Empty
    addresses are discovered. An empty `resource` means the upstream's address. `allowed_scopes` are those that the
    upstream may ask for, `token_auth` and `client_key` how the client identifies itself to the token endpoint.
    Without a `client_id` the guard is known by its metadata document or registers itself (`registration`; empty: as the
    server takes it). `identity_provider` is where an ID-JAG comes from; `audience` and `subject_token_type` are sent
    with an exchange.
    """

    client_id: str
    client_secret: SecretReference | None = None
    registration: str = ""
    grant: OAuthGrant = OAuthGrant.CLIENT_CREDENTIALS
    as_user: bool = False
    token_url: str = ""
    authorization_url: str = ""
    issuer: str = ""
    scope: str = ""
    resource: str = ""
    redirect_port: int = 0
    in_keyring: bool = False
    sends_resource: bool = True
    allowed_scopes: tuple[str, ...] | None = None
    token_auth: str = ""
    client_key: SecretReference | None = None
    client_key_id: str = ""
    audience: str = ""
    subject_token_type: str = ""
    identity_provider: "OAuthSettings | None" = None

    @property
    def is_interactive(self) -> bool:
        """Whether a person signs in with a browser."""
        return self.grant is OAuthGrant.AUTHORIZATION_CODE


@dataclass(frozen=True, slots=True)
class UpstreamSettings:
    """How one upstream is started, or with `url`, reached.

    `env` and `secrets` are added to its environment, or to the headers of each request. `secrets` and `bearer`, a
    token, are read when it is started. `is_legacy_sse`: it speaks HTTP with SSE (revision 2024-11-05). `share`: one
    process serves all sessions (`upstream.shared`).
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    secrets: Mapping[str, SecretReference] = field(default_factory=dict)
    cwd: Path = Path()
    timeout: float = 300
    share: bool = False
    url: str = ""
    bearer: SecretReference | None = None
    is_legacy_sse: bool = False
    oauth: OAuthSettings | None = None
    network: NetworkSettings = field(default_factory=NetworkSettings)

    @property
    def as_user(self) -> bool:
        """Whether it is called as the user on whose behalf the agent calls the guard."""
        return self.oauth is not None and self.oauth.as_user

    @property
    def signs_users_in(self) -> bool:
        """Whether each of those users signs in to it."""
        return self.oauth is not None and self.oauth.as_user and self.oauth.is_interactive


@dataclass(frozen=True, slots=True)
class NotifierSettings:
    """One notifier. A secret in `options` is a `SecretReference`, which is read when it is used.

    Relative paths are resolved against `base_dir`.
    """

    kind: str
    options: Mapping[str, Any]
    base_dir: Path
    network: NetworkSettings = field(default_factory=NetworkSettings)


@dataclass(frozen=True, slots=True)
class SignalSettings:
    """A risk signal of the operator's: a command, or `entry`, a Python function `module:function`.

    It adds `weight` to the risk score when raised, and `unknown_weight` if it does not answer in `timeout` seconds.
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
    """A Unix socket, its permissions, and the agent that each user (uid or name) calls as."""

    path: Path
    mode: int = 0o600
    group: str = ""
    users: Mapping[str, str] = field(default_factory=dict)

    def group_id(self) -> int:
        """The id of the group. Raises: OSError if it does not exist."""
        import grp

        try:
            return int(self.group) if self.group.isdigit() else grp.getgrnam(self.group).gr_gid
        except KeyError:
            raise OSError(f"this machine has no group `{self.group}`") from None


@dataclass(frozen=True, slots=True)
class HookSettings:
    """Where the hooks of coding agents are answered, and the agent that those of the guard's own user call as.

    With `skip_prompts`, an allowed call is not asked about by the coding agent's own prompts. A session without a call
    for `idle_seconds` has ended.
    """

    agent: str
    socket: SocketSettings
    skip_prompts: bool = False
    idle_seconds: float = 43200


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """How many sessions of a serving guard may be open at once: of all, of one agent, and of one instance."""

    total: int
    per_agent: int
    per_instance: int


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """Where HTTP is served. `url` is the address that clients use and the resource that tokens are for.

    `hosts` and `origins` are as configured; the host of `url` is allowed as well. `stop_seconds` is how long running
    calls may take to finish when the guard is stopped.
    `issuers` are keyword arguments of `identity.bearer.TrustedIssuer`, which only a guard that serves HTTP loads.
    """

    host: str
    port: int
    url: str
    hosts: frozenset[str]
    origins: frozenset[str]
    session_limits: SessionLimits
    idle_seconds: float
    issuers: tuple[Mapping[str, Any], ...] = ()
    socket: SocketSettings | None = None
    stop_seconds: float = 5


@dataclass(frozen=True, slots=True)
class SignerSettings:
    """The holder of the ledger's private key: `kind` is `file`, `keyring` or `command`.

    The other members are for a command: `public` is the verifier line of its key, `seconds` its time limit, and
    `base_dir` its working directory.
    """

    kind: str = "file"
    command: tuple[str, ...] = ()
    public: str = ""
    seconds: float = 5
    base_dir: Path = Path()


@dataclass(frozen=True, slots=True)
class WitnessSettings:
    """An outside witness of checkpoints. `every_seconds` and `every_receipts` are how often a running guard sends one.

    `options`, their secrets and `base_dir` are as in `NotifierSettings`.
    """

    kind: str
    options: Mapping[str, Any]
    base_dir: Path
    every_seconds: float | None = None
    every_receipts: int | None = None
    network: NetworkSettings = field(default_factory=NetworkSettings)

    @property
    def is_scheduled(self) -> bool:
        """Whether a running guard sends checkpoints automatically."""
        return self.every_seconds is not None or self.every_receipts is not None


@dataclass(frozen=True, slots=True)
class TelemetrySettings:
    """What a running guard exports: metrics, if `metrics`, and traces, if there is an `otlp_endpoint`.

    Metrics are served on the address of `serve`, or on `metrics_listen` (host and port); with a `metrics_token`, only
    to those who send it. `otlp_headers` and `otlp_secrets` are sent with traces. `sample_ratio` is the share of the
    traces that begin here which are exported.
    """

    metrics: bool = False
    metrics_listen: tuple[str, int] | None = None
    metrics_token: SecretReference | None = None
    unsafe_public_metrics: bool = False
    otlp_endpoint: str = ""
    otlp_headers: Mapping[str, str] = field(default_factory=dict)
    otlp_secrets: Mapping[str, SecretReference] = field(default_factory=dict)
    service_name: str = "mcp-guard"
    sample_ratio: float = 1.0


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """What one client may take of a guard. Sizes in bytes.

    `open_requests` and `open_request_bytes` bound the approval requests of an instance that nobody has decided on,
    `in_flight` and `bytes_in_flight` the requests of a session that are not answered yet.
    """

    message_bytes: int = 2 * 1024 * 1024
    values: int = 20_000
    open_requests: int = 50
    open_request_bytes: int = 8 * 1024 * 1024
    in_flight: int = 256
    bytes_in_flight: int = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Settings:
    """The whole configuration. Paths are absolute, `approvers` maps ids to names, and `pin_rules` are by upstream.

    `forward_meta` maps the members of `_meta` that go on to upstreams to their types.
    """

    path: Path
    state_dir: Path
    policies: Path
    origin: str
    hold_seconds: float
    ticket_pattern: str | None
    time_zone: str
    plain_names: bool
    tool_name_limit: int
    on_cancel: OnCancel
    instance_scope: InstanceScope
    unsafe_skip_fsync: bool
    limits: Limits
    message_bytes: int
    listing_bytes: int
    kept_response_bytes: int
    client_limits: ClientLimits
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
    forward_meta: Mapping[str, str]
    people: People
    slack_users: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """The approvers by the workspaces and ids of their Slack users."""
    mode: Mode = Mode.ENFORCE
    has_time_zone: bool = False
    """Whether the configuration names the time zone, instead of leaving it at the default."""
    shadow: Path | None = None
    policy_approval: str | None = None
    """The route whose approvers must approve each set of policies before it is loaded."""
    serve: ServeSettings | None = None
    keep_payload_days: int = 0
    database: SecretReference | Path | None = None
    """Where the ledger is: the URL of a database, or a file. By default a file in the state folder."""
    lease_seconds: float = LEASE_SECONDS
    """For how long the guards on a database wait for a sign of life of another, before they close its calls."""
    signers: tuple[SignerSettings, ...] = (SignerSettings(),)
    shared_secret: SecretReference | None = None
    """What the gateways of the ledger share; by default a file of the state folder has it."""
    witnesses: Mapping[str, WitnessSettings] = field(default_factory=dict)
    signals: tuple[SignalSettings, ...] = ()
    drift: "DriftRule | None" = None
    network: NetworkSettings = field(default_factory=NetworkSettings)
    telemetry: TelemetrySettings | None = None
    web: WebSettings | None = None
    hooks: HookSettings | None = None
    decide: tuple[str, ...] = ()
    """The areas of MCP that are decided beside tool calls (`core.decided_methods.AREAS`)."""
    uris: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The labels of resources, by patterns of their URIs."""
    sequences: tuple[SequenceRule, ...] = ()

    @property
    def audience(self) -> str:
        """The resource that issued credentials are valid for: the HTTP address, or an empty string without HTTP."""
        return self.serve.url if self.serve else ""

    @property
    def configured_names(self) -> tuple[ConfiguredName, ...]:
        """Every name of a tool that a rule of the configuration is for."""
        sections = [
            ConfiguredName(name, ("tools", name), self.tool_rules.keys(), rule.mode is Mode.ENFORCE)
            for name, rule in self.tool_rules.items()
        ]
        look_ups = [
            ConfiguredName(
                listed_name(name.partition(SEPARATOR)[0], rule.facts.tool),
                ("tools", name, "facts", "tool"),
                is_own=True,
            )
            for name, rule in self.tool_rules.items()
            if rule.facts is not None
        ]
        counted = [(("rates", counter.name, "tools"), counter.tools) for counter in self.counters]
        steps = [(("sequences", rule.name, "tools"), rule.tools) for rule in self.sequences]
        watched = [(("risk", "signals", signal.name, "tools"), signal.tools) for signal in self.signals]
        drills = [
            (("routes", name, "drill"), [rule.tool for rule in route.drills.rules])
            for name, route in self.routes.items()
            if route.drills
        ]
        named = (*counted, *steps, *watched, *drills)
        others = [ConfiguredName(name, key, names) for key, names in named for name in names]
        return (*sections, *look_ups, *others)

    @property
    def unsafe_keys(self) -> tuple[str, ...]:
        """The keys in the configuration, with their tables, that switch off a guarantee."""
        routes = (
            f"routes.{name}.unsafe_self_approval" for name, route in self.routes.items() if route.unsafe_self_approval
        )
        pins = (f"upstreams.{name}.unsafe_unpinned" for name, rule in self.pin_rules.items() if rule.unpinned)
        opens_metrics = self.telemetry is not None and self.telemetry.unsafe_public_metrics
        metrics = ("telemetry.unsafe_public_metrics",) if opens_metrics else ()
        return (*(("guard.unsafe_skip_fsync",) if self.unsafe_skip_fsync else ()), *routes, *pins, *metrics)

    @property
    def inbox(self) -> str:
        """The address of the inbox page. It uses a host name, because passkeys do not work with an IP address."""
        return f"http://localhost:{self.inbox_port}"

    @property
    def pages(self) -> str:
        """The address of the pages, where links lead."""
        return self.web.url if self.web else self.inbox
