"""Which upstream a resource URI belongs to, for one session. Pure.

URIs are passed on as they are, because they also occur in results. So several upstreams may claim one, and a hostile
one could try to answer for another. The order of claims:

1. the upstream that lists exactly this URI. Nobody else is asked, even while it is not there;
2. an upstream that returned it in a result, or names it in the definition of a tool;
3. an upstream that lists a template which the URI matches.

Within each, the upstream whose claim is the oldest in this session comes first, and among those that have listed at the
same time the first one in the configuration. INVARIANT: no later claim of the same kind comes before an earlier one.
"""

import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any
from urllib.parse import unquote

import orjson

from mcp_guard.core.model import Json
from mcp_guard.core.resource_uri import read_scheme
from mcp_guard.core.uri_template import UriTemplate

MAX_TEMPLATES = 1000
"""URI templates of one upstream that requests are matched against."""
MAX_LINKS, MAX_LINK_LENGTH = 1000, 2048
"""Links that are remembered for each upstream, the latest ones, and the length of each."""
MAX_VALUES = 2000
"""How many values of a result are searched for links."""
MAX_EMBEDDED_LENGTH = 64 * 1024
"""How long a text may be that is searched because it is JSON itself."""
LINK_MEMBERS = ("uri", "resourceUri", "ui/resourceUri", "openai/outputTemplate")
"""Members that hold the URI of a resource: of links and contents, and of MCP Apps."""

_ENCODED_DELIMITER = re.compile("%(2F|3F|23|25)", re.IGNORECASE)
_ENCODED_BRACE = re.compile("%(7B|7D)", re.IGNORECASE)
_END_OF_HOST = re.compile("[/?#]|$")


class ResourceOwners:
    """What the upstreams of one session have listed and returned."""

    def __init__(self) -> None:
        self._listed: dict[str, dict[str, None]] = {}
        """The URIs that each upstream lists."""
        self._first: dict[str, str] = {}
        """Who listed first a URI that several upstreams list."""
        self._spellings: dict[str, str] | None = None
        """The listed URIs by their `comparable` form; None until one is looked for."""
        self._templates: dict[tuple[str, str], tuple[UriTemplate, UriTemplate]] = {}
        """By upstream and template, the oldest first: as it is, and for URIs in `comparable` form."""
        self._links: dict[str, OrderedDict[str, int]] = {}
        """The links that each upstream returned, in `comparable` form, the latest last, and the number of the first
        time."""
        self._last_number = 0

    # What upstreams list

    def set_listed(self, server: str, uris: Iterable[str]) -> list[str]:
        """The upstream lists these URIs now. Returns those that belong to another one, which listed them before."""
        self._spellings = None
        before = self._listed.get(server, {})
        listed = self._listed[server] = dict.fromkeys(uris)
        foreign = []
        for uri in listed:
            if uri not in before and (owner := self._lister(uri, besides=server)) is not None:
                self._first[uri] = owner
            if uri in self._first and self.owner(uri) != server:
                foreign.append(uri)
        for uri in before.keys() - listed.keys():
            if self._first.get(uri) == server:
                del self._first[uri]
                if (owner := self._lister(uri)) is not None:
                    self._first[uri] = owner
        return foreign

    def _lister(self, uri: str, besides: str = "") -> str | None:
        first = self._first.get(uri)
        if first is not None and first != besides and uri in self._listed.get(first, {}):
            return first
        return next((server for server, listed in self._listed.items() if server != besides and uri in listed), None)

    def set_templates(self, server: str, templates: Iterable[str]) -> None:
        """The upstream lists these templates now."""
        latest = dict.fromkeys(islice(templates, MAX_TEMPLATES))
        for key in [key for key in self._templates if key[0] == server and key[1] not in latest]:
            del self._templates[key]
        for template in latest:
            if (server, template) not in self._templates:
                form = comparable(_ENCODED_BRACE.sub(r"%25\1", template))  # decoded, a brace would begin an expression
                self._templates[server, template] = UriTemplate(template), UriTemplate(form)

    # What upstreams return

    def add_links(self, server: str, uris: Iterable[str]) -> None:
        """The upstream has returned these URIs."""
        links = self._links.setdefault(server, OrderedDict())
        for uri in map(comparable, uris):
            self._last_number += 1
            links.setdefault(uri, self._last_number)
            links.move_to_end(uri)
            if len(links) > MAX_LINKS:
                links.popitem(last=False)

    # Who is asked

    def owner(self, uri: str) -> str | None:
        """The upstream that lists exactly this URI, or one that differs only in spelling: SDKs normalize URIs."""
        if (server := self._lister(uri)) is not None:
            return server
        if self._spellings is None:
            self._spellings = {}
            for other in (listed for uris in self._listed.values() for listed in uris):
                self._spellings.setdefault(comparable(other), other)
        return self._lister(self._spellings.get(comparable(uri), ""))

    def claimants(self, uri: str) -> list[str]:
        """The upstreams to be asked for a URI that none of them lists, in this order."""
        form = comparable(uri)
        linking = [(links[form], server) for server, links in self._links.items() if form in links]
        matching = (
            server
            for (server, _), (template, comparable_one) in self._templates.items()
            if template.matches(uri) or comparable_one.matches(form)
        )
        return list(dict.fromkeys([*(server for _, server in sorted(linking)), *matching]))

    def schemes(self, server: str) -> set[str]:
        """The schemes of all URIs and templates that the upstream has listed, and of links that it returned; with an
        empty text if a template begins with an expression."""
        templates = (listed for owner, listed in self._templates if owner == server)
        uris = (*self._listed.get(server, ()), *self._links.get(server, ()), *templates)
        return {"" if "{" in scheme else scheme.lower() for scheme in map(read_scheme, uris)}

    def template_owner(self, template: str) -> str | None:
        """The upstream that listed this template first."""
        return next((server for server, listed in self._templates if listed == template), None)


def find_links(result: Json) -> list[str]:
    """The URIs of resources that a result links to, embeds or names in its structured content, in linear time."""
    found: dict[str, None] = {}
    for uri in islice(_search(result), MAX_VALUES):
        if uri and len(uri) <= MAX_LINK_LENGTH:
            found[uri] = None
    return list(found)


def _search(result: Json) -> Iterator[str]:
    """The URIs in a result, and an empty text for each value without one."""
    waiting: list[tuple[Any, bool]] = [
        (value, name == "structuredContent") for name, value in result.items() if name != "_meta"
    ]
    while waiting:
        value, is_data = waiting.pop()
        yield ""
        room = max(MAX_VALUES - len(waiting), 0)
        if isinstance(value, list):
            waiting += [(item, is_data) for item in reversed(value[:room])]
        elif isinstance(value, dict):
            yield from (uri for name in LINK_MEMBERS if isinstance(uri := value.get(name), str))
            for name, inner in islice(value.items(), room):
                if isinstance(inner, dict | list) or is_data:
                    waiting.append((inner, is_data))
                elif name == "text" and "uri" in value and isinstance(inner, str):
                    waiting.append((_parsed(inner), True))
        elif is_data and isinstance(value, str) and _is_uri(value):
            yield value


def _parsed(text: str) -> Any:
    """The value of a text that is JSON, because resources list others in it; None for any other."""
    if len(text) > MAX_EMBEDDED_LENGTH or not text.lstrip().startswith(("{", "[")):
        return None
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


def comparable(uri: str) -> str:
    """The same text for URIs that differ in the case of scheme and host, in percent-encoding, or in the slash after the
    host (RFC 3986 §6.2.2 and §6.2.3). What would end a part of the URI if it were not encoded stays encoded."""
    scheme, separator, rest = uri.partition("://")
    end = _END_OF_HOST.search(rest)
    assert end is not None
    host, path = rest[: end.start()], rest[end.start() :]
    if path[:1] == "/" and path[1:2] in ("", "?", "#"):
        path = path[1:]
    whole = f"{scheme.lower()}{separator}{host.lower()}{path}"
    return unquote(_ENCODED_DELIMITER.sub(lambda found: f"%25{found[1].upper()}", whole), errors="replace")


def _is_uri(text: str) -> bool:
    """Whether a text is a URI of a scheme that nobody can read but the upstream."""
    scheme, separator, rest = text.partition("://")
    is_scheme = scheme[:1].isalpha() and scheme.replace("+", "").replace("-", "").replace(".", "").isalnum()
    return bool(separator and rest and is_scheme and len(scheme) <= 40 and scheme not in ("http", "https"))
