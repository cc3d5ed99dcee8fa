"""The section `[hooks]`: where the hooks of coding agents reach the guard, and the agent that they call as."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from mcp_guard.config.serve import ConnectConfig, SocketPath
from mcp_guard.config.types import ConfigModel
from mcp_guard.config.upstreams import UpstreamConfig
from mcp_guard.core.host_tools import HOST, RULES
from mcp_guard.core.model import ToolRule
from mcp_guard.core.tool_pins import FirstUse, PinRule
from mcp_guard.settings import HookSettings, SocketSettings

SOCKET_NAME = "hooks.sock"


class HooksConfig(ConfigModel):
    """Coding agents whose own tools the guard decides on."""

    agent: Annotated[str, Field(min_length=1)]
    socket: SocketPath | None = None
    socket_mode: Annotated[str, Field(pattern=r"^0?[0-7]{3}$")] = "0600"
    socket_group: str = ""
    prompts: Literal["keep", "skip"] = "keep"
    idle_seconds: Annotated[float, Field(gt=0)] = 43200

    def settings(self, base_dir: Path, state_dir: Path, connect: ConnectConfig) -> HookSettings:
        path = base_dir / self.socket if self.socket else state_dir / SOCKET_NAME
        socket = SocketSettings(path, int(self.socket_mode, 8), self.socket_group, connect.users)
        return HookSettings(self.agent, socket, self.prompts == "skip", self.idle_seconds)


def upstream_names(configured: Collection[str], hooks: HooksConfig | None) -> set[str]:
    """What the names of tools may begin with. Raises: ValueError if the name of the hooks' tools is taken."""
    if hooks is None:
        return {*configured}
    if HOST in configured:
        raise ValueError(f"upstreams.{HOST}: with [hooks], this name is that of the coding agent's own tools")
    return {*configured, HOST}


def with_host_rules(rules: dict[str, ToolRule], hooks: HooksConfig | None) -> dict[str, ToolRule]:
    """The rules of the configuration; what they leave open of the host's tools is as those are known."""
    if hooks is None:
        return rules
    known = {name: rules.get(name, rule) for name, rule in RULES.items()}
    return rules | {name: replace(rule, effect=rule.effect or RULES[name].effect) for name, rule in known.items()}


def pin_rules(
    upstreams: Mapping[str, UpstreamConfig], first_use: FirstUse, hooks: HooksConfig | None
) -> dict[str, PinRule]:
    """By upstream. The host's tools are the guard's own definitions, so their first one is trusted."""
    rules = {name: upstream.pin_rule(first_use) for name, upstream in upstreams.items()}
    return rules if hooks is None else rules | {HOST: PinRule(FirstUse.PIN)}
