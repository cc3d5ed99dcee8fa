"""Routes the requests that are not tool calls: joins listings, and finds the upstream of a prompt or resource.

Prompts are listed as `server__prompt`, like tools, or as `tool_names.py` has it. Resource URIs stay as they are;
`resource_owners.py` says whose they are. Lists are read when a request needs them, even if the client never lists.
"""

import asyncio
from collections.abc import Iterable

from mcp_guard.core.decided_methods import COMPLETE, GET_PROMPT
from mcp_guard.core.model import Json
from mcp_guard.core.resource_uri import read_scheme
from mcp_guard.downstream.decided_requests import DecidedRequests
from mcp_guard.downstream.resource_owners import LINK_MEMBERS, ResourceOwners, comparable, find_links
from mcp_guard.downstream.tool_names import ToolNames
from mcp_guard.ports import SILENT_CHANNEL, ClientChannel
from mcp_guard.protocol.jsonrpc import error
from mcp_guard.protocol.methods import (
    CAPABILITY,
    CLIENT_REQUESTS,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    LEVELS,
    LIST_PROMPTS,
    LIST_RESOURCES,
    LIST_TEMPLATES,
    LISTS,
    LISTS_CHANGED,
    METHOD_NOT_FOUND,
    PROMPTS_CHANGED,
    READ,
    RESOURCES_CHANGED,
    SET_LEVEL,
    SUBSCRIBE,
    UNSUBSCRIBE,
    RoutingRule,
)
from mcp_guard.upstream.group import UpstreamGroup

RESOURCE_NOT_FOUND = -32002
SHOWN_AT_ONCE = 50
"""Items of a list that are decided on before others have their turn."""
MAX_SUBSCRIPTIONS = 1000
"""Subscriptions of one client that are made again when their upstream has restarted."""

Target = tuple[str, Json]
"""An upstream, and the params as it is sent them."""


class Router:
    """Remembers which upstream listed what, for one session.

    `declared` are the capabilities that the client was told of: an upstream that has not answered yet may have them.
    """

    def __init__(self, upstreams: UpstreamGroup, tool_names: ToolNames, decided: DecidedRequests) -> None:
        self.declared: Json = {}
        self._upstreams = upstreams
        self._tool_names = tool_names
        self._decided = decided
        self._prompts: dict[str, tuple[str, str]] = {}
        """The server and its own name of each prompt, by the client's name."""
        self._owners = ResourceOwners()
        self._versions: dict[tuple[str, str], int] = {}
        """The version of each upstream's list by method, as it was last looked at."""
        self._shown: set[str] = set()
        """The lists that the client has asked for, by method."""
        self._noted: set[str] = set()
        """Upstreams of which it was said that they list resources of others."""
        self._subscriptions: dict[str, str] = {}
        """The upstream of each URI that the client has subscribed to."""
        self._level: Json | None = None
        """The params of the client's latest `logging/setLevel`."""

    async def route(self, method: str, params: Json, channel: ClientChannel) -> Json:
        """Pass a request on. Returns the `result` or `error` member of the reply."""
        capability, rule = CAPABILITY[method], CLIENT_REQUESTS[method]
        capable = self._upstreams.with_capability(capability)
        if not capable and capability not in self.declared:
            capable = self._upstreams.available()
            if len(capable) != 1:
                return _not_offered(method)
            if rule is RoutingRule.JOIN_LISTS:  # only one server could answer, so its own refusal is the answer
                reply = await self._upstreams.relay(capable[0], method, params, channel)
                if "error" in reply:
                    return reply
        if rule is RoutingRule.JOIN_LISTS:
            self._shown.add(method)
            return await self._join_lists(method, capable)
        if rule is RoutingRule.ALL_CAPABLE:
            return await self._route_to_all(method, params, capable, channel)
        if rule is RoutingRule.BY_URI:
            return await self._route_by_uri(method, params, capable, channel)
        find_target = self._target_of_prompt if rule is RoutingRule.BY_PROMPT else self._target_of_ref
        target = await find_target(params, capable)
        if isinstance(target, tuple):
            return await self._relay(*target, method, channel)
        if self._decided.includes(method):
            return await self._decided.send("", method, params, channel, target["error"]["message"])
        return target

    async def _route_to_all(self, method: str, params: Json, capable: list[str], channel: ClientChannel) -> Json:
        if method == SET_LEVEL:
            if self._upstreams.decided:
                if params.get("level") not in LEVELS:
                    return error(INVALID_PARAMS, f"unknown level; known are: {', '.join(LEVELS)}")
                params = {"level": params["level"]}
            self._level = params
        return await self._upstreams.relay_to_all(capable, method, params, channel)

    async def _relay(self, server: str, params: Json, method: str, channel: ClientChannel) -> Json:
        if self._decided.includes(method):
            reply = await self._decided.send(server, method, params, channel)
        else:
            reply = await self._upstreams.relay(server, method, params, channel)
        if isinstance(result := reply.get("result"), dict):
            self.add_links(server, result, params.get("uri"))
        return reply or error(INVALID_PARAMS, f"upstream `{server}` answered `{method}` with neither result nor error")

    # Lists

    async def _join_lists(self, method: str, capable: list[str]) -> Json:
        """Every page of every capable upstream's list, in the order of the configuration."""
        lists, failures = await self._read_lists(method, capable)
        if failures and not lists:
            refusals = [self._upstreams.connections[server].listings[method].refusal for server in capable]
            if len(refusals) == 1 and refusals[0] is not None:
                return refusals[0]  # of the only server that could answer
            are_unsupported = all(
                reply is not None and reply["error"]["code"] == METHOD_NOT_FOUND for reply in refusals
            )
            code = METHOD_NOT_FOUND if are_unsupported else INTERNAL_ERROR
            return error(code, f"no upstream could answer `{method}`: {'; '.join(failures)}")
        items: list[Json] = []
        for server, listed in lists.items() if await self._decided.may_list() else ():
            shown = self._as_shown(server, method, listed)
            for start in range(0, len(shown), SHOWN_AT_ONCE):
                items += (
                    item
                    for item, raw in shown[start : start + SHOWN_AT_ONCE]
                    if self._decided.shows(server, method, raw)
                )
                await asyncio.sleep(0)
        return {"result": {LISTS[method]: items}}

    async def _read_lists(
        self, method: str, capable: list[str], *, only_if_needed: bool = False
    ) -> tuple[dict[str, list[Json]], list[str]]:
        """The latest lists by upstream, whose contents are remembered, and why others have none."""
        lists, failures = await self._upstreams.read_lists(method, capable, only_if_needed=only_if_needed)
        for server, items in lists.items():
            version = self._upstreams.connections[server].listings[method].version
            if self._versions.get((server, method)) == version:
                continue
            self._versions[server, method] = version
            if method == LIST_PROMPTS:
                self._remember_prompts(server, items)
            elif method == LIST_TEMPLATES:
                self._owners.set_templates(server, _texts(items, "uriTemplate"))
            else:
                self._remember_resources(server, _texts(items, "uri"))
        return lists, failures

    def _remember_prompts(self, server: str, items: list[Json]) -> None:
        self._prompts = {shown: target for shown, target in self._prompts.items() if target[0] != server}
        for name in _texts(items, "name"):
            self._prompts[self._tool_names.for_client(server, name)] = server, name

    def _remember_resources(self, server: str, uris: Iterable[str]) -> None:
        foreign = self._owners.set_listed(server, uris)
        if foreign and server not in self._noted:
            self._noted.add(server)
            owner = self._owners.owner(foreign[0])
            self._upstreams.connections[server].note(
                f"left out of its resources: `{foreign[0][:200]}`, which upstream `{owner}` has listed before"
                + (f", and {len(foreign) - 1} more" if len(foreign) > 1 else "")
            )

    def _as_shown(self, server: str, method: str, items: list[Json]) -> list[tuple[Json, Json]]:
        """The items as the client is shown them (prompts by its names, resources only by their owners), and as they
        are."""
        if method == LIST_PROMPTS:
            prompts = [item for item in items if isinstance(item.get("name"), str)]
            name = self._tool_names.for_client
            return [({**prompt, "name": name(server, prompt["name"])}, prompt) for prompt in prompts]
        if method == LIST_RESOURCES and len(self._upstreams.connections) > 1:
            items = [item for item in items if self._owners.owner(str(item.get("uri"))) in (server, None)]
        return [(item, item) for item in items]

    # Prompts. Each of these returns the target of a request, or the `error` member that answers it.

    async def _target_of_prompt(self, params: Json, capable: list[str]) -> Target | Json:
        prompt = await self._find_prompt(str(params.get("name")), capable)
        if self._decided.includes(GET_PROMPT):  # whose arguments the list declares
            await self._read_lists(LIST_PROMPTS, capable, only_if_needed=True)
        if prompt is None:
            return error(INVALID_PARAMS, f"unknown prompt: {str(params.get('name'))[:100]}")
        server, name = prompt
        return server, {**params, "name": name}

    async def _target_of_ref(self, params: Json, capable: list[str]) -> Target | Json:
        ref = params.get("ref")
        if isinstance(ref, dict) and ref.get("type") == "ref/prompt":
            if (prompt := await self._find_prompt(str(ref.get("name")), capable)) is not None:
                server, name = prompt
                if await self._is_listed(server, LIST_PROMPTS, "name", name):
                    return server, {**params, "ref": {**ref, "name": name}}
        elif isinstance(ref, dict):
            uri = str(ref.get("uri"))
            owner = self._owners.template_owner(uri)
            if owner is None:
                owners = await self._find_owners(uri, capable)
                owner = self._owners.template_owner(uri) or (owners[0] if owners else None)
            if owner in capable and await self._is_listed(str(owner), LIST_TEMPLATES, "uriTemplate", uri):
                return str(owner), params
        return error(INVALID_PARAMS, "unknown prompt or resource in `ref`")

    async def _is_listed(self, server: str, method: str, member: str, name: str) -> bool:
        """Whether the client is listed what it wants to complete; always, if completions are not decided."""
        if not self._decided.includes(COMPLETE):
            return True
        lists, _ = await self._read_lists(method, [server], only_if_needed=True)
        item = next((item for item in lists.get(server, ()) if item.get(member) == name), None)
        return item is not None and self._decided.shows(server, method, item)

    async def _find_prompt(self, client_name: str, capable: list[str]) -> tuple[str, str] | None:
        """The server of a prompt, and the server's own name for it. Only the lists say what a shortened name means."""
        try:
            server, name = self._prompts.get(client_name) or self._tool_names.split_client_name(client_name)
        except ValueError:
            await self._read_lists(LIST_PROMPTS, capable, only_if_needed=True)
            server, name = self._prompts.get(client_name, ("", ""))
        return (server, name) if server in capable else None

    # Resources

    async def _route_by_uri(self, method: str, params: Json, capable: list[str], channel: ClientChannel) -> Json:
        """Ask the owner of a URI. Of those that only claim it, the next one is asked if one answers with an error."""
        uri = str(params.get("uri"))
        subscribed = self._subscriptions.get(uri) if method == UNSUBSCRIBE else None
        if method == UNSUBSCRIBE and self._decided.includes(SUBSCRIBE):
            if subscribed is None:
                return {"result": {}}
            params = {"uri": uri}
        owners = [subscribed] if subscribed is not None else await self._find_owners(uri, capable)
        is_decided = self._decided.includes(method)
        if is_decided and (problem := await self._why_unknown(uri, owners, capable)):
            return await self._decided.send(owners[0] if owners else "", method, params, channel, problem)
        if not owners:
            return error(RESOURCE_NOT_FOUND, f"no upstream listed the resource `{uri[:200]}`; list resources first")
        first: Json | None = None
        for server in owners:
            if not is_decided and (reason := self._upstreams.why_unavailable(server)):
                reply = error(INTERNAL_ERROR, reason)
            else:
                reply = await self._relay(server, params, method, channel)
            if "result" in reply:
                self._on_subscribed(method, uri, server)
                return reply
            first = first or reply
        assert first is not None
        return first

    async def _find_owners(self, uri: str, capable: list[str]) -> list[str]:
        """The upstreams to be asked for a URI, in this order."""
        if len(self._upstreams.connections) == 1:
            return capable
        if (owner := self._owners.owner(uri)) is not None:
            return [owner]
        if len(capable) > 1:
            for method in (LIST_RESOURCES, LIST_TEMPLATES):
                await self._read_lists(method, capable, only_if_needed=True)
            if (owner := self._owners.owner(uri)) is not None:
                return [owner]
        if owners := self._owners.claimants(uri) or self._named_by_tools(uri):
            return owners
        return capable if len(capable) == 1 else []

    async def _why_unknown(self, uri: str, owners: list[str], capable: list[str]) -> str:
        """Why no upstream is asked for a URI; empty if one is. One that lists nothing may be asked for anything."""
        for method in (LIST_RESOURCES, LIST_TEMPLATES):  # which say what the URI means
            await self._read_lists(method, capable, only_if_needed=True)
        if not owners:
            return f"no upstream lists the resource `{uri[:200]}`, a template that it fits, or a link to it"
        scheme = read_scheme(uri).lower()
        known = [self._owners.schemes(server) for server in owners]
        is_known = not scheme or not all(known) or any(scheme in schemes or "" in schemes for schemes in known)
        if not is_known and not self._named_by_tools(uri):
            return f"the URI scheme `{scheme[:40]}` is unknown: `{owners[0]}` lists no resource with it"
        return ""

    def _named_by_tools(self, uri: str) -> list[str]:
        """The upstreams whose tools' definitions name this URI, as those of MCP Apps do."""
        form = comparable(uri)
        tools = [tool for tool in self._upstreams.tools() if form in map(comparable, _named(tool.definition))]
        return list(dict.fromkeys(tool.server for tool in tools))

    def add_links(self, server: str, result: Json, besides: object = None) -> None:
        """Remember what a result of this upstream links to, besides the URI that was asked for."""
        if len(self._upstreams.connections) > 1 or self._decided.includes(READ):
            self._owners.add_links(server, (uri for uri in find_links(result) if uri != besides))

    def _on_subscribed(self, method: str, uri: str, server: str) -> None:
        if method == UNSUBSCRIBE:
            self._subscriptions.pop(uri, None)
        elif method == SUBSCRIBE and len(self._subscriptions) < MAX_SUBSCRIPTIONS:
            self._subscriptions[uri] = server

    # Upstreams that start late, or again

    async def restore(self, server: str) -> list[str]:
        """Tell an upstream again what the client has asked of it. Returns the URIs that may have changed meanwhile."""
        if self._level is not None and server in self._upstreams.with_capability(CAPABILITY[SET_LEVEL]):
            await self._upstreams.relay(server, SET_LEVEL, self._level)
        uris = [uri for uri, owner in self._subscriptions.items() if owner == server]
        for uri in uris:
            await self._relay(server, {"uri": uri}, SUBSCRIBE, SILENT_CHANNEL)
        return uris

    async def changed_lists(self, server: str) -> list[str]:
        """The notifications for lists that the client has been shown and that this upstream has changed meanwhile."""
        changed = []
        for notification in (PROMPTS_CHANGED, RESOURCES_CHANGED):
            methods = [method for method in LISTS_CHANGED[notification] if method in self._shown]
            before = [self._versions.get((server, method)) for method in methods]
            for method in methods:
                capable = self._upstreams.with_capability(CAPABILITY[method])
                await self._read_lists(method, capable, only_if_needed=True)
            if before != [self._versions.get((server, method)) for method in methods]:
                changed.append(notification)
        return changed


def _not_offered(method: str) -> Json:
    return error(METHOD_NOT_FOUND, f"Method not found: no upstream offers `{method}`")


def _texts(items: list[Json], member: str) -> list[str]:
    return [text for item in items if isinstance(text := item.get(member), str)]


def _named(definition: Json) -> list[str]:
    """The resource URIs in the `_meta` of a tool's definition."""
    meta = definition.get("_meta")
    if not isinstance(meta, dict):
        return []
    holders = [meta, meta.get("ui")]
    named = [holder.get(name) for holder in holders if isinstance(holder, dict) for name in LINK_MEMBERS]
    return [uri for uri in named if isinstance(uri, str)]
