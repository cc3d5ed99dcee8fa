"""Reads the URI of a resource into what policies see of it, and refuses one that could be read in two ways. Pure.

A server may decode a URI before it acts on it, resolve `..` in it or match it against its templates. A policy that
compares text must see what the server will see. So percent-encoding must be in its normal form (RFC 3986 §6.2.2.2), no
segment may be `.` or `..`, no delimiter of the path may be hidden by encoding, and the parameters of a template must be
unambiguous. A URI of a scheme whose hosts programs rewrite (https://url.spec.whatwg.org/#special-scheme) must have its
host as they would write it, and there is no fragment: it is not sent to a server that takes URIs apart, and read by one
that does not. Everything takes linear time.
"""

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import unquote

MAX_URI_LENGTH = 16 * 1024
MAX_TEMPLATE_LENGTH = 2048
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
_ENCODED = re.compile(r"%([0-9A-Fa-f]{2})")
_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_UNRESERVED = re.compile(r"[A-Za-z0-9._~-]")
_INVISIBLE = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufffd]")
_SLASHES = re.compile("/{2,}")
_EXPRESSION = re.compile(r"\{([^{}]*)\}")
_DEEP = re.compile(r"\{\+[^{}]*\}|\{[^{}]*\*\}")
_PATH_SEGMENTS = re.compile(r"\{/([^{}]*)\}")
_VARIABLE = re.compile(r"[A-Za-z0-9_.]+")
_FOREIGN = re.compile(r"[ \"<>^`{|}]|^\s|\s$")
"""What no URI contains (RFC 3986 §2), and what some programs trim."""
_HOST_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
_OTHER_AUTHORITY = re.compile("@|:$|:0[0-9]")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
DEFAULT_PORTS = {"http": "80", "https": "443", "ws": "80", "wss": "443", "ftp": "21", "file": ""}
"""By each scheme of which programs rewrite hosts."""
AMBIGUOUS = "it fits the template `{}` in more than one way, so its parameters are ambiguous"


@dataclass(frozen=True, slots=True)
class ResourceUri:
    """What policies see. `path` and `query` are decoded, repeated slashes in `path` count as one; `host` is in lower
    case. `template` is the first listed template that the URI fits, or empty; `parameters` are its values, decoded."""

    scheme: str
    host: str
    path: str
    query: str
    template: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict)


def read_scheme(uri: str) -> str:
    """The scheme as written; empty if there is none."""
    scheme, colon, _ = uri.partition(":")
    return scheme if colon else ""


def read_resource(uri: str, templates: Iterable[str] = ()) -> ResourceUri | str:
    """The parts of the URI, or why it is refused."""
    if problem := _why_refused(uri):
        return problem
    scheme, _, rest = uri.partition(":")
    rest, _, query = rest.partition("?")
    host, path = "", rest
    if rest.startswith("//"):
        host, slash, path = rest[2:].partition("/")
        path = slash + path
    parts = ResourceUri(scheme, unquote(host).lower(), _SLASHES.sub("/", unquote(path)), unquote(query))
    for template in templates:
        values = match_template(template, uri)
        if isinstance(values, str):
            return values
        if values is None:
            continue
        decoded = {name: unquote(value) for name, value in values.items()}
        for name, value in decoded.items():
            if any(segment in (".", "..") for segment in re.split(r"[/\\]", value)):
                return f"the parameter `{name}` contains `.` or `..` as a segment"
        return ResourceUri(parts.scheme, parts.host, parts.path, parts.query, template, decoded)
    return parts


def _why_refused(uri: str) -> str:
    """Why a URI could be read in two ways, or not at all; empty if it is unambiguous."""
    if len(uri) > MAX_URI_LENGTH:
        return f"it has more than {MAX_URI_LENGTH} characters"
    if not _SCHEME.fullmatch(read_scheme(uri)):
        return "it has no scheme in lower case"
    if _INVISIBLE.search(uri) or "\\" in uri:
        return "it contains a backslash, a control character or an invisible one"
    if _STRAY_PERCENT.search(uri):
        return "it contains `%` without two hexadecimal digits"
    if "#" in uri:
        return "it contains a fragment (`#`)"
    if found := _FOREIGN.search(uri):
        return f"it contains `{found[0]}`, which must be encoded"
    scheme, _, rest = uri.partition(":")
    rest = rest.partition("?")[0]
    if re.search("%(2f|5c)", rest, re.IGNORECASE):
        return "it encodes a slash or backslash of its path (`%2F`, `%5C`)"
    if any(segment in (".", "..") for segment in unquote(rest).split("/")):
        return "it contains `.` or `..` as a segment of its path"
    if not _is_authority_normal(scheme, rest):
        return "its host is not as programs write it (`//`, lower case, no user, no default or empty port)"
    return _why_encoding_refused(uri)


def _is_authority_normal(scheme: str, rest: str) -> bool:
    if rest.startswith("//") and _OTHER_AUTHORITY.search(rest[2:].partition("/")[0]):
        return False
    if scheme not in DEFAULT_PORTS or not rest.startswith("//"):
        return scheme not in DEFAULT_PORTS
    authority, slash, _ = rest[2:].partition("/")
    if scheme == "file":
        return not authority and bool(slash)
    host, colon, port = authority.rpartition(":") if not authority.endswith("]") else (authority, "", "")
    host = host if colon else authority
    if colon and (not port.isdecimal() or port != str(int(port)) or port == DEFAULT_PORTS[scheme]):
        return False
    return is_host_normal(host)


def is_host_normal(host: str) -> bool:
    """Whether a host, in lower case, is written as programs write it: not as `0x7f.1` or with a dot at its end."""
    if host.startswith("["):
        return _is_address(host[1:-1], ipaddress.IPv6Address)
    if _NUMBER.fullmatch(host.rpartition(".")[2]):
        return _is_address(host, ipaddress.IPv4Address)
    return _HOST_NAME.fullmatch(host) is not None


def _is_address(text: str, kind: type[ipaddress.IPv4Address | ipaddress.IPv6Address]) -> bool:
    try:
        return str(kind(text)) == text
    except ValueError:
        return False


def _why_encoding_refused(uri: str) -> str:
    """Why its percent-encoding is not in the normal form; empty if it is."""
    for found in _ENCODED.finditer(uri):
        character = chr(int(found[1], 16))
        if _UNRESERVED.fullmatch(character):
            return f"it encodes `{character}`, which needs no encoding (`{found[0]}`)"
        if ord(character) < 0x20 or character == "\x7f":
            return f"it encodes a control character (`{found[0]}`)"
        if character == "%" and re.match("[0-9A-Fa-f]{2}", uri[found.end() : found.end() + 2]):
            return f"it is encoded twice (`{uri[found.start() : found.end() + 2]}`)"
    try:
        unquote(uri, errors="strict")
    except UnicodeDecodeError:
        return "what it encodes is not UTF-8"
    return ""


def match_template(template: str, uri: str) -> dict[str, str] | str | None:
    """The values of the template's variables in the URI, still encoded; None if it does not fit, and in words why the
    values are ambiguous.

    The expressions of RFC 6570 that servers use are read: `{var}` within a segment of the path, one `{+var}` or
    `{var*}` for several segments, one `{/var}` or `{/var*}` for a segment or several with their slash, or for nothing,
    and `{?a,b}` at the end, beside which a query may have other names, as servers ignore them. Any other template fits
    nothing.
    """
    if len(template) > MAX_TEMPLATE_LENGTH:
        return None
    found = _match_whole(_PATH_SEGMENTS.sub(r"/{\1}", template, count=1), uri)
    if found is None and _PATH_SEGMENTS.search(template):
        found = _match_whole(_PATH_SEGMENTS.sub("", template, count=1), uri)
    if found is None:
        return None
    return AMBIGUOUS.format(template[:80]) if found.is_ambiguous else found.values


class _Match(NamedTuple):
    values: dict[str, str]
    is_ambiguous: bool = False


def _match_whole(template: str, uri: str) -> _Match | None:
    whole = uri
    pattern, in_query = _split_query(template)
    query = ""
    if in_query is not None:
        whole, _, query = whole.partition("?")
    segments, expected = whole.split("/"), pattern.split("/")
    deep = [place for place, text in enumerate(expected) if _DEEP.search(text)]
    if len(deep) > 1 or len(segments) < len(expected) or (not deep and len(segments) > len(expected)):
        return None
    if deep:
        after = len(segments) - (len(expected) - deep[0] - 1)
        segments = [*segments[: deep[0]], "/".join(segments[deep[0] : after]), *segments[after:]]
    values: dict[str, str] = {}
    ambiguous = False
    for text, segment in zip(expected, segments, strict=True):
        found = _match_segment(text, segment)
        if found is None:
            return None
        ambiguous = ambiguous or found.is_ambiguous or not values.keys().isdisjoint(found.values)
        values |= found.values
    for pair in filter(None, query.split("&")):
        name, _, value = pair.partition("=")
        if name in (in_query or ()):
            ambiguous = ambiguous or name in values
            values[name] = value
    return _Match(values, ambiguous)


def variables(template: str) -> tuple[list[str], list[str]]:
    """The names of the parameters that every URI of the template has, and of those that it may have."""
    pattern, in_query = _split_query(template)
    found = [match[1].removeprefix("+").removesuffix("*") for match in _EXPRESSION.finditer(pattern)]
    optional = {name.removeprefix("/") for name in found if name.startswith("/")} | (in_query or set())
    return [name for name in dict.fromkeys(found) if _VARIABLE.fullmatch(name)], sorted(optional)


def _split_query(template: str) -> tuple[str, frozenset[str] | None]:
    """The template without `{?a,b}` at its end, and the names in it; None if it has no such end."""
    start = template.rfind("{?")
    if start < 0 or not template.endswith("}") or "}" in template[start:-1]:
        return template, None
    return template[:start], frozenset(name.removesuffix("*") for name in template[start + 2 : -1].split(","))


def _match_segment(pattern: str, segment: str) -> _Match | None:
    """The variables of one segment: each literal part is looked for from the left and from the right, and where these
    differ, the segment fits in more than one way."""
    literals, names, at = [""], list[str](), 0
    for found in _EXPRESSION.finditer(pattern):
        literals[-1] = pattern[at : found.start()]
        name = found[1].removeprefix("+").removesuffix("*")
        if not _VARIABLE.fullmatch(name) or name in names or (names and not literals[-1]):
            return None
        names.append(name)
        literals.append("")
        at = found.end()
    literals[-1] = pattern[at:]
    begin, end = len(literals[0]), len(segment) - len(literals[-1])
    if not names:
        return _Match({}) if segment == pattern else None
    if begin >= end or not segment.startswith(literals[0]) or not segment.endswith(literals[-1]):
        return None
    first, last = [begin], [end]
    for literal in literals[1:-1]:
        if (place := segment.find(literal, first[-1] + 1, end)) < 0:
            return None
        first += [place, place + len(literal)]
    for literal in reversed(literals[1:-1]):
        place = segment.rfind(literal, begin, last[0] - 1)
        last[:0] = [place, place + len(literal)]
    first, last = [*first, end], [begin, *last]
    if first[-2] >= end:
        return None
    values = {name: segment[first[2 * place] : first[2 * place + 1]] for place, name in enumerate(names)}
    return _Match(values, first != last)
