"""Texts that an instance has seen, read from calls and replies, and the origin they give to a value. Pure."""

import re
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any

from mcp_guard.core import exact_json
from mcp_guard.core.model import Json, Tool
from mcp_guard.core.provenance import matching
from mcp_guard.core.provenance.dates import find_dates
from mcp_guard.core.provenance.injection import injection_start

UNTRUSTED = "untrusted"
BREAK, NAME = "\0", "\0name"


class Origin(StrEnum):
    TASK = "from_task"
    MENTIONED = "mentioned_by_task"
    TRUSTED = "from_trusted"
    PARTY = "from_party"
    UNTRUSTED = "from_untrusted"
    UNKNOWN = "unknown_origin"


@dataclass(frozen=True, slots=True)
class ValueOrigin:
    """Where a value comes from. For untrusted texts: whether the task named the source (`named`), and whether the text
    gives instructions to agents and the value is more than a word that it also has (`instructs`).
    """

    origin: Origin
    named: bool = False
    instructs: bool = False


NOWHERE = ValueOrigin(Origin.UNKNOWN)


@dataclass(frozen=True)
class Passage:
    """Texts from one source, plain and separated by `BREAK`: as written, and decoded (`decoded`).

    `whole` are values that match only as a whole. `named` and `labelled` tell whether the task named the source, and
    whether others may have written it: its tool is labelled as untrusted, or what should be a name says something.
    """

    origin: Origin
    text: str = ""
    decoded: str = ""
    whole: AbstractSet[str] = frozenset()
    named: bool = False
    labelled: bool = False

    @property
    def size(self) -> int:
        return len(self.text) + len(self.decoded) + sum(map(len, self.whole))

    @property
    def has_instructions(self) -> bool:
        """Whether a text of a tool labelled as untrusted gives instructions to agents."""
        return self.labelled and self._has_instructions

    @cached_property
    def _has_instructions(self) -> bool:
        return any(injection_start(text) is not None for text in (self.text, self.decoded))

    @cached_property
    def _instructing(self) -> list[tuple[str, str, int]]:
        """The texts with instructions to agents: plain, squeezed, and where the instructions start."""
        if not self._has_instructions:
            return []
        pairs = zip(f"{self.text}{BREAK}{self.decoded}".split(BREAK), self.squeezed.split(BREAK), strict=True)
        starts = ((text, squeezed, injection_start(text)) for text, squeezed in pairs)
        return [(text, squeezed, start) for text, squeezed, start in starts if start is not None]

    @cached_property
    def squeezed(self) -> str:
        """Every text without punctuation, the decoded ones last."""
        return BREAK.join(map(matching.squeeze, f"{self.text}{BREAK}{self.decoded}".split(BREAK)))

    def contains(self, value: str) -> bool:
        if value in self.whole or matching.contains_value(value, self.text):
            return True
        if self.origin is not Origin.UNTRUSTED:
            return False
        tight = matching.squeeze_value(value)
        long_enough = len(tight) >= matching.MIN_SQUEEZED
        return matching.contains_value(value, self.decoded) or (long_enough and tight in self.squeezed)

    def origin_of(self, value: str) -> ValueOrigin:
        """The origin of a value that this passage contains."""
        if self.origin is not Origin.UNTRUSTED:
            return ValueOrigin(self.origin)
        return ValueOrigin(self.origin, self.named, matching.is_distinctive(value) and self._instructs(value))

    def _instructs(self, value: str) -> bool:
        """Whether the first text with instructions to agents that contains the value has it after their start, or only
        squeezed. A value that itself contains the separator (a NUL character) is in no single text: then all count."""
        tight = matching.squeeze_value(value)
        for text, squeezed, start in self._instructing:
            if value in text or tight in squeezed:
                return text.find(value, 0, start) < 0 or text.find(value, start) >= 0
        return BREAK in value and self._has_instructions


_RUN_ON = re.compile(r"(?<=[a-z0-9])\.(?=[A-Z][a-z])")


def sentences(given: Iterable[str]) -> Iterator[str]:
    """The texts as written, and with missing spaces between sentences added, because an address ends there."""
    for text in given:
        yield text
        if _RUN_ON.search(text):
            yield _RUN_ON.sub(". ", text)


def texts(arguments: Json, sinks: Iterable[str] = ()) -> Iterator[tuple[str, str]]:
    """Every string in the arguments with the name of its argument; for sinks, numbers too."""
    for name, value in arguments.items():
        for path, text in leaves(value):
            is_name = path[-1:] == (NAME,)
            wanted = isinstance(text, str) or name in sinks
            if not wanted or (is_name and not matching.addresses(str(text))):
                continue
            if str(text).strip():
                yield name, str(text)


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str | float]]:
    """Every string, number and member name in a JSON value, with the path to it."""
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        yield path, value
    elif isinstance(value, list):
        for item in value:
            yield from leaves(item, (*path, "*"))
    elif isinstance(value, dict):
        for name, item in value.items():
            yield (*path, NAME), name
            yield from leaves(item, (*path, name))


@dataclass(frozen=True, slots=True)
class Labels:
    """How a tool's results are labelled, by the path of each value."""

    trusted: tuple[tuple[str, ...], ...]
    parties: tuple[tuple[str, ...], ...]
    is_untrusted: bool
    """Whether the rest of them is. It is if the configuration lists any value to be trusted."""

    @classmethod
    def of(cls, tool: Tool) -> "Labels":
        trusted, parties = (
            tuple(tuple(pattern.split("/")[1:]) for pattern in patterns)
            for patterns in (tool.rule.trusted, tool.rule.parties)
        )
        return cls(trusted, parties, bool(trusted or parties) or UNTRUSTED in tool.rule.returns)

    def whole(self, path: tuple[str, ...], text: str) -> Origin | None:
        """What a value counts as that the server vouches for as a whole. An address names a party, wherever it is."""
        if any(_fits(path, pattern) for pattern in self.parties):
            return Origin.PARTY
        if any(_fits(path, pattern) for pattern in self.trusted):
            return Origin.PARTY if matching.is_address(text) else Origin.TRUSTED
        return None

    def gives(self, path: tuple[str, ...], text: str) -> bool:
        """Whether a value is the server's own, such as an id."""
        return self.whole(path, text) is Origin.TRUSTED if self.is_untrusted else path[-1:] != (NAME,)


def read_result(tool: Tool, reply: Json, named: bool, limit: int) -> list[Passage]:
    """The passages of one reply: first values that are vouched for as a whole, then the texts as labelled.

    Texts of more than `limit` characters, which nobody keeps, are not decoded.
    """
    labels = Labels.of(tool)
    whole: dict[Origin | None, dict[str, None]] = {Origin.TRUSTED: {}, Origin.PARTY: {}, None: {}}
    read: dict[str, str] = {}
    for path, leaf in (item for part in parts(reply) for item in leaves(part)):
        text = str(leaf)
        value = read[text] = matching.plain(text)
        whole[labels.whole(path, text)][value] = None
    rest = dict.fromkeys(read.values())
    decoded: dict[str, None] = {}
    for text, value in read.items() if sum(map(len, rest)) <= limit else ():
        decoded |= dict.fromkeys(str(day) for day in find_dates(value, with_year=True) if day.year)
        if labels.is_untrusted:
            decoded |= dict.fromkeys(map(matching.plain, matching.decodings(text)))
    if not labels.is_untrusted:
        return [Passage(Origin.TRUSTED, BREAK.join((*rest, *decoded)))]
    says_something = any(map(matching.is_sentence, whole[Origin.TRUSTED]))
    return [
        *(Passage(origin, whole=frozenset(whole[origin])) for origin in (Origin.TRUSTED, Origin.PARTY)),
        Passage(
            Origin.UNTRUSTED,
            BREAK.join(rest),
            BREAK.join(decoded),
            frozenset(),
            named,
            says_something or UNTRUSTED in tool.rule.returns,
        ),
    ]


def _fits(path: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    return len(path) == len(pattern) and all(wanted in ("*", name) for name, wanted in zip(path, pattern, strict=True))


def parts(reply: Json) -> Iterator[Any]:
    """The content that an agent reads in a reply, of whatever method: structured content, texts (parsed if they are
    JSON), errors."""
    result = reply.get("result")
    if not isinstance(result, dict):
        yield reply.get("error")
        return
    structured = result.get("structuredContent")
    if structured is not None:
        yield structured
    for block in _blocks(result):
        if not isinstance(block, dict):
            continue
        text = block.get("text")
        if not isinstance(text, str):
            yield {name: value for name, value in block.items() if name not in ("data", "blob")}
            continue
        read, is_whole = _as_json(text)
        is_own = read is not None and (structured is None or _repeats(structured, text, read))
        if not is_own or not is_whole:
            yield text  # somebody else may have written it: it has no places that the server vouches for
        if is_own and read != structured:
            yield read


def _blocks(result: Json) -> Iterator[Any]:
    """The blocks of a tool's result, the contents of a resource, or the messages of a prompt."""
    for name in ("content", "contents", "messages"):
        items = result.get(name)
        for item in items if isinstance(items, list) else ():
            block = item.get("content") if name == "messages" and isinstance(item, dict) else item
            yield from block if isinstance(block, list) else [block]
    yield {name: result[name] for name in ("description", "completion") if name in result}


def _repeats(structured: Any, text: str, read: Any) -> bool:
    """Whether a text is the structured content, what the SDK wraps in it as `result`, or one of its items."""
    wrapped = structured.get("result") if isinstance(structured, dict) else None
    return read in (structured, wrapped) or text == wrapped or (isinstance(wrapped, list) and read in wrapped)


def _as_json(text: str) -> tuple[Any, bool]:
    """The JSON object or list in a text, or None; and whether it has all that is written there."""
    if text[:1] not in ("{", "["):
        return None, False
    try:
        value, is_compact = exact_json.read(text.encode())
    except ValueError:
        return None, False
    return value, is_compact or exact_json.has_all(text)
