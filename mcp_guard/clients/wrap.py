"""Plans the wrapping of a client's servers: computes the new text of both files, and writes nothing."""

import re
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, count
from pathlib import Path

from mcp_guard.clients import jsonc, toml_servers
from mcp_guard.clients.jsonc import Node, replace_members
from mcp_guard.clients.known import Host, ServerSection
from mcp_guard.clients.restrictions import Restrictions
from mcp_guard.clients.server_entries import GUARD, ClientServer, NotWrapped, guard_entry, numbered, read_server
from mcp_guard.clients.toml_sections import TomlBlock, agent_block, append_blocks, read_toml, table, upstream_block
from mcp_guard.core.errors import ConfigError
from mcp_guard.core.visible_text import visible

NameEntry = Callable[[str, str, Collection[str]], str]
"""Takes a preferred name, a secret and names for others; returns the entry of the keyring for the secret."""
Place = tuple[str | int, ...]
"""The keys that lead to a value of the guard's configuration."""


@dataclass(frozen=True, slots=True)
class WrapRequest:
    """What to wrap, and how. `command` starts `mcp-guard`; `is_sole` if no other file is wrapped into `config` yet."""

    config: Path
    command: tuple[str, ...]
    owner: str
    names: tuple[str, ...] = ()
    agent: str = ""
    earlier_agent: str = ""
    """The agent of an earlier wrap of these servers, which the client keeps."""
    is_sole: bool = True
    keyring_entry: NameEntry | None = None
    """None if secrets stay in the configuration."""
    restrictions: Restrictions = field(default_factory=Restrictions)
    """Those of the client's settings."""


@dataclass(frozen=True, slots=True)
class LeftServer:
    """A server that stays as it is, and why. `is_harmless` if it may well stay beside the guard."""

    name: str
    reason: str
    is_harmless: bool


@dataclass(frozen=True, slots=True)
class WrapPlan:
    """`reused` names upstreams that the configuration had already, `others` those that were wrapped before.

    If `is_guarded`, the client's file had the guard's entry already, and `agent` is empty.
    """

    entry: str
    agent: str
    is_guarded: bool
    wrapped: tuple[ClientServer, ...] = ()
    left: tuple[LeftServer, ...] = ()
    reused: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    blocks: tuple[TomlBlock, ...] = ()
    moved: Mapping[str, str] = field(default_factory=dict)
    """The secrets that move to the keyring, by entry."""
    client_text: str = ""
    config_text: str = ""


def is_toml(path: str) -> bool:
    return path.endswith(".toml")


def parse_file(text: str, path: str, key: Sequence[str]) -> Node:
    """A client's file, with the spans of its servers below `key`. Raises: ConfigError."""
    return toml_servers.parse(text, key[0], path) if is_toml(path) else jsonc.parse(text, path)


def servers_at(document: Node, key: Sequence[str]) -> Node | None:
    """The object of servers below these keys, or None."""
    node = document
    for part in key:
        member = node.last(part)
        if member is None:
            return None
        node = member.node
    return node if isinstance(node.value, dict) else None


def values_at(document: object, key: Sequence[str]) -> dict[str, object]:
    """The object below these keys in a parsed document; empty if there is none."""
    for part in key:
        document = document.get(part) if isinstance(document, dict) else None
    return document if isinstance(document, dict) else {}


def find_guards(servers: Node, folder: Path) -> dict[str, Path]:
    """The configurations of the guards that these entries start, by the entry's name."""
    entries = {member.key: guard_entry(member.node.value) for member in servers.members}
    return {name: (folder / entry.config).resolve() for name, entry in entries.items() if entry and entry.config}


def make_plan(section: ServerSection, text: str, config_text: str, request: WrapRequest, host: Host) -> WrapPlan:
    """The plan for a client's file with this text and a guard's configuration with that one. Raises: ConfigError."""
    path = str(section.path)
    document = parse_file(text, path, section.key)
    servers = servers_at(document, section.key)
    if servers is None or not servers.members:
        raise ConfigError(
            f"`{section.path}` has no servers in `{'.'.join(section.key)}`",
            "mcp-guard wrap lists the files that it finds",
        )
    guards = find_guards(servers, section.folder)
    for name, config in guards.items():
        if config != request.config:
            hint = f"use the configuration of that guard: --config {config}"
            raise ConfigError(f"`{name}` in `{section.path}` runs another guard, with `{config}`", hint)
    guard = servers.last(next(iter(guards), "")) if guards else None
    existing = guard.node.value if guard else None
    builder = _PlanBuilder(section, request, host, read_toml(config_text), existing)
    chosen, left = _choose(servers, guards, request, builder)
    entry = guard.key if guard else _entry_name(servers, {server.name for server in chosen})
    placed = [builder.place(server) for server in chosen]
    agent, value = builder.guard(placed) if placed else ("", {})
    if lists := request.restrictions.lists_without(entry, value) if placed else []:
        reason = f"{lists[0]} would not let the guard start: add its entry, `{entry}`, and run wrap again"
        left, placed = [*left, *(LeftServer(server.name, reason, is_harmless=False) for server in chosen)], []
    if not placed:
        return WrapPlan(entry, "", bool(guards), left=tuple(left), client_text=text, config_text=config_text)
    config_after, blocks = append_blocks(config_text, builder.blocks)
    names = {server.name for server in placed}
    if is_toml(path):
        client_after = toml_servers.replace_members(text, section.key[0], servers, names, (entry, value))
    else:
        client_after = replace_members(text, servers, names, (entry, value))
    _verify(document, parse_file(client_after, path, section.key), (section.key, names, entry, value))
    return WrapPlan(
        entry=entry,
        agent=agent,
        is_guarded=bool(guards),
        wrapped=tuple(placed),
        left=tuple(left),
        reused=tuple(builder.reused),
        others=tuple(name for name in builder.upstreams if name not in {server.upstream for server in placed}),
        blocks=tuple(blocks),
        moved=builder.moved,
        client_text=client_after,
        config_text=config_after,
    )


def _choose(
    servers: Node, guards: Collection[str], request: WrapRequest, builder: "_PlanBuilder"
) -> tuple[list[ClientServer], list[LeftServer]]:
    assert isinstance(servers.value, dict)
    if unknown := [name for name in request.names if name not in servers.value]:
        raise ConfigError(
            f"no server `{unknown[0]}` in `{builder.section.path}`", f"its servers: {', '.join(servers.value)}"
        )
    chosen: list[ClientServer] = []
    left: list[LeftServer] = []
    for name, value in servers.value.items():
        if name in guards or (request.names and name not in request.names):
            continue
        try:
            server = read_server(name, value, builder.section, builder.host)
            if refusal := request.restrictions.refusals.get(name):
                raise refusal
            chosen.append(server)
        except NotWrapped as reason:
            left.append(LeftServer(name, str(reason), reason.is_harmless))
    return chosen, left


def _entry_name(servers: Node, removed: set[str]) -> str:
    """A free name for the guard's entry. Raises: ConfigError."""
    taken = {member.key for member in servers.members} - removed
    for name in (GUARD, "mcp-guard"):
        if name not in taken:
            return name
    raise ConfigError("the client already has servers named `guard` and `mcp-guard`", "rename one of them there")


@dataclass(slots=True)
class _PlanBuilder:
    """Collects what goes into the guard's configuration, and into the guard's entry in the client's file."""

    section: ServerSection
    request: WrapRequest
    host: Host
    data: dict[str, object]
    existing: object
    """The guard's entry in the client's file, or None."""
    blocks: list[TomlBlock] = field(default_factory=list)
    passed: dict[str, str] = field(default_factory=dict)
    moved: dict[str, str] = field(default_factory=dict)
    reused: list[str] = field(default_factory=list)
    placed: set[str] = field(default_factory=set)

    @property
    def upstreams(self) -> dict[str, object]:
        return table(self.data, "upstreams")

    def place(self, server: ClientServer) -> ClientServer:
        """Add it under its own name, or a numbered one if that is taken; an identical upstream is reused, numbered or
        not."""
        number, name = 1, self._identical(server) or server.upstream
        while True:
            placed = replace(server, upstream=name)
            places = self.places(placed)
            block = upstream_block(placed, places, f"{self.section.client.title}, `{visible(server.name)}`")
            existing = self.upstreams.get(name)
            if name not in self.placed and (
                existing is None or existing == tomllib.loads(block.text)["upstreams"][name]
            ):
                break
            number += 1
            name = numbered(server.upstream, number)
        self.placed.add(name)
        for key, place in places.items():
            (self.passed if "env" in place else self.moved)[next(iter(place.values()))] = server.values[key].text
        if existing is None:
            self.blocks.append(block)
        else:
            self.reused.append(name)
        return placed

    def _identical(self, server: ClientServer) -> str:
        """The upstream that an earlier wrap has added for such a server under a numbered name; empty if none has."""
        numbers = range(2, len(self.upstreams) + 2)
        names = [server.upstream, *(numbered(server.upstream, number) for number in numbers)]
        return next((name for name in names if name in self.upstreams and self._is_same(server, name)), "")

    def _is_same(self, server: ClientServer, name: str) -> bool:
        placed = replace(server, upstream=name)
        block = upstream_block(placed, self.places(placed), "")
        return name not in self.placed and bool(self.upstreams[name] == tomllib.loads(block.text)["upstreams"][name])

    def places(self, server: ClientServer) -> dict[str, dict[str, str]]:
        """For values that the configuration only refers to: the source and its name, by variable or header."""
        places = {}
        used = {*self.passed, *self.moved}
        kind = "headers" if server.url else "env"
        for key, value in server.values.items():
            if value.is_passed:
                name = self.variable(("upstreams", server.upstream, kind, key), value.text, used)
                places[key] = {"env": name}
            elif self.request.keyring_entry and key in server.secrets:
                name = self.request.keyring_entry(f"mcp-guard/{server.upstream}.{key}", value.text, used)
                places[key] = {"keyring": name}
            else:
                continue
            used.add(name)
        return places

    def variable(self, place: Place, text: str, used: Collection[str]) -> str:
        """The variable in the guard's entry for the value at this place, by which it was passed on in an earlier wrap.

        INVARIANT: no other place in the configuration refers to it, so that no server gets the secret of another.
        """
        _, upstream, _, key = place
        plain = "MCP_GUARD_" + re.sub(r"[^A-Z0-9]", "_", f"{upstream}_{key}".upper())
        references = list(_variables_in(self.data))
        taken = {*used, *(name for other, name in references if other != place)}
        taken |= {name for name, held in self.held_variables.items() if held != text}
        earlier = [name for at, name in references if at == place and re.fullmatch(rf"{plain}(_\d+)?", name)]
        names = chain(earlier, [plain], (f"{plain}_{number}" for number in count(2)))
        return next(name for name in names if name not in taken)

    @property
    def held_variables(self) -> dict[str, object]:
        """The variables in the existing entry of the guard."""
        return table(self.existing, self.section.client.variables) if isinstance(self.existing, dict) else {}

    def agent(self) -> str:
        """The name of the client's agent; one is added if the configuration has none for it."""
        agents = table(self.data, "agents")
        name = self.request.agent or self.section.client.id
        if not self.request.agent and self.request.earlier_agent in agents:
            return self.request.earlier_agent
        if name in agents:
            return name
        if not self.request.agent and len(agents) == 1 and self.request.is_sole:
            return next(iter(agents))
        owners = [str(agent["owner"]) for agent in agents.values() if isinstance(agent, dict) and "owner" in agent]
        self.blocks.insert(0, agent_block(name, owners[0] if owners else self.request.owner, self.section.client.title))
        return name

    def guard(self, placed: Sequence[ClientServer]) -> tuple[str, dict[str, object]]:
        """The agent and the guard's entry. An existing entry only gets new variables, and longer time limits."""
        client = self.section.client
        value: dict[str, object]
        if isinstance(self.existing, dict):
            agent, value = "", dict(self.existing)
        else:
            agent = self.agent()
            program, *words = self.request.command
            args = [*words, "run", "--config", str(self.request.config), "--agent", agent]
            started = {"command": [program, *args]} if client.has_list_command else {"command": program, "args": args}
            value = {**client.extra, **started}
        passed, limits = {**self.held_variables, **self.passed}, self.time_limits(placed)
        too_short = {limit.key for limit in client.time_limits if limit.value_in(value) and limit.key not in limits}
        value = {key: member for key, member in value.items() if key not in too_short}
        return agent, {**value, **limits, **({client.variables: passed} if passed else {})}

    def time_limits(self, placed: Sequence[ClientServer]) -> dict[str, float]:
        """The client's time limits for the guard's entry: as long as it waits for any of these servers. One is left out
        if the client's default is the longest."""
        limits = {}
        for limit in self.section.client.time_limits:
            set_values = [server.time_limits.get(limit.key) for server in placed]
            set_values += [limit.value_in(self.existing)] if isinstance(self.existing, dict) else []
            longest = max((value for value in set_values if value is not None), default=0)
            if longest and (longest > limit.default or None not in set_values):
                limits[limit.key] = longest
        return limits


def _variables_in(value: object, place: Place = ()) -> Iterator[tuple[Place, str]]:
    """The variables of the environment that a configuration refers to, each with the place that does."""
    if isinstance(value, dict) and isinstance(name := value.get("env"), str):
        yield place, name
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, member in members:
        yield from _variables_in(member, (*place, key))


def _verify(before: Node, after: Node, change: tuple[Sequence[str], set[str], str, Mapping[str, object]]) -> None:
    """INVARIANT: as programs read the file, nothing but the wrapped entries differs. Raises: ConfigError."""
    key, removed, entry, value = change
    wanted = without_servers(before.value, key, removed)
    servers = values_at(wanted, key)
    servers[entry] = dict(value)
    if wanted != after.value:
        raise ConfigError("the file cannot be edited without changing more than its servers", "edit it by hand")


def without_servers(document: object, key: Sequence[str], names: set[str]) -> dict[str, object]:
    """The document without these servers."""
    assert isinstance(document, dict)
    if not key:
        return {name: value for name, value in document.items() if name not in names}
    return {**document, key[0]: without_servers(document[key[0]], key[1:], names)}
