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
from dataclasses import dataclass, field, replace
from urllib.parse import unquote

from mcp_guard.core.template_values import template_reader
from mcp_guard.core.uri_template import MAX_URI_LENGTH, may_fit

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
_ENCODED = re.compile(r"%([0-9A-Fa-f]{2})")
_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_UNRESERVED = re.compile(r"[A-Za-z0-9._~-]")
_INVISIBLE = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufffd]")
_SLASHES = re.compile("/{2,}")
_FOREIGN = re.compile(r"[ \"<>^`{|}]|^\s|\s$")
"""What no URI contains (RFC 3986 §2), and what some programs trim."""
_HOST_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
_OTHER_AUTHORITY = re.compile("@|:$|:0[0-9]")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
DEFAULT_PORTS = {"http": "80", "https": "443", "ws": "80", "wss": "443", "ftp": "21", "file": ""}
"""By each scheme of which programs rewrite hosts."""


@dataclass(frozen=True, slots=True)
class ResourceUri:
    """What policies see. `path` and `query` are decoded, repeated slashes in `path` count as one; `host` is in lower
    case. `template` is the listed template that the URI fits, or empty; `parameters` are its values, decoded. If it
    fits several, or one that cannot be read, `template` is None: the server may take it for a URI of any of them."""

    scheme: str
    host: str
    path: str
    query: str
    template: str | None = ""
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
    fitting: dict[str, dict[str, str]] = {}
    may_fit_others = False
    for template in templates:
        reader = template_reader(template)
        if reader is None:
            may_fit_others = may_fit_others or may_fit(template, uri)
        elif (reading := reader.read(uri)) is not None:
            if reading.is_ambiguous:
                return f"it fits the template `{template[:80]}` in more than one way, so its parameters are ambiguous"
            values = fitting[template] = {name: unquote(value) for name, value in reading.values.items()}
            for name, value in values.items():
                if any(segment in (".", "..") for segment in re.split(r"[/\\]", value)):
                    return f"the parameter `{name}` contains `.` or `..` as a segment"
    if len(fitting) > 1 or may_fit_others:
        return replace(parts, template=None)
    return next((replace(parts, template=template, parameters=fitting[template]) for template in fitting), parts)


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
