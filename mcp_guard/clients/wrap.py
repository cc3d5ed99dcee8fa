"""What wrapping a client's servers comes to: the texts of both files as they would be. Writes and keeps nothing."""

import re
import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mcp_guard.clients import jsonc
from mcp_guard.clients.jsonc import Node, replace_members
from mcp_guard.clients.known import Host, ServerSection
from mcp_guard.clients.server_entries import GUARD, ClientServer, NotWrapped, guard_entry, numbered, read_server
from mcp_guard.clients.toml_sections import TomlBlock, agent_block, append_blocks, table, upstream_block
from mcp_guard.core.errors import ConfigError
from mcp_guard.core.printable import printable

NameEntry = Callable[[str, str], str]
"""The entry of the keyring for a secret, of a wanted name and its value."""


@dataclass(frozen=True, slots=True)
class WrapRequest:
    """What is to be done. `command` starts `mcp-guard`; `is_sole`: no other file is wrapped into this configuration."""

    config: Path
    command: tuple[str, ...]
    owner: str
    names: tuple[str, ...] = ()
    agent: str = ""
    is_sole: bool = True
    keep_secret: NameEntry | None = None


@dataclass(frozen=True, slots=True)
class WrapPlan:
    """`left` are servers that stay as they are, with the reason; `reused` are upstreams that were there already.

    `is_guarded`: the guard's entry was there already, and `agent` is empty then.
    """

    entry: str
    agent: str
    is_guarded: bool
    wrapped: tuple[ClientServer, ...] = ()
    left: tuple[tuple[str, str], ...] = ()
    reused: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    blocks: tuple[TomlBlock, ...] = ()
    moved: Mapping[str, str] = field(default_factory=dict)
    """Entries of the keyring and what each is to hold."""
    client_text: str = ""
    config_text: str = ""


def servers_at(document: Node, key: Sequence[str]) -> Node | None:
    """The object of servers below these keys, if it is there."""
    node = document
    for part in key:
        member = node.last(part)
        if member is None:
            return None
        node = member.node
    return node if isinstance(node.value, dict) else None


def values_at(document: object, key: Sequence[str]) -> dict[str, object]:
    """The same of a plain value; empty if there are none."""
    for part in key:
        document = document.get(part) if isinstance(document, dict) else None
    return document if isinstance(document, dict) else {}


def find_guards(servers: Node, folder: Path) -> dict[str, Path]:
    """The entries that start a guard with a configuration of this machine, and which."""
    found = {member.key: guard_entry(member.node.value) for member in servers.members}
    return {name: (folder / entry.config).resolve() for name, entry in found.items() if entry and entry.config}


def make_plan(spot: ServerSection, text: str, config_text: str, wish: WrapRequest, host: Host) -> WrapPlan:
    """Raises: ConfigError."""
    document = jsonc.parse(text, str(spot.path))
    servers = servers_at(document, spot.key)
    if servers is None or not servers.members:
        raise ConfigError(
            f"`{spot.path}` has no servers in `{'.'.join(spot.key)}`", "mcp-guard wrap shows what is found"
        )
    guards = find_guards(servers, spot.folder)
    for name, config in guards.items():
        if config != wish.config:
            raise ConfigError(f"`{name}` in `{spot.path}` runs another guard, with `{config}`", f"--config {config}")
    maker = _PlanBuilder(spot, wish, host, tomllib.loads(config_text))
    chosen, left = _choose(servers, guards, wish, maker)
    entry = next(iter(guards), None) or _entry_name(servers, {server.name for server in chosen})
    if not chosen:
        return WrapPlan(entry, "", bool(guards), left=tuple(left), client_text=text, config_text=config_text)
    placed = [maker.place(server) for server in chosen]
    member = servers.last(entry) if entry in guards else None
    agent, value = maker.guard(member.node.value if member else None)
    config_after, blocks = append_blocks(config_text, maker.blocks)
    client_after = replace_members(text, servers, {server.name for server in placed}, (entry, value))
    _verify(document, jsonc.parse(client_after), (spot.key, {server.name for server in placed}, entry, value))
    return WrapPlan(
        entry=entry,
        agent=agent,
        is_guarded=bool(guards),
        wrapped=tuple(placed),
        left=tuple(left),
        reused=tuple(maker.reused),
        others=tuple(name for name in maker.upstreams if name not in {server.upstream for server in placed}),
        blocks=tuple(blocks),
        moved=maker.moved,
        client_text=client_after,
        config_text=config_after,
    )


def _choose(
    servers: Node, guards: Collection[str], wish: WrapRequest, maker: "_PlanBuilder"
) -> tuple[list[ClientServer], list[tuple[str, str]]]:
    assert isinstance(servers.value, dict)
    if unknown := [name for name in wish.names if name not in servers.value]:
        raise ConfigError(f"no server `{unknown[0]}` in `{maker.spot.path}`", f"there is {', '.join(servers.value)}")
    chosen: list[ClientServer] = []
    left: list[tuple[str, str]] = []
    for name, value in servers.value.items():
        if name in guards or (wish.names and name not in wish.names):
            continue
        try:
            chosen.append(read_server(name, value, maker.spot, maker.host))
        except NotWrapped as why:
            left.append((name, str(why)))
    return chosen, left


def _entry_name(servers: Node, going: set[str]) -> str:
    """Raises: ConfigError."""
    taken = {member.key for member in servers.members} - going
    for name in (GUARD, "mcp-guard"):
        if name not in taken:
            return name
    raise ConfigError("servers named `guard` and `mcp-guard` are there already", "rename one of them in the client")


@dataclass(slots=True)
class _PlanBuilder:
    """Gathers what goes into the guard's configuration and into its entry in the client's file."""

    spot: ServerSection
    wish: WrapRequest
    host: Host
    data: dict[str, object]
    blocks: list[TomlBlock] = field(default_factory=list)
    passed: dict[str, str] = field(default_factory=dict)
    moved: dict[str, str] = field(default_factory=dict)
    reused: list[str] = field(default_factory=list)
    placed: set[str] = field(default_factory=set)

    @property
    def upstreams(self) -> dict[str, object]:
        return table(self.data, "upstreams")

    def place(self, server: ClientServer) -> ClientServer:
        """Under its own name, or one with a number if that is another server's; or as the same one, already there."""
        number, name = 1, server.upstream
        while True:
            placed = replace(server, upstream=name)
            places = self.places(placed)
            block = upstream_block(placed, places, f"{self.spot.client.title}, `{printable(server.name)}`")
            there = self.upstreams.get(name)
            if name not in self.placed and (there is None or there == tomllib.loads(block.text)["upstreams"][name]):
                break
            number += 1
            name = numbered(server.upstream, number)
        self.placed.add(name)
        for key, place in places.items():
            (self.passed if "env" in place else self.moved)[next(iter(place.values()))] = server.values[key].text
        if there is None:
            self.blocks.append(block)
        else:
            self.reused.append(name)
        return placed

    def places(self, server: ClientServer) -> dict[str, dict[str, str]]:
        """Where the values are that do not stand in the configuration."""
        places = {}
        for key, value in server.values.items():
            if value.is_passed:
                places[key] = {"env": _variable(server.upstream, key)}
            elif self.wish.keep_secret and key in server.secrets:
                places[key] = {"keyring": self.wish.keep_secret(f"mcp-guard/{server.upstream}.{key}", value.text)}
        return places

    def agent(self) -> str:
        """Which agent the client is; a new one if the configuration has none for it."""
        agents = table(self.data, "agents")
        name = self.wish.agent or self.spot.client.id
        if name in agents:
            return name
        if not self.wish.agent and len(agents) == 1 and self.wish.is_sole:
            return next(iter(agents))
        owners = [str(each["owner"]) for each in agents.values() if isinstance(each, dict) and "owner" in each]
        self.blocks.insert(0, agent_block(name, owners[0] if owners else self.wish.owner, self.spot.client.title))
        return name

    def guard(self, there: object) -> tuple[str, dict[str, object]]:
        """The agent and the guard's entry; one that is there gets no more than the variables that are new."""
        value: dict[str, object]
        if isinstance(there, dict):
            agent, value = "", dict(there)
            passed: dict[str, object] = {**table(value, "env"), **self.passed}
        else:
            agent = self.agent()
            program, *words = self.wish.command
            args = [*words, "run", "--config", str(self.wish.config), "--agent", agent]
            value, passed = {**self.spot.client.extra, "command": program, "args": args}, {**self.passed}
        return agent, {**value, "env": passed} if passed else value


def _variable(upstream: str, key: str) -> str:
    return "MCP_GUARD_" + re.sub(r"[^A-Z0-9]", "_", f"{upstream}_{key}".upper())


def _verify(before: Node, after: Node, change: tuple[Sequence[str], set[str], str, Mapping[str, object]]) -> None:
    """INVARIANT: nothing but the wrapped entries differs, as programs read the file. Raises: ConfigError."""
    key, gone, entry, value = change
    wanted = without_servers(before.value, key, gone)
    servers = values_at(wanted, key)
    servers[entry] = dict(value)
    if wanted != after.value:
        raise ConfigError("the file cannot be edited without changing more than its servers", "edit it by hand")


def without_servers(document: object, key: Sequence[str], names: set[str]) -> dict[str, object]:
    """The document with these servers left out."""
    assert isinstance(document, dict)
    if not key:
        return {name: each for name, each in document.items() if name not in names}
    return {**document, key[0]: without_servers(document[key[0]], key[1:], names)}
