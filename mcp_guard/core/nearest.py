"""Which name another one may be a misspelling of. Pure."""

import re
import unicodedata
from collections.abc import Iterable

from mcp_guard.core.names import SEPARATOR
from mcp_guard.core.normal_form import normalize

MAX_NEAR = 3
MAX_LISTED = 5
CUTOFF = 0.6
LONG_WORD = 5
"""How long a word must be for one other letter in it to be a misspelling."""


FOLDED = "case, accents, `_`, `-`, blanks or invisible characters"
"""What `folded` leaves out."""


def folded(name: str) -> str:
    """A name without what some servers ignore in it: case, accents, `_`, `-`, compatibility forms, blanks and controls.

    Go's `encoding/json` takes `Stage`, and even `ſtage`, for `stage`; JSON of Protocol Buffers `deal_stage` for
    `dealStage`; and whatever compares upper case takes `ı` for `i`.
    """
    if name.isascii() and name.isidentifier():
        return name.lower().replace("_", "")
    plain = normalize("NFKD", normalize("NFKC", name).upper().casefold())
    return "".join(c for c in plain if c not in "_-" and not _is_accent(c) and unicodedata.category(c)[0] not in "CZ")


def _is_accent(character: str) -> bool:
    """Whether it is a combining mark of Latin, Greek or Cyrillic letters. Those of other scripts make other letters."""
    return "\u0300" <= character <= "\u036f"


def is_misspelling(name: str, other: str) -> bool:
    """Whether a name is another one with a letter left out, added, replaced within a word, or two exchanged.

    Names that differ in digits, or in a short word, are different names: `get_user` and `set_user`, `a1` and `a2`.
    """
    if folded(name) == folded(other):
        return True
    if [*filter(str.isdecimal, name)] != [*filter(str.isdecimal, other)]:
        return False
    if len(name) == len(other):
        differing = [at for at, pair in enumerate(zip(name, other, strict=True)) if pair[0] != pair[1]]
        if len(differing) == 1:
            return _word_length(name, differing[0]) >= LONG_WORD
        first, last = differing[0], differing[-1]
        return last == first + 1 and name[first : last + 1] == other[last] + other[first]
    shorter, longer = sorted((name, other), key=len)
    one_more = len(longer) == len(shorter) + 1 > 2
    return one_more and any(longer[:at] + longer[at + 1 :] == shorter for at in range(len(longer)))


def _word_length(name: str, at: int) -> int:
    """The length of the word at a position."""
    before, after = re.split(r"[_\-.]", name[:at])[-1], re.split(r"[_\-.]", name[at:])[0]
    return len(before) + len(after)


def nearest(name: str, known: Iterable[str]) -> str:
    """The name of which this one is probably a misspelling; empty if there is none."""
    return next(iter(_near(name, known)), "")


def nearest_tools(name: str, listed: Iterable[str]) -> list[str]:
    """The tools with the names most like this one, the nearest first: of the server that it names, or the nearest
    server, or of any if it names none. Empty if none is near."""
    by_server: dict[str, dict[str, str]] = {}
    for full in sorted(listed):
        server, _, tool = full.partition(SEPARATOR)
        by_server.setdefault(server, {})[tool] = full
    server, separator, tool = name.partition(SEPARATOR)
    if not separator:
        tools = {own: full for of_server in by_server.values() for own, full in of_server.items()}
        misspelt = [own for own in sorted(tools) if is_misspelling(name, own)]
        return [tools[own] for own in misspelt or _near(name, tools)]
    found = []
    for near_server in [server] if server in by_server else _near(server, by_server)[:1]:
        tools = by_server[near_server]
        prefixed = [own for own in (f"{near_server}_{tool}", f"{near_server}-{tool}") if own in tools]
        misspelt = [own for own in sorted(tools) if is_misspelling(tool, own)]
        found = [tools[own] for own in prefixed or misspelt or _near(tool, tools)]
    return found


def _near(name: str, known: Iterable[str]) -> list[str]:
    import difflib  # only where something is wrong

    return difflib.get_close_matches(name, sorted(known), MAX_NEAR, CUTOFF)


def suggest_tools(name: str, listed: Iterable[str]) -> str:
    """What to write instead of a name that no tool has: the nearest tools, else some of the same server, or of all."""
    listed = sorted(listed)
    if near := nearest_tools(name, listed):
        return f"did you mean {' or '.join(f'`{tool}`' for tool in near)}?"
    server, separator, _ = name.partition(SEPARATOR)
    of_server = [tool for tool in listed if tool.startswith(server + SEPARATOR)] if separator else []
    shown = of_server or listed
    if not shown:
        return "no tools are listed"
    names = ", ".join(f"`{tool}`" for tool in shown[:MAX_LISTED])
    more = f" and {len(shown) - MAX_LISTED} more" if len(shown) > MAX_LISTED else ""
    return f"the tools{f' of `{server}`' if of_server else ''} are {names}{more}"
