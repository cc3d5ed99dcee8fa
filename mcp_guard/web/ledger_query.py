"""Reads the address of the ledger's page: what is searched for, or what is wrong with it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlencode

from mcp_guard.core.model import SECOND, Micros
from mcp_guard.core.nearest import nearest
from mcp_guard.core.receipt_filters import FIELDS
from mcp_guard.core.receipt_terms import CALL, ENTRY, MAX_VALUE, OTHER, SEARCHED
from mcp_guard.core.times import read_span
from mcp_guard.core.visible_text import say
from mcp_guard.ledger.receipt_search import Search

MAX_VALUES = 10
"""Of one filter."""
MAX_PROBLEMS = 10
"""After so many, the rest of the address is not read."""
MAX_SEQ = 1 << 53
SHOWN = {"calls": (CALL,), "other": (OTHER,), "all": ()}
"""What `show` can be, and the entries that it leaves."""
FILTERS = tuple(name for name in SEARCHED if name != "kind")


@dataclass(frozen=True, slots=True)
class LedgerQuery:
    """`text` is what was entered, by the name of the field, of those that are not empty."""

    text: Mapping[str, tuple[str, ...]]
    search: Search
    problems: tuple[str, ...]

    @property
    def is_filtered(self) -> bool:
        return any(name != "show" for name in self.text)

    @property
    def is_first_page(self) -> bool:
        return self.search.below is None

    def first(self, name: str) -> str:
        """What a form shows in the field of this name."""
        return self.text.get(name, ("",))[0]

    def address(self, **changes: object) -> str:
        """The address of the same search, changed; with an empty text, without this member."""
        members = {**self.text, **{name: (str(value),) for name, value in changes.items()}}
        pairs = [(name, value) for name, values in members.items() for value in values if value]
        return f"/ledger?{urlencode(pairs)}" if pairs else "/ledger"


def read_query(pairs: Iterable[tuple[str, str]], now: Micros) -> LedgerQuery:
    """`pairs` are the members of the address. Never raises: what cannot be read is a problem."""
    entered: dict[str, dict[str, None]] = {}
    problems: list[str] = []
    known = (*FILTERS, "kind", "show", "since", "until", "below")
    for name, value in pairs:
        if len(problems) >= MAX_PROBLEMS:
            break
        if name not in known:
            close = nearest(name[:MAX_VALUE], known)
            meant = say("; did you mean `{}`?", close) if close else ""
            problems.append(say("there is no filter `{}`{}", name[:MAX_VALUE], meant))
        elif value.strip():
            entered.setdefault(name, {})[value.strip()] = None
    text = {name: tuple(values) for name, values in entered.items()}
    for name, values in text.items():
        problems += _check(name, values)
    since, until = _read_times(text, now, problems)
    below = text.get("below", ("",))[0]
    is_place = below.isascii() and below.isdecimal() and len(below) < 17 and int(below) < MAX_SEQ
    if below and not is_place:
        problems.append(say("`{}` is not a place in the ledger; begin again with the first page", below[:MAX_VALUE]))
    wanted: dict[str, Sequence[str]] = {name: values for name, values in text.items() if name in SEARCHED}
    if kinds := SHOWN.get(text.get("show", ("calls",))[0], ()):
        wanted[ENTRY] = kinds
    return LedgerQuery(text, Search(wanted, since, until, int(below) if is_place else None), tuple(problems))


def _read_times(
    text: Mapping[str, Sequence[str]], now: Micros, problems: list[str]
) -> tuple[Micros | None, Micros | None]:
    moment = datetime.fromtimestamp(now // SECOND, UTC)
    times: dict[str, Micros] = {}
    for name, at in (("since", 0), ("until", 1)):
        for value in text.get(name, ()):
            try:
                times[name] = read_span(value[:MAX_VALUE], moment)[at]
            except ValueError as error:
                problems.append(str(error))
    since, until = times.get("since"), times.get("until")
    if since is not None and until is not None and since > until:
        problems.append("the time `from` is after the time `to`")
    return since, until


def _check(name: str, values: Sequence[str]) -> list[str]:
    problems: list[str] = []
    allowed = tuple(SHOWN) if name == "show" else FIELDS[name].choices if name in FIELDS else None
    if len(values) > (MAX_VALUES if name in SEARCHED else 1):
        problems.append(say("`{}` is given {} times, which is too often", name, len(values)))
    for value in values[:MAX_VALUES]:
        if len(value) > MAX_VALUE:
            problems.append(
                say("the value of `{}` has {} characters; at most {} can be found", name, len(value), MAX_VALUE)
            )
        elif allowed is not None and value not in allowed:
            close = nearest(value, allowed)
            meant = say("; did you mean `{}`?", close) if close else ""
            problems.append(say("`{}` is none of the values of `{}`{}", value, name, meant))
    return problems
