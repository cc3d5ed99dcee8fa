"""Which upstream a request goes to that is not a tool call: lists are joined, the rest goes to whoever owns it.

Prompts are listed as `server__prompt`, like tools, or as `naming.py` has it. Resource URIs stay as they are, because
they also stand in results; a URI belongs to the upstream that listed it or whose template it fits.
"""

import re
from collections.abc import Callable

from mcp_guard.core.errors import UpstreamError
from mcp_guard.core.model import Json
from mcp_guard.downstream.tool_names import ToolNames
from mcp_guard.ports import ClientChannel
from mcp_guard.protocol.jsonrpc import PeerLost, error
from mcp_guard.protocol.methods import CAPABILITY, CLIENT_REQUESTS, INVALID_PARAMS, LISTS, METHOD_NOT_FOUND, RoutingRule
from mcp_guard.upstream.group import UpstreamGroup

RESOURCE_NOT_FOUND = -32002


class Router:
    """Remembers who listed what, for one session."""

    def __init__(self, upstreams: UpstreamGroup, naming: ToolNames) -> None:
        self._upstreams = upstreams
        self._naming = naming
        self._prompts: dict[str, tuple[str, str]] = {}
        self._resources: dict[str, str] = {}
        self._templates: dict[str, tuple[re.Pattern[str], str]] = {}
        self._travel: dict[RoutingRule, Callable[[str, Json, list[str]], tuple[str, Json] | Json]] = {
            RoutingRule.BY_PROMPT: self._by_prompt,
            RoutingRule.BY_URI: self._by_uri,
            RoutingRule.BY_REF: self._by_ref,
        }

    async def route(self, method: str, params: Json, channel: ClientChannel) -> Json:
        """Pass the request on; returns the `result` or `error` member of the answer."""
        able = self._upstreams.with_capability(CAPABILITY[method])
        if not able:
            return error(METHOD_NOT_FOUND, f"no upstream offers `{method}`")
        road = CLIENT_REQUESTS[method]
        if road is RoutingRule.JOIN_LISTS:
            return await self._gather(method, params, able)
        if road is RoutingRule.ALL_CAPABLE:
            replies = [await self._upstreams.relay(server, method, params, channel) for server in able]
            return next((reply for reply in replies if "error" in reply), replies[0])
        found = self._travel[road](method, params, able)
        if isinstance(found, dict):
            return found
        server, params = found
        reply = await self._upstreams.relay(server, method, params, channel)
        return reply or error(INVALID_PARAMS, f"upstream `{server}` answered `{method}` with neither result nor error")

    async def _gather(self, method: str, params: Json, able: list[str]) -> Json:
        """The lists of all capable upstreams, in the order of the config, every page of each."""
        items: list[Json] = []
        failures: list[str] = []
        for server in able:
            try:
                items += self._remember(server, method, await self._upstreams.relay_list(server, method))
            except (PeerLost, UpstreamError) as failure:
                failures.append(f"`{server}`: {failure}")
        if failures and len(failures) == len(able):
            return error(METHOD_NOT_FOUND, f"no upstream could answer `{method}`: {'; '.join(failures)}")
        return {"result": {LISTS[method]: items}}

    def _remember(self, server: str, method: str, items: list[Json]) -> list[Json]:
        if method == "prompts/list":
            items = [item for item in items if isinstance(item.get("name"), str)]
            listed = [{**item, "name": self._naming.show(server, item["name"])} for item in items]
            self._prompts |= {new["name"]: (server, old["name"]) for new, old in zip(listed, items, strict=True)}
            return listed
        if method == "resources/list":
            for item in items:
                self._resources.setdefault(str(item.get("uri")), server)
        else:
            for item in items:
                template = str(item.get("uriTemplate"))
                self._templates.setdefault(template, (_template_pattern(template), server))
        return items

    def _prompt(self, name: str, able: list[str]) -> tuple[str, str] | None:
        try:
            server, prompt = self._prompts.get(name) or self._naming.split(name)
        except ValueError:
            return None
        return (server, prompt) if server in able else None

    def _by_prompt(self, method: str, params: Json, able: list[str]) -> tuple[str, Json] | Json:
        found = self._prompt(str(params.get("name")), able)
        if found is None:
            return error(INVALID_PARAMS, f"unknown prompt: {str(params.get('name'))[:100]}")
        return found[0], {**params, "name": found[1]}

    def _by_uri(self, method: str, params: Json, able: list[str]) -> tuple[str, Json] | Json:
        uri = str(params.get("uri"))
        server = self._owner(uri, able)
        if server is None:
            return error(RESOURCE_NOT_FOUND, f"no upstream listed the resource `{uri[:200]}`; list resources first")
        return server, params

    def _by_ref(self, method: str, params: Json, able: list[str]) -> tuple[str, Json] | Json:
        ref = params.get("ref")
        if isinstance(ref, dict) and ref.get("type") == "ref/prompt":
            found = self._prompt(str(ref.get("name")), able)
            if found is not None:
                return found[0], {**params, "ref": {**ref, "name": found[1]}}
        elif isinstance(ref, dict):
            uri = str(ref.get("uri"))
            server = self._templates[uri][1] if uri in self._templates else self._owner(uri, able)
            if server in able:
                return str(server), params
        return error(INVALID_PARAMS, "unknown prompt or resource in `ref`")

    def _owner(self, uri: str, able: list[str]) -> str | None:
        if len(able) == 1:
            return able[0]
        fitting = [server for pattern, server in self._templates.values() if pattern.fullmatch(uri)]
        candidates = [self._resources.get(uri), *fitting]
        return next((server for server in candidates if server in able), None)


def _template_pattern(template: str) -> re.Pattern[str]:
    """A pattern for the URIs of an RFC 6570 template: each expression may be any text."""
    parts = re.split(r"\{[^}]*\}", template)
    return re.compile(".+?".join(re.escape(part) for part in parts), re.DOTALL)
