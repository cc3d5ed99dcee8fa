"""What the operator configured, as plain values: the only form in which the configuration travels."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mcp_guard.core.approval import Route
from mcp_guard.core.canonical import Limits
from mcp_guard.core.drift import DriftRule
from mcp_guard.core.errors import ConfigError
from mcp_guard.core.model import Agent, Counter, Effect, ToolRule


@dataclass(frozen=True, slots=True)
class Enrolled:
    """An agent with the defaults of its instances."""

    agent: Agent
    on_behalf_of: str | None = None
    credential_seconds: int = 8 * 3600


@dataclass(frozen=True, slots=True)
class Server:
    """How one upstream is started."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path = Path()
    timeout: float = 300


@dataclass(frozen=True, slots=True)
class NotifierSettings:
    """How one notifier is reached. A secret in `options` is `{"env": NAME}` or `{"file": PATH}`, read when it is used.

    `here` is the folder that relative paths are taken from.
    """

    kind: str
    options: Mapping[str, Any]
    here: Path


@dataclass(frozen=True, slots=True)
class OutsideSignal:
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
    here: Path


@dataclass(frozen=True, slots=True)
class Settings:
    """The whole configuration. Paths are absolute; `approvers` maps ids to names."""

    path: Path
    state_dir: Path
    policies: Path
    origin: str
    hold_seconds: float
    ticket_pattern: str | None
    unsafe_skip_fsync: bool
    limits: Limits
    message_bytes: int
    kept_response_bytes: int
    agents: Mapping[str, Enrolled]
    servers: Mapping[str, Server]
    tool_rules: Mapping[str, ToolRule]
    attributes: Mapping[str, Mapping[str, str]]
    counters: tuple[Counter, ...]
    approvers: Mapping[str, str]
    routes: Mapping[str, Route]
    notifiers: Mapping[str, NotifierSettings]
    inbox_port: int
    signals: tuple[OutsideSignal, ...] = ()
    drift: DriftRule | None = None

    @property
    def inbox(self) -> str:
        """The address of the inbox page. A passkey needs a name, so it is not 127.0.0.1."""
        return f"http://localhost:{self.inbox_port}"

    def enrolled(self, name: str | None) -> Enrolled:
        """The agent of this name; without a name, the only one.

        Raises: ConfigError.
        """
        known = ", ".join(f"`{each}`" for each in self.agents)
        if name is None and len(self.agents) > 1:
            raise ConfigError(f"{self.path}: several agents are enrolled: {known}", "say which: --agent NAME")
        name = name or next(iter(self.agents))
        if name not in self.agents:
            raise ConfigError(f"{self.path}: agent `{name}` is not enrolled; enrolled: {known}", f"add [agents.{name}]")
        return self.agents[name]
