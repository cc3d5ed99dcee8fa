"""Agents and their instances: what runs, on whose behalf, and until when."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mcp_guard.core.approval_card import format_minute
from mcp_guard.core.model import Micros
from mcp_guard.core.visible_text import say
from mcp_guard.ledger import registry
from mcp_guard.settings import AgentSettings
from mcp_guard.storage.contract import Store
from mcp_guard.storage.rows import InstanceRow, RevocationKey
from mcp_guard.web.console import Console, NavigationLink
from mcp_guard.web.roles import READERS

NAV = (NavigationLink("/agents", "Agents", READERS),)
PAGE = 50
"""Instances on a page."""
MAX_NAME = 100


@dataclass(frozen=True, slots=True)
class AgentRow:
    """One agent. `calls` is how many calls the ledger has of it, as far as it is indexed."""

    name: str
    owner: str
    groups: tuple[str, ...]
    on_behalf_of: str
    is_disabled: bool
    is_configured: bool
    running: int
    calls: int


@dataclass(frozen=True, slots=True)
class InstanceView:
    """One run of an agent."""

    id: str
    agent: str
    on_behalf_of: str
    ticket: str
    reason: str
    state: str
    started: str
    expires: str
    parent: str
    tools: tuple[str, ...]
    """Empty if it may use all."""
    calls: int

    @property
    def is_alive(self) -> bool:
        return self.state in ("running", "issued")


@dataclass(frozen=True, slots=True)
class _Page:
    """What is read at once for the page of agents, or of one agent."""

    agents: dict[str, AgentSettings]
    disabled: frozenset[str]
    running: Counter[str]
    instances: list[InstanceRow]
    revoked: dict[RevocationKey, Micros]


def routes(console: Console) -> list[Route]:
    pages = _AgentPages(console)
    return [Route("/agents", pages.show_all), Route("/agents/{name:path}", pages.show_one)]


@dataclass(frozen=True, slots=True)
class _AgentPages:
    console: Console

    async def show_all(self, request: Request) -> Response:
        console = self.console
        viewer = await console.allowed(request, *READERS)
        before, now = _cursor(request), console.now()
        read = await console.reader.read(lambda store: self._read(store, None, before, now))
        calls = await console.search.read(lambda index: index.numbers("agent", read.agents))
        return console.page(
            "agents.html",
            viewer,
            can_change=console.can_change(viewer),
            agents=[_agent_row(name, agent, read, calls, console) for name, agent in sorted(read.agents.items())],
            **await self._instances(read, now),
        )

    async def show_one(self, request: Request) -> Response:
        console, name = self.console, str(request.path_params["name"])
        viewer = await console.allowed(request, *READERS)
        before, now = _cursor(request), console.now()
        read = await console.reader.read(lambda store: self._read(store, name, before, now))
        if name not in read.agents and not read.instances:
            raise HTTPException(404, say("there is no agent `{}`; see the list of agents", name[:MAX_NAME]))
        calls = await console.search.read(lambda index: index.numbers("agent", [name]))
        agent = _agent_row(name, read.agents[name], read, calls, console) if name in read.agents else None
        return console.page(
            "agent.html",
            viewer,
            can_change=console.can_change(viewer),
            name=name,
            agent=agent,
            **await self._instances(read, now),
        )

    def _read(self, store: Store, agent: str | None, before: str, now: Micros) -> _Page:
        """The instances that run, or all of one agent."""
        revoked = dict(store.revocations())
        return _Page(
            registry.all_agents(self.console.settings.agents, store),
            frozenset(name for (kind, name), until in revoked.items() if kind == "agent" and until > now),
            Counter(dict(store.count_instances(now))),
            store.instances_page(before, PAGE + 1, now if agent is None else None, agent),
            revoked,
        )

    async def _instances(self, read: _Page, now: Micros) -> dict[str, Any]:
        shown = read.instances[:PAGE]
        ids = [row.instance.id for row in shown]
        calls = await self.console.search.read(lambda index: index.numbers("instance", ids))
        views = [_instance_view(row, read.revoked, calls, now) for row in shown]
        return {"instances": views, "next": ids[-1] if len(read.instances) > PAGE else ""}


def _cursor(request: Request) -> str:
    """Raises: HTTPException."""
    before = request.query_params.get("before", "")
    if len(before) > MAX_NAME or not before.isprintable():
        raise HTTPException(400, "this is not a place in the list; begin again with its first page")
    return before


def _agent_row(name: str, agent: AgentSettings, read: _Page, calls: dict[str, int], console: Console) -> AgentRow:
    return AgentRow(
        name,
        agent.agent.owner,
        agent.agent.groups,
        agent.on_behalf_of or "",
        name in read.disabled,
        name in console.settings.agents,
        read.running[name],
        calls[name],
    )


def _instance_view(
    row: InstanceRow, revoked: dict[RevocationKey, Micros], calls: dict[str, int], now: Micros
) -> InstanceView:
    instance = row.instance
    return InstanceView(
        id=instance.id,
        agent=instance.agent.name,
        on_behalf_of=instance.on_behalf_of or "",
        ticket=instance.task.ticket or "",
        reason=instance.task.reason or "",
        state=_state(row, registry.revocation_keys(instance), revoked, now),
        started=format_minute(instance.started),
        expires=format_minute(instance.expires),
        parent=instance.parents[-1] if instance.parents else "",
        tools=() if instance.tools == ("*",) else instance.tools,
        calls=calls[instance.id],
    )


def _state(row: InstanceRow, keys: Iterable[RevocationKey], revoked: dict[RevocationKey, Micros], now: Micros) -> str:
    """As `mcp-guard instances list` names it."""
    if row.ended is not None:
        return "ended"
    if now >= row.instance.expires:
        return "expired"
    if any(revoked.get(key, -1) >= row.instance.started for key in keys):
        return "revoked"
    return "running" if row.begun is not None else "issued"
