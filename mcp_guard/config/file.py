"""The models of the configuration file, checked by pydantic, and their conversion to `Settings`.

Every error names the file, the key and what to do.
"""

import re
import sys
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from mcp_guard.config.cache import STATE_DIR, Checked
from mcp_guard.config.errors import describe_problems, nearest_or, no_upstream_of
from mcp_guard.config.hooks import HooksConfig, pin_rules, upstream_names, with_host_rules
from mcp_guard.config.ledger import LedgerConfig, WitnessConfig, WitnessName
from mcp_guard.config.network import NetworkConfig
from mcp_guard.config.notifiers import NotifierConfig, options_of, slack_teams, slack_users
from mcp_guard.config.positions import Path as KeyPath
from mcp_guard.config.positions import describe_syntax_error, find_line, key_lines
from mcp_guard.config.risk import RiskConfig
from mcp_guard.config.routes import RouteConfig
from mcp_guard.config.serve import ConnectConfig, IssuerConfig, ServeConfig
from mcp_guard.config.telemetry import TelemetryConfig, check_metrics
from mcp_guard.config.time_zone import ZoneName
from mcp_guard.config.tools import (
    OLD_VERB,
    AttributeKind,
    EntityType,
    RateConfig,
    ResourceTypeConfig,
    SequenceConfig,
    ToolConfig,
    UriConfig,
    reserved_types,
)
from mcp_guard.config.types import ConfigModel, texts
from mcp_guard.config.upstreams import UpstreamConfig
from mcp_guard.config.web import WebConfig
from mcp_guard.core.canonical import Limits
from mcp_guard.core.errors import ConfigError
from mcp_guard.core.model import Agent, Mode
from mcp_guard.core.names import NAME_LIMIT
from mcp_guard.core.people import OWN_NAMES, Identity, People, fold
from mcp_guard.core.request_meta import BAGGAGE, FORWARDED_BY_DEFAULT, TRACE_CONTEXT, is_reserved
from mcp_guard.core.tool_pins import FirstUse
from mcp_guard.core.visible_text import join, visible_line
from mcp_guard.settings import (
    MAX_CREDENTIAL_DAYS,
    AgentSettings,
    ClientLimits,
    InstanceScope,
    NetworkSettings,
    NotifierSettings,
    OnCancel,
    ServeSettings,
    Settings,
)

REFERENCE = "docs/reference/configuration.md"
MIN_TOOL_NAME = 44
"""Room for the longest name of an upstream, and for the hash of a short form."""


class AgentConfig(ConfigModel):
    owner: Annotated[str, Field(min_length=1)]
    groups: tuple[str, ...] = ()
    on_behalf_of: str | None = None
    credential_seconds: Annotated[int, Field(gt=0, le=MAX_CREDENTIAL_DAYS * 86400)] = 8 * 3600
    instance: InstanceScope | None = None

    def enrolled(self, name: str) -> AgentSettings:
        agent = Agent(name, self.owner, self.groups)
        return AgentSettings(agent, self.on_behalf_of, self.credential_seconds, self.instance)


class IdentityConfig(ConfigModel):
    issuer: Annotated[str, Field(min_length=1)]
    subject: Annotated[str, Field(min_length=1)]

    def identity(self) -> Identity:
        return Identity(self.issuer, self.subject)


class ApproverConfig(ConfigModel):
    name: str
    identities: tuple[IdentityConfig, ...] = ()
    slack: Annotated[str, Field(pattern=r"^(T[A-Z0-9]+/)?[UW][A-Z0-9]+$")] | None = None


class PersonConfig(ConfigModel):
    identities: tuple[IdentityConfig, ...] = ()


class InboxConfig(ConfigModel):
    port: Annotated[int, Field(gt=0, lt=65536)] = 8765


class GuardConfig(ConfigModel):
    state_dir: Path = Path(STATE_DIR)
    policies: Path
    mode: Mode = Mode.ENFORCE
    shadow: Path | None = None
    policy_approval: str | None = None
    origin: str = "mcp-guard.local/ledger"
    hold_seconds: Annotated[float, Field(ge=0)] = 45
    on_cancel: OnCancel = OnCancel.KEEP
    instance: InstanceScope = InstanceScope.LAUNCH
    ticket_pattern: str | None = None
    time_zone: ZoneName = "UTC"
    first_use: FirstUse = FirstUse.LISTING
    plain_names: bool = False
    decide: tuple[Literal["tools", "resources", "prompts", "elicitation"], ...] = ()
    tool_name_limit: Annotated[int, Field(ge=MIN_TOOL_NAME, le=NAME_LIMIT)] = 52
    forward_meta: dict[Annotated[str, Field(min_length=1)], AttributeKind] = dict(FORWARDED_BY_DEFAULT)  # type: ignore[arg-type]
    unsafe_skip_fsync: bool = False

    @field_validator("ticket_pattern")
    @classmethod
    def compiles(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"`{pattern}` is not a valid regular expression: {error}") from None
        return pattern

    @field_validator("forward_meta")
    @classmethod
    def leaves_reserved_names(cls, members: dict[str, AttributeKind]) -> dict[str, AttributeKind]:
        for name, kind in members.items():
            if is_reserved(name):
                raise ValueError(f"`{name}` is reserved by MCP; the guard writes such members itself")
            if name in (*TRACE_CONTEXT, BAGGAGE) and kind != "string":
                raise ValueError(f'`{name}` is a text: {name} = "string"')
        return members

    @field_validator("origin")
    @classmethod
    def is_origin(cls, origin: str) -> str:
        if not re.fullmatch(r"[^\s+]+", origin):
            raise ValueError(f"`{origin}` contains a space or `+`, which a checkpoint origin must not")
        return origin


class LimitsConfig(ConfigModel):
    argument_bytes: Annotated[int, Field(gt=0)] = 1024 * 1024
    depth: Annotated[int, Field(gt=0, le=200)] = 64
    message_bytes: Annotated[int, Field(gt=0)] = 64 * 1024 * 1024
    values: Annotated[int, Field(gt=0)] = 20_000
    request_bytes: Annotated[int, Field(gt=0)] = 2 * 1024 * 1024
    listing_bytes: Annotated[int, Field(gt=0)] = 2 * 1024 * 1024
    kept_response_bytes: Annotated[int, Field(ge=0)] = 64 * 1024
    open_requests: Annotated[int, Field(ge=0)] = 50
    open_request_bytes: Annotated[int, Field(ge=0)] = 8 * 1024 * 1024
    calls_in_flight: Annotated[int, Field(gt=0)] = 256
    bytes_in_flight: Annotated[int, Field(gt=0)] = 32 * 1024 * 1024

    def client_limits(self) -> ClientLimits:
        return ClientLimits(
            message_bytes=min(self.request_bytes, self.message_bytes),
            values=self.values,
            open_requests=self.open_requests,
            open_request_bytes=self.open_request_bytes,
            in_flight=self.calls_in_flight,
            bytes_in_flight=self.bytes_in_flight,
        )


class Config(ConfigModel):
    """The whole file."""

    guard: GuardConfig
    limits: LimitsConfig = LimitsConfig()
    agents: dict[str, AgentConfig] = {}
    upstreams: dict[str, UpstreamConfig] = {}
    tools: dict[str, ToolConfig] = {}
    resources: dict[EntityType, ResourceTypeConfig] = {}
    uris: dict[Annotated[str, Field(min_length=1)], UriConfig] = {}
    rates: dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], RateConfig] = {}
    sequences: dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], SequenceConfig] = {}
    approvers: dict[str, ApproverConfig] = {}
    people: dict[str, PersonConfig] = {}
    routes: dict[str, RouteConfig] = {}
    notifiers: dict[str, NotifierConfig] = {}
    inbox: InboxConfig = InboxConfig()
    risk: RiskConfig = RiskConfig()
    serve: ServeConfig | None = None
    connect: ConnectConfig = ConnectConfig()
    issuers: dict[str, IssuerConfig] = {}
    ledger: LedgerConfig = LedgerConfig()
    witnesses: dict[WitnessName, WitnessConfig] = {}
    network: NetworkConfig = NetworkConfig()
    telemetry: TelemetryConfig | None = None
    web: WebConfig | None = None
    hooks: HooksConfig | None = None

    @model_validator(mode="before")
    @classmethod
    def has_no_null_characters(cls, data: object) -> object:
        if any("\0" in text for text in texts(data)):
            raise ValueError("a value contains the character U+0000, which no path or command can contain")
        return data

    @field_validator("upstreams")
    @classmethod
    def names_can_be_prefixes(cls, upstreams: dict[str, UpstreamConfig]) -> dict[str, UpstreamConfig]:
        if "guard" in upstreams:
            raise ValueError("`guard` is the prefix of the guard's own tools; choose another name")
        for name in upstreams:
            if not re.fullmatch(r"[a-z0-9](?:[a-z0-9-]|_(?!_)){0,22}[a-z0-9]|[a-z0-9]", name):
                raise ValueError(
                    f"`{name}` cannot prefix tool names; use up to 24 of a-z, 0-9, `-` and single `_`, "
                    "beginning and ending with a letter or digit"
                )
        return upstreams

    @model_validator(mode="after")
    def references_exist(self) -> "Config":
        for name, route in self.routes.items():
            self._check_route(name, route)
        upstreams = upstream_names(self.upstreams, self.hooks)
        for name, tool in self.tools.items():
            if name.partition("__")[0] not in upstreams:
                raise ValueError(f"tools.{name}: {no_upstream_of(name, self.upstreams)}")
            if tool.resource and tool.resource.type not in self.resources:
                type = tool.resource.type
                raise ValueError(
                    f"tools.{name}.resource.type: type `{type}` is not configured; add [resources.{type}.attributes]"
                )
        self._check_counted("rates", self.rates, upstreams)
        self._check_counted("sequences", self.sequences, upstreams)
        if both := self.rates.keys() & self.sequences.keys():
            raise ValueError(f"sequences.{min(both)}: there is a rate of this name; choose another name")
        for name in self.resources:
            if name in reserved_types(self.guard.decide):
                raise ValueError(f"resources.{name}: this type is reserved for the guard; choose another name")
        if self.guard.plain_names and len(self.upstreams) > 1:
            raise ValueError(
                f"guard.plain_names: plain names require exactly one upstream, but {len(self.upstreams)} are configured"
            )
        return self

    @model_validator(mode="after")
    def policies_can_be_approved(self) -> "Config":
        if (approval := self.guard.policy_approval) is not None and approval not in self.routes:
            hint = nearest_or(approval, self.routes, f"add [routes.{approval}]")
            raise ValueError(f"guard.policy_approval: route `{approval}` is not configured; {hint}")
        return self

    @model_validator(mode="after")
    def people_are_distinct(self) -> "Config":
        """One person is one entry, or two approvals could come from one person."""
        ids: dict[str, str] = {}
        owners: dict[IdentityConfig, str] = {}
        for kind, entries in (("approvers", self.approvers), ("people", self.people)):
            for id, person in entries.items():
                key = f"{kind}.{id}"
                if (other := ids.setdefault(fold(id), key)) != key:
                    raise ValueError(f"{key}: differs from {other} only in spelling; one person has one entry")
                for identity in person.identities:
                    if (other := owners.setdefault(identity, key)) != key:
                        name = f"`{identity.subject}` of `{identity.issuer}`"
                        raise ValueError(f"{key}.identities: {name} is already an identity of {other}")
        self._slack_users()
        return self

    def _slack_users(self) -> dict[tuple[str, str], str]:
        return slack_users({id: person.slack for id, person in self.approvers.items()}, self.notifiers.values())

    @model_validator(mode="after")
    def users_can_connect(self) -> "Config":
        if self.connect.users and (self.serve is None or self.serve.socket is None) and self.hooks is None:
            raise ValueError("connect.users: requires serve.socket, the socket that these users connect to")
        return self

    @model_validator(mode="after")
    def roles_are_for_approvers(self) -> "Config":
        for role, people in (self.web and self.web.roles) or ():
            for id in people:
                if id not in self.approvers:
                    what = f"web.roles.{role}: approver `{id}` is not configured"
                    raise ValueError(f"{what}; {nearest_or(id, self.approvers, f'add [approvers.{id}]')}")
        return self

    @model_validator(mode="after")
    def metrics_are_protected(self) -> "Config":
        if self.telemetry is not None:
            check_metrics(self.telemetry, self.serve.settings(()) if self.serve else None)
        return self

    def _check_counted(
        self, section: str, entries: Mapping[str, RateConfig | SequenceConfig], upstreams: Collection[str]
    ) -> None:
        for name, entry in entries.items():
            if unknown := [tool for tool in entry.tools if tool.partition("__")[0] not in upstreams]:
                raise ValueError(f"{section}.{name}.tools: {no_upstream_of(unknown[0], self.upstreams)}")
            entry.check_redaction(name, self.tools)

    def _check_route(self, name: str, route: RouteConfig) -> None:
        for approver in route.approvers:
            if approver not in self.approvers:
                what = f"routes.{name}.approvers: approver `{approver}` is not configured"
                raise ValueError(f"{what}; {nearest_or(approver, self.approvers, f'add [approvers.{approver}]')}")
        if route.sign_in is not None and (self.web is None or self.web.oidc is None):
            keys = ", ".join(key for key in ("acr", "mfa", "signed_in_within_seconds") if key in route.model_fields_set)
            what = f"routes.{name}: {keys} requires an identity provider that people sign in with"
            raise ValueError(f"{what}; add [web.oidc]")
        number = len(set(route.approvers))
        if route.quorum > number:
            approvers = f"{number} approver{'' if number == 1 else 's'}"
            raise ValueError(f"routes.{name}.quorum: quorum {route.quorum} exceeds the route's {approvers}")
        if route.escalate_to is not None and (route.escalate_to not in self.routes or route.escalate_to == name):
            others = [other for other in self.routes if other != name]
            suggestion = nearest_or(route.escalate_to, others, "add it to [routes]")
            raise ValueError(f"routes.{name}.escalate_to: `{route.escalate_to}` is not another route; {suggestion}")
        for notifier in route.notify:
            if notifier not in self.notifiers:
                what = f"routes.{name}.notify: notifier `{notifier}` is not configured"
                raise ValueError(f"{what}; {nearest_or(notifier, self.notifiers, f'add [notifiers.{notifier}]')}")
            if self.notifiers[notifier].kind == "push" and self.web is None:
                what = "push needs the pages at an address of your own"
                raise ValueError(f"routes.{name}.notify: {what}; add [web] with their `url`")
        if route.accept:
            self._check_acceptance(name, route)
        upstreams = upstream_names(self.upstreams, self.hooks)
        route.check_drills(f"routes.{name}", upstreams, approves_policies=name == self.guard.policy_approval)

    def _check_acceptance(self, name: str, route: RouteConfig) -> None:
        """What the buttons of a chat need, so that a route does not accept votes that nobody can give."""
        key = f"routes.{name}.accept"
        if route.sign_in is not None:
            raise ValueError(f"{key}: the route demands how approvers are signed in, which Slack does not tell")
        if self.web is None:
            raise ValueError(f"{key}: Slack sends the answers to the pages; add [web] with their `url`")
        teams = slack_teams(self.notifiers[notifier] for notifier in route.notify)
        if not teams:
            what = 'a notifier of kind "slack" with `token`, `channel`, `signing_secret` and `team`'
            raise ValueError(f"{key}: the route's `notify` needs {what}")
        if not any(team in teams and id in route.approvers for (team, _), id in self._slack_users().items()):
            what = f"none of its approvers has a Slack user of {' or '.join(teams)}"
            raise ValueError(f'{key}: {what}; add slack = "U…" to [approvers.NAME]')

    def settings(self, path: Path) -> Settings:
        """The configuration as plain values. Relative paths are resolved against the folder of `path`."""
        base_dir, guard, limits = path.parent, self.guard, self.limits
        network = self.network.settings(base_dir)
        return Settings(
            path=path,
            state_dir=base_dir / guard.state_dir,
            policies=base_dir / guard.policies,
            origin=guard.origin,
            hold_seconds=guard.hold_seconds,
            ticket_pattern=guard.ticket_pattern,
            time_zone=guard.time_zone,
            has_time_zone="time_zone" in guard.model_fields_set,
            plain_names=guard.plain_names,
            tool_name_limit=guard.tool_name_limit,
            on_cancel=guard.on_cancel,
            instance_scope=guard.instance,
            unsafe_skip_fsync=guard.unsafe_skip_fsync,
            limits=Limits(limits.argument_bytes, limits.depth),
            message_bytes=limits.message_bytes,
            listing_bytes=limits.listing_bytes,
            kept_response_bytes=limits.kept_response_bytes,
            client_limits=limits.client_limits(),
            agents={name: agent.enrolled(name) for name, agent in self.agents.items()},
            upstreams={name: upstream.settings(base_dir, network) for name, upstream in self.upstreams.items()},
            tool_rules=with_host_rules({name: tool.rule() for name, tool in self.tools.items()}, self.hooks),
            attributes={name: dict(resource.attributes) for name, resource in self.resources.items()},
            **self._counted(),
            approvers={id: approver.name for id, approver in self.approvers.items()},
            routes={name: route.route(name, self.notifiers) for name, route in self.routes.items()},
            notifiers=self._notifiers(base_dir, network),
            inbox_port=self.inbox.port,
            pin_rules=pin_rules(self.upstreams, guard.first_use, self.hooks),
            forward_meta=guard.forward_meta,
            people=self._people(),
            slack_users=self._slack_users(),
            mode=guard.mode,
            shadow=base_dir / guard.shadow if guard.shadow else None,
            policy_approval=guard.policy_approval,
            **self._decided(),
            signals=tuple(signal.signal(name, base_dir) for name, signal in self.risk.signals.items()),
            drift=self.risk.drift.rule() if self.risk.drift else None,
            serve=self._serve(base_dir),
            **self.ledger.settings(base_dir),
            witnesses={name: witness.settings(base_dir, network) for name, witness in self.witnesses.items()},
            network=network,
            telemetry=self.telemetry.settings() if self.telemetry else None,
            web=self.web.settings(base_dir) if self.web else None,
            hooks=self.hooks.settings(base_dir, base_dir / guard.state_dir, self.connect) if self.hooks else None,
        )

    def _counted(self) -> dict[str, Any]:
        sequences = tuple(sequence.rule(name) for name, sequence in self.sequences.items())
        return {"counters": tuple(rate.counter(name) for name, rate in self.rates.items()), "sequences": sequences}

    def _decided(self) -> dict[str, Any]:
        areas = tuple(area for area in dict.fromkeys(self.guard.decide) if area != "tools")
        return {"decide": areas, "uris": {pattern: uri.returns for pattern, uri in self.uris.items()}}

    def _notifiers(self, base_dir: Path, network: NetworkSettings) -> dict[str, NotifierSettings]:
        return {
            name: NotifierSettings(notifier.kind, options_of(notifier), base_dir, network)
            for name, notifier in self.notifiers.items()
        }

    def _people(self) -> People:
        users = {user for agent in self.agents.values() for user in (agent.owner, agent.on_behalf_of) if user}
        others = {identity.identity() for person in self.people.values() for identity in person.identities}
        return People(
            approvers={entry.identity(): id for id, person in self.approvers.items() for entry in person.identities},
            names={id: person.name for id, person in self.approvers.items()},
            others=frozenset(others | {Identity(OWN_NAMES, name) for name in self.people}),
            users=frozenset(users),
        )

    def _serve(self, base_dir: Path) -> ServeSettings | None:
        if self.serve is None:
            return None
        url = self.serve.settings(()).url
        served = self.serve.settings(tuple(issuer.values(base_dir, url) for issuer in self.issuers.values()))
        return replace(served, socket=self.serve.socket_settings(base_dir, self.connect))


def check(text: str, path: Path) -> Settings:
    """The settings of a configuration with this text, as if it were at `path`.

    Raises: ConfigError.
    """
    text = text.removeprefix("\ufeff")
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # overlong numbers and deep arrays raise no `TOMLDecodeError`
        hint = f"fix that line; the format: {REFERENCE}"
        raise ConfigError(describe_syntax_error(path, error), hint) from None
    try:
        return Config.model_validate(data).settings(path.resolve())
    except ValidationError as error:
        raise ConfigError(join("\n", _explain(path, text, error)), f"every key is explained in {REFERENCE}") from None


def _explain(path: Path, text: str, error: ValidationError) -> list[str]:
    """One line for each problem: the file, its line, the key and the description."""
    lines = key_lines(text)
    problems = describe_problems(error.errors(include_url=False), Config)
    return [_explain_key(path, lines, key, what) for key, what in problems]


def _explain_key(path: Path, lines: Mapping[KeyPath, int], key: KeyPath, what: str) -> str:
    line = find_line(lines, key or tuple(what.partition(": ")[0].split(".")))  # checks of the whole file name the key
    place = f"{path}:{line}" if line else str(path)
    return ": ".join(filter(None, (place, ".".join(map(str, key)), what)))


def check_and_report(text: str, path: Path) -> Checked:
    """Like `check`, and reports deprecated settings. Raises: ConfigError."""
    settings = check(text, path)
    uses_old = _uses_old_verb(text)
    if uses_old:
        _report_old_verb(path)
    return Checked(settings, not uses_old)


def _uses_old_verb(text: str) -> bool:
    """Whether a valid configuration names a tool's verb by its old key."""
    return OLD_VERB in text and any(OLD_VERB in tool for tool in tomllib.loads(text).get("tools", {}).values())


@cache
def _report_old_verb(path: Path) -> None:
    """Once per process and file."""
    sys.stderr.write(
        f"mcp-guard: {visible_line(path)}: `{OLD_VERB}` is deprecated\nhint: rename `{OLD_VERB}` to `verb` in [tools]\n"
    )
