"""Routes the requests that are not tool calls: joins listings, and finds the upstream of a prompt or resource.

Prompts are listed as `server__prompt`, like tools, or as `tool_names.py` has it. Resource URIs stay as they are,
because they also occur in results; a URI belongs to the upstream that listed it or whose template it matches.
"""

from mcp_guard.core.errors import UpstreamError
from mcp_guard.core.model import Json
from mcp_guard.core.uri_template import UriTemplate
from mcp_guard.downstream.tool_names import ToolNames
from mcp_guard.ports import ClientChannel
from mcp_guard.protocol.jsonrpc import PeerLost, error
from mcp_guard.protocol.methods import CAPABILITY, CLIENT_REQUESTS, INVALID_PARAMS, LISTS, METHOD_NOT_FOUND, RoutingRule
from mcp_guard.upstream.group import UpstreamGroup

RESOURCE_NOT_FOUND = -32002
MAX_TEMPLATES = 1000
"""URI templates of one listing that requests are matched against."""

Target = tuple[str, Json]
"""An upstream, and the params as it is sent them."""


class Router:
    """Remembers which upstream listed what, for one session."""

    def __init__(self, upstreams: UpstreamGroup, tool_names: ToolNames) -> None:
        self._upstreams = upstreams
        self._tool_names = tool_names
        self._prompts: dict[str, tuple[str, str]] = {}
        """The server and its own name of each prompt, by the client's name."""
        self._resources: dict[str, str] = {}
        """The server of each listed URI."""
        self._templates: dict[str, tuple[UriTemplate, str]] = {}
        """Each listed URI template and its server."""
        self._find_target = {
            RoutingRule.BY_PROMPT: self._target_of_prompt,
            RoutingRule.BY_URI: self._target_of_uri,
            RoutingRule.BY_REF: self._target_of_ref,
        }

    async def route(self, method: str, params: Json, channel: ClientChannel) -> Json:
        """Pass a request on. Returns the `result` or `error` member of the reply."""
        capable, rule = self._upstreams.with_capability(CAPABILITY[method]), CLIENT_REQUESTS[method]
        if not capable:
            capable = self._upstreams.available()
            if len(capable) != 1:
                return error(METHOD_NOT_FOUND, f"Method not found: no upstream offers `{method}`")
            if rule is RoutingRule.JOIN_LISTS:  # only one server could answer, so its own refusal is the answer
                reply = await self._upstreams.relay(capable[0], method, params, channel)
                if "error" in reply:
                    return reply
        if rule is RoutingRule.JOIN_LISTS:
            return await self._join_lists(method, capable)
        if rule is RoutingRule.ALL_CAPABLE:
            replies = [await self._upstreams.relay(server, method, params, channel) for server in capable]
            return next((reply for reply in replies if "error" in reply), replies[0])
        target = self._find_target[rule](params, capable)
        if isinstance(target, dict):
            return target
        server, params = target
        reply = await self._upstreams.relay(server, method, params, channel)
        return reply or error(INVALID_PARAMS, f"upstream `{server}` answered `{method}` with neither result nor error")

    async def _join_lists(self, method: str, capable: list[str]) -> Json:
        """Every page of every capable upstream's list, in the order of the configuration."""
        items: list[Json] = []
        failures: list[str] = []
        for server in capable:
            try:
                items += self._remember(server, method, await self._upstreams.relay_list(server, method))
            except (PeerLost, UpstreamError) as failure:
                failures.append(f"`{server}`: {failure}")
        if failures and len(failures) == len(capable):
            return error(METHOD_NOT_FOUND, f"no upstream could answer `{method}`: {'; '.join(failures)}")
        return {"result": {LISTS[method]: items}}

    def _remember(self, server: str, method: str, items: list[Json]) -> list[Json]:
        """Returns the items as the client is shown them."""
        if method == "prompts/list":
            prompts = [item for item in items if isinstance(item.get("name"), str)]
            listed = [{**prompt, "name": self._tool_names.for_client(server, prompt["name"])} for prompt in prompts]
            for shown, prompt in zip(listed, prompts, strict=True):
                self._prompts[shown["name"]] = server, prompt["name"]
            return listed
        if method == "resources/list":
            for item in items:
                self._resources.setdefault(str(item.get("uri")), server)
        else:
            for item in items[:MAX_TEMPLATES]:
                template = str(item.get("uriTemplate"))
                self._templates.setdefault(template, (UriTemplate(template), server))
        return items

    # Each of these returns the target of a request, or the `error` member that answers it.

    def _target_of_prompt(self, params: Json, capable: list[str]) -> Target | Json:
        prompt = self._find_prompt(str(params.get("name")), capable)
        if prompt is None:
            return error(INVALID_PARAMS, f"unknown prompt: {str(params.get('name'))[:100]}")
        server, name = prompt
        return server, {**params, "name": name}

    def _target_of_uri(self, params: Json, capable: list[str]) -> Target | Json:
        uri = str(params.get("uri"))
        server = self._find_owner(uri, capable)
        if server is None:
            return error(RESOURCE_NOT_FOUND, f"no upstream listed the resource `{uri[:200]}`; list resources first")
        return server, params

    def _target_of_ref(self, params: Json, capable: list[str]) -> Target | Json:
        ref = params.get("ref")
        if isinstance(ref, dict) and ref.get("type") == "ref/prompt":
            if (prompt := self._find_prompt(str(ref.get("name")), capable)) is not None:
                server, name = prompt
                return server, {**params, "ref": {**ref, "name": name}}
        elif isinstance(ref, dict):
            uri = str(ref.get("uri"))
            owner = self._templates[uri][1] if uri in self._templates else self._find_owner(uri, capable)
            if owner in capable:
                return str(owner), params
        return error(INVALID_PARAMS, "unknown prompt or resource in `ref`")

    def _find_prompt(self, client_name: str, capable: list[str]) -> tuple[str, str] | None:
        """The server of a prompt, and the server's own name for it."""
        try:
            server, name = self._prompts.get(client_name) or self._tool_names.split_client_name(client_name)
        except ValueError:
            return None
        return (server, name) if server in capable else None

    def _find_owner(self, uri: str, capable: list[str]) -> str | None:
        if len(capable) == 1:
            return capable[0]
        if (listed_by := self._resources.get(uri)) in capable:
            return listed_by
        candidates = (pair for pair in self._templates.values() if pair[1] in capable)
        return next((server for template, server in candidates if template.matches(uri)), None)
