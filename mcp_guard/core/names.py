"""Names: how an upstream's tool is listed to the client, reversibly, and the form of instance ids.

A client may restrict tool names to 64 characters of `[A-Za-z0-9_-]`, while an upstream may use any. `listed_name` is
injective: other characters become `_xHH_` per UTF-8 byte, and an existing `_xHH_` is escaped itself. A name that gets
too long is cut and ends in a hash; only the catalog can reverse that, so `split_listed_name` refuses such a name.
"""

import hashlib
import re
from functools import lru_cache

NAME_LIMIT = 64
SEPARATOR = "__"
MANGLING_VERSION = 1
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]|_(?=x[0-9A-F]{2}_)")
_ESCAPED = re.compile(r"((?:_x[0-9A-F]{2}_)+)")
_CUT = re.compile(r"_xh[0-9a-f]{12}$")


def _escape(match: re.Match[str]) -> str:
    return "".join(f"_x{byte:02X}_" for byte in match.group().encode())


def _unescape(match: re.Match[str]) -> str:
    return bytes(int(part, 16) for part in re.findall(r"_x([0-9A-F]{2})_", match.group())).decode()


@lru_cache(maxsize=4096)
def listed_name(server: str, name: str) -> str:
    """The listed name of an upstream's tool: `server__tool`, at most 64 characters."""
    listed = f"{server}{SEPARATOR}{_UNSAFE.sub(_escape, name)}"
    if len(listed) <= NAME_LIMIT and not _CUT.search(listed):
        return listed
    tail = _tail(f"{server}\0{name}")
    return listed[: NAME_LIMIT - len(tail)] + tail


def short_form(listed: str, limit: int) -> str:
    """A listed name that is over a client's limit, as it is shown: cut, and ending in a hash of the whole."""
    tail = _tail(listed)
    return listed[: limit - len(tail)] + tail


def is_short_form(name: str, listed: str) -> bool:
    """Whether `name` is the short form of this listed name, whatever the limit."""
    cut = _CUT.sub("", name)
    return cut != name and listed.startswith(cut) and name == cut + _tail(listed)


def _tail(whole: str) -> str:
    return "_xh" + hashlib.sha256(whole.encode()).hexdigest()[:12]


def split_listed_name(listed: str) -> tuple[str, str]:
    """The server, and the upstream's own name of the tool.

    Raises: ValueError if this is not a listed name, or one that was cut.
    """
    server, separator, rest = listed.partition(SEPARATOR)
    if not separator or not server or not rest or _CUT.search(listed):
        raise ValueError(f"`{listed}` is not a reversible `server__tool` name")
    return server, _ESCAPED.sub(_unescape, rest)


def last_word(name: str) -> str:
    """The last word of an argument's name in lower case: `text` of `newText` and `new_text`; empty if it has none."""
    words = re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+", name)
    return words[-1].lower() if words else ""


def instance_id(started: str, random: str) -> str:
    """`run_2026_01_31_19_22Z_7f3k` from an RFC 3339 time and four or more random characters."""
    return f"run_{started[:16].replace('-', '_').replace('T', '_').replace(':', '_')}Z_{random}"
