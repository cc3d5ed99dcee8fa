"""Checks that find suspicious tool definitions, in one ordered list. Pure.

To add a check: one function here, its line in `CHECKS` (one definition) or `COMPARISONS` (one beside the others), one
row in `tests/core/test_definition_checks.py`. `tools list` shows the findings. They decide only one thing: a tool with
hidden characters is quarantined at its first use, whatever `first_use` says, because nobody who read its text has seen
them.

Confusable letters are a short table in the manner of Unicode TR 39, for names only, after NFKC and case folding.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

from mcp_guard.core.hidden_characters import DefinitionFinding, find_hidden, is_hidden, texts
from mcp_guard.core.mixed_scripts import find_mixed_scripts
from mcp_guard.core.model import Json
from mcp_guard.core.names import listed_name
from mcp_guard.core.normal_form import normalize
from mcp_guard.core.visible_text import visible, visible_line

MAX_QUOTED = 60
"""The most characters of a definition that a finding quotes."""


@dataclass(frozen=True)
class ListedTool:
    """What the checks need of a tool."""

    server: str
    name: str
    definition: Json

    @cached_property
    def prose(self) -> str:
        """All its text, case-folded."""
        return "\n".join(text for _, text in texts(self.definition)).casefold()

    @property
    def listed_as(self) -> str:
        return listed_name(self.server, self.name)


def hidden_characters(tool: ListedTool) -> Iterator[DefinitionFinding]:
    """Zero-width characters, bidirectional controls, tags, variation selectors, escapes and other controls."""
    yield from find_hidden(tool.definition)


# Text that addresses the model

_PATTERNS = (
    ("overrides earlier instructions",
     r"\b(ignore|disregard|forget|override|bypass)\b.{0,30}\b(previous|prior|above|earlier|other|all|any|system|safety)"
     r"\b.{0,30}\b(instruction|prompt|rule|message|guideline|polic|direction|context)"),
    ("instruction tag",
     r"<\s*/?\s*(important|system|instructions?|assistant|secret|admin|critical)\s*>"),
    ("chat template marker",
     r"<\|\s*(im_start|im_end|system|user|assistant|endoftext)\s*\|>|\[/?INST\]|<</?SYS>>"),
    ("asks to hide something from the user",
     r"\b(do not|don't|never|without|avoid)\b.{0,25}\b(tell|inform|mention|notify|show|alert|ask|reveal)\w*\b"
     r".{0,25}\b(user|human|person|anyone)"),
    ("demands a step before or instead of the tool",
     r"\b(before|prior to|instead of|whenever|each time|every time)\b.{0,40}\b(using|calling|invoking|running)\b"
     r".{0,30}\btools?\b.{0,80}\b(must|always|first|read|call|send|include|pass)\b"),
    ("mentions the system prompt",
     r"\bsystem prompt\b|\bdeveloper message\b"),
    ("gives the model another role",
     r"\byou are (now|no longer)\b|\bact as (an?|the) (admin|root|system|unrestricted)"),
    ("names secrets to read",
     r"~/\.(ssh|aws|config|cursor|kube)\b|\bid_rsa\b|\.env\b.{0,30}\b(read|content|send)|/etc/passwd"),
)  # fmt: skip
INSTRUCTIONS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (name, re.compile(pattern, re.IGNORECASE)) for name, pattern in _PATTERNS
)
_BLANKS = re.compile(r"[^\S\n]{60,}|\n{12,}")


def instructions(tool: ListedTool) -> Iterator[DefinitionFinding]:
    """Text that addresses the model instead of describing the tool. A word search, so neither complete nor certain."""
    for where, text in texts(tool.definition):
        plain = "".join(c for c in normalize("NFKC", text) if not is_hidden(c)).replace("\n", " ")
        for name, pattern in INSTRUCTIONS:
            if match := pattern.search(plain):
                yield DefinitionFinding("instructions", where, f"{name}: “{visible_line(match.group()[:MAX_QUOTED])}”")


def far_text(tool: ListedTool) -> Iterator[DefinitionFinding]:
    """Text that blanks push out of sight."""
    for where, text in texts(tool.definition):
        if (match := _BLANKS.search(text)) and text[match.end() :].strip():
            yield DefinitionFinding("far_text", where, f"{match.end() - match.start()} blanks before more text")


# Names

_CONFUSABLE = str.maketrans(
    "аеорсухіјѕһԁԛԝьѡвкмнтгз" "αβγεηικνορτυχωϲ" "օսհոցզեі" "ıɩɑɡʋ" "0135",
    "aeopcyxijshdqwbwbkmhtre" "abyenikvoptuxwc" "oshngqei" "iiagv" "oles",
)  # fmt: skip
_PAIRS = (("rn", "m"), ("vv", "w"), ("cl", "d"))


@lru_cache(4096)
def skeleton(name: str) -> str:
    """The name as a hasty reader sees it: two names with equal skeletons can be confused."""
    folded = normalize("NFKD", normalize("NFKC", name).casefold()).translate(_CONFUSABLE)
    letters = "".join(c for c in folded if c.isalnum())
    for pair, single in _PAIRS:
        letters = letters.replace(pair, single)
    return letters.replace("i", "l")


def mixed_scripts(tool: ListedTool) -> Iterator[DefinitionFinding]:
    """A name of the tool or an argument, with letters of scripts that are not used together."""
    schema = tool.definition.get("inputSchema")
    properties = schema.get("properties") if isinstance(schema, dict) else None
    names = [("name", tool.name)]
    if isinstance(properties, dict):
        names += [(f"inputSchema/properties/{visible(name)}", name) for name in properties]
    for where, name in names:
        for word in re.split(r"[\W_]+", name):
            if mixed := find_mixed_scripts(word):
                text = f"`{visible(name[:MAX_QUOTED])}` mixes {' and '.join(sorted(mixed))}"
                yield DefinitionFinding("mixed_scripts", where, text)


def look_alike(tool: ListedTool, other: ListedTool) -> Iterator[DefinitionFinding]:
    """A name that can be mistaken for another tool's: by confusable letters, case or separators."""
    own, theirs = tool.name, other.name
    if tool.server == other.server and own.casefold() == theirs.casefold():
        yield DefinitionFinding("look_alike", "name", f"differs from `{other.listed_as}` only in case")
    elif own != theirs and skeleton(own) == skeleton(theirs):
        yield DefinitionFinding("look_alike", "name", f"can be read as `{other.listed_as}`")


def imitation(tool: ListedTool, other: ListedTool) -> Iterator[DefinitionFinding]:
    """A name that pretends to be another server's tool, or is the same but for another definition."""
    if tool.server == other.server:
        return
    if skeleton(tool.name) == skeleton(f"{other.server}{other.name}"):
        yield DefinitionFinding("imitation", "name", f"poses as `{other.listed_as}`")
    elif tool.name == other.name and tool.definition != other.definition:
        yield DefinitionFinding("same_name", "name", f"`{other.listed_as}` has the same name and another definition")


def other_tools(tool: ListedTool, other: ListedTool) -> Iterator[DefinitionFinding]:
    """Text that mentions another server's tool: it may try to change how that one is used."""
    if tool.server == other.server or tool.name == other.name or other.name.casefold() not in tool.prose:
        return
    if not _is_distinctive(other.name):
        return
    pattern = re.compile(rf"(?<![\w-]){re.escape(other.name)}(?![\w-])", re.IGNORECASE)
    for where, text in texts(tool.definition):
        if len(text) > len(other.name) and pattern.search(text):
            yield DefinitionFinding("other_tools", where, f"mentions `{other.listed_as}`")


def _is_distinctive(name: str) -> bool:
    """Whether a name cannot be an ordinary word."""
    return len(name) >= 6 and any(not c.isalpha() for c in name)


CHECKS: tuple[Callable[[ListedTool], Iterator[DefinitionFinding]], ...] = (
    hidden_characters,
    instructions,
    far_text,
    mixed_scripts,
)
COMPARISONS: tuple[Callable[[ListedTool, ListedTool], Iterator[DefinitionFinding]], ...] = (
    look_alike,
    imitation,
    other_tools,
)


def check_tool(tool: ListedTool, others: Iterable[ListedTool] = ()) -> tuple[DefinitionFinding, ...]:
    """All findings of one tool. `others` are compared with it, and may include the tool itself."""
    own = [finding for check in CHECKS for finding in check(tool)]
    compared = [
        finding
        for other in others
        if (other.server, other.name) != (tool.server, tool.name)
        for compare in COMPARISONS
        for finding in compare(tool, other)
    ]
    return (*own, *compared)


def check_tools(tools: Mapping[str, ListedTool]) -> dict[str, tuple[DefinitionFinding, ...]]:
    return {name: check_tool(tool, tools.values()) for name, tool in tools.items()}
