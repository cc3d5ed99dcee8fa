"""Secrets in the files of clients: which values are secrets, and the text of a file without what may be one."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise

from mcp_guard.clients.jsonc import apply_edits
from mcp_guard.core.secret_scrubber import looks_secret, password_of

MASK = "********"
MIN_MASKED_LENGTH = 8
"""What may be a secret is hidden everywhere if it has this length or more, else only where it was found."""
VARIABLES_ALONE = re.compile(r"(?:(?:bearer|basic|token) +)?(?:\$\{[^{}]*\})+", re.IGNORECASE)
_HEADER_FLAGS = ("-H", "--header", "--headers")
_ASSIGNMENT = re.compile(r"""([A-Za-z_][\w.-]{0,99})=("[^"]*"|'[^']*'|[^\s&]+)""")
_ONE_ASSIGNMENT = re.compile(r"-{0,2}([A-Za-z_][\w.-]*)=(.+)", re.DOTALL)
_HEADER_LINE = re.compile(r"([A-Za-z][\w-]*):\s+(.+)", re.DOTALL)
_HEADER_ARGUMENT = re.compile(r"([A-Za-z][\w-]*):\s*(.+)", re.DOTALL)
_USER_IN_URL = re.compile(r"://([^/?#@\s]+)@")
_KNOWN_TOKEN = re.compile(
    r"(?<![A-Za-z0-9])(?:gh[opsru]_|github_pat_|glpat-|sk-|[prs]k_(?:live|test)_|xox[a-z]-|xapp-|AKIA|ASIA|AIza|ya29\.|eyJ"
    r"|npm_|pypi-|hf_|dop_v1_|shpat_|SG\.|ntn_|secret_|lin_api_|tvly-|gsk_|pplx-|figd_|ATATT|xai-|whsec_|r8_)"
    r"[A-Za-z0-9_.=+/-]{6,}"
)
"""Tokens whose issuers give them a prefix by which they can be found."""
_WORD = re.compile(r"[A-Za-z0-9_+-]{12,}=*")
_STRETCH = re.compile(r"[A-Za-z0-9]{12,}")
_CHANGE = re.compile(r"(?<=[0-9])(?=[A-Za-z])|(?<=[A-Za-z])(?=[0-9])")
_CASES = re.compile(r"(?=.*[a-z])(?=.*[A-Z]).{20,}")
_HEX = re.compile(r"(?=.*[0-9])[0-9A-Fa-f-]{16,}")
_HARMLESS = re.compile(r"true|false|yes|no|on|off|[01]|(?:[A-Za-z]:|~|\.{1,2})?[/\\]\S*|https?://[^\s?#@]*")
"""A switch, a path, or an address without a query."""
_LITERAL = re.compile(r'"(?:[^"\\\n]|\\.)*"')
_ENTRY_KEYS = frozenset(("command", "args", "url", "serverUrl", "httpUrl"))
_VALUE_KEYS = frozenset(("env", "environment", "headers", "http_headers"))
_STRING_OR_COMMENT = re.compile(
    r"""\"{3}(?:[^\\]|\\.)*?\"{3}|'{3}.*?'{3}|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'"""
    r"|((?:(?://|\#)[^\r\n]*(?:\r?\n[ \t]*(?=//|\#))?)+|/\*.*?\*/)",
    re.DOTALL,
)
"""In JSON or TOML. Comments on lines that follow each other are one."""
_NAME_BEFORE_VALUE = re.compile(r"""(?<![\w{])([A-Za-z_][\w.-]{0,99})["']?[ \t]*[:=][ \t]*""")
_OPTION_BEFORE_VALUE = re.compile(r"""(?<![\w-])(--?[A-Za-z][\w.-]{0,99})["']?[\s,=/#*]+""")
_VALUE = re.compile(r"""(?:"((?:[^"\\\r\n]|\\.)+)|'([^'\r\n]+)|\[([^\]]+)|([^\s"'\[{][^"\r\n]*))""")
_VALUES = re.compile(rf"""(?:{"|".join(_VALUE_KEYS)})["']?(?:\s*[:=]\s*\{{(?:\$\{{[^}}]*\}}|[^}}])*|\][^\[]*)""")
"""An object or a section of variables or headers."""


def is_secret(key: str, text: str) -> bool:
    return bool(text) and (looks_secret(key) or password_of(text) is not None)


def secret_arguments(args: Sequence[str]) -> Iterator[str]:
    """The arguments of a command that look like a secret: by their name or option, in a URL, or by a token's prefix."""
    for before, arg in pairwise(["", *args]):
        named = [*_named_values(before, arg)]
        if any(is_secret(name, value) for name, value in named) or password_of(arg) or _KNOWN_TOKEN.search(arg):
            yield arg


def _named_values(before: str, arg: str) -> Iterator[tuple[str, str]]:
    """The names and values in an argument, which follows another: of options, variables, headers and queries."""
    if looks_secret(before) and before.startswith("-") and "=" not in before and not arg.startswith("-"):
        yield before, arg
    for name, value in _ASSIGNMENT.findall(arg):
        yield name, value.strip("\"'")
    one = _ONE_ASSIGNMENT.fullmatch(arg)
    if one and (arg.startswith("-") or (before.startswith("-") and before != "-c")):  # with `-c` comes a script
        yield one[1], one[2]
    pattern = _HEADER_ARGUMENT if before in _HEADER_FLAGS else _HEADER_LINE
    flag, _, rest = arg.partition("=")
    if header := pattern.fullmatch(rest if flag in _HEADER_FLAGS else arg):
        yield header[1], header[2]


def secrets_of(data: object, key: str = "") -> Iterator[str]:
    """Every text in a parsed file that looks like a secret."""
    if isinstance(data, str) and is_secret(key, data) and not VARIABLES_ALONE.fullmatch(data):
        yield data
    elif isinstance(data, dict):
        for name, value in data.items():
            yield from secrets_of(value, str(name))
    elif isinstance(data, list):
        yield from secret_arguments([item for item in data if isinstance(item, str)])
        for item in data:
            yield from secrets_of(item, key)


@dataclass(frozen=True, slots=True)
class HiddenPart:
    """A part of a text in a file that may be a secret. `key` is the member that has the text; empty in a list."""

    part: str
    text: str
    key: str = ""


def hidden_parts(data: object, key: str = "") -> Iterator[HiddenPart]:
    """What may be a secret in a parsed file: by its name anywhere, and in servers' entries by what it looks like, too.

    Objects may be pairs. It errs on hiding.
    """
    if isinstance(data, str):
        if is_secret(key, data) and not VARIABLES_ALONE.fullmatch(data):
            yield HiddenPart(data, data, key)
    elif isinstance(data, list):
        yield from (HiddenPart(arg, arg) for arg in secret_arguments([item for item in data if isinstance(item, str)]))
        for item in data:
            yield from hidden_parts(item, key)
    elif isinstance(data, dict | tuple):
        pairs = _pairs(data)
        find = hidden_parts if _ENTRY_KEYS.isdisjoint(name for name, _ in pairs) else _parts_of_member
        for name, value in pairs:
            yield from find(value, name)


def _pairs(data: Mapping[str, object] | tuple[tuple[str, object], ...]) -> Sequence[tuple[str, object]]:
    return data if isinstance(data, tuple) else [*data.items()]


def _parts_of_member(value: object, name: str) -> Iterator[HiddenPart]:
    """Those in a member of a server's entry."""
    if isinstance(value, str):
        yield from hidden_parts(value, name)
        yield from (HiddenPart(part, value, name) for part in _parts("", value))
    elif isinstance(value, list):
        for before, arg in pairwise(["", *(item for item in value if isinstance(item, str))]):
            yield from (HiddenPart(part, arg) for part in ([arg] if looks_secret(name) else _parts(before, arg)))
        for item in value:
            yield from hidden_parts(item, name) if not isinstance(item, str) else ()
    elif isinstance(value, dict | tuple):
        for key, inner in _pairs(value):
            is_hidden = name in _VALUE_KEYS and isinstance(inner, str) and not _is_harmless(inner)
            yield from [HiddenPart(str(inner), str(inner), key)] if is_hidden else ()
            yield from _parts_of_member(inner, key)


def _is_harmless(value: str) -> bool:
    return bool(_HARMLESS.fullmatch(value) or VARIABLES_ALONE.fullmatch(value))


def _parts(before: str, text: str) -> Iterator[str]:
    """The parts of a command, an argument or an address that may be secrets."""
    yield from (value for _, value in _named_values(before, text) if not _is_harmless(value))
    yield from _USER_IN_URL.findall(text)
    yield from (match[0] for match in _KNOWN_TOKEN.finditer(text))
    yield from filter(_looks_random, _WORD.findall(text))


def _looks_random(word: str) -> bool:
    """Whether letters and digits, or capitals and small letters, are mixed as in no name."""
    if _HEX.fullmatch(word):
        return True
    stretches = _STRETCH.findall(word)
    return any(len(_CHANGE.findall(part)) > (len(part) < 16) or _CASES.fullmatch(part) for part in stretches)


def mask(text: str, parts: Iterable[HiddenPart]) -> str:
    """The text of a JSON or TOML file with these parts masked, in each spelling of a string, and what may be a secret
    in its comments."""
    longest_first = sorted(set(parts), key=lambda hidden: (len(hidden.part), hidden.part), reverse=True)
    long = [hidden.part for hidden in longest_first if len(hidden.part) >= MIN_MASKED_LENGTH]
    text = _STRING_OR_COMMENT.sub(lambda match: _mask_comment(match[0]) if match[1] else match[0], text)
    text = _LITERAL.sub(lambda match: _mask_escaped(match[0], long) if "\\" in match[0] else match[0], text)
    for hidden in longest_first:
        key = re.escape(hidden.key)
        for part, spelt in zip(_spellings(hidden.part), _spellings(hidden.text), strict=True):
            if hidden.part in long:
                text = text.replace(part[1:-1], MASK)
            shown = spelt.replace(part[1:-1], MASK)
            if spelt not in text:
                continue
            if key:
                member = re.compile(rf"""((?:"{key}"|'{key}'|(?<![\w-]){key})\s*[:=]\s*){re.escape(spelt)}""")
                text = member.sub(lambda match, shown=shown: f"{match[1]}{shown}", text)  # type: ignore[misc]
            else:
                text = text.replace(spelt, shown)
    return text


def _mask_escaped(literal: str, parts: Sequence[str]) -> str:
    """A string with escapes, which may spell a part in ways that nobody writes."""
    try:
        value = before = json.loads(literal)
    except ValueError:
        return literal
    for part in parts:
        value = value.replace(part, MASK)
    return literal if value == before else json.dumps(value, ensure_ascii=False)


def _spellings(text: str) -> tuple[str, ...]:
    return json.dumps(text), json.dumps(text, ensure_ascii=False), f"'{text}'"


def _mask_comment(comment: str) -> str:
    return apply_edits(comment, [(start, end, MASK) for start, end in _secret_spans(comment)])


def _secret_spans(comment: str) -> Iterator[tuple[int, int]]:
    """Where a comment, which may contain servers' entries, has what may be a secret."""
    entries = [match.span() for match in _VALUES.finditer(comment)]
    for name in chain(_NAME_BEFORE_VALUE.finditer(comment), _OPTION_BEFORE_VALUE.finditer(comment)):
        if (value := _VALUE.match(comment, name.end())) is None:
            continue
        text = value[value.lastindex or 0]
        is_named = looks_secret(name[1]) or name[1] in _HEADER_FLAGS
        is_value = any(start < name.start() < end for start, end in entries)
        if (is_named and not VARIABLES_ALONE.fullmatch(text)) or (is_value and not _is_harmless(text)):
            yield value.span(value.lastindex or 0)
    yield from (match.span(2) for match in _ASSIGNMENT.finditer(comment) if not _is_harmless(match[2].strip("\"'")))
    yield from (match.span(1) for match in _USER_IN_URL.finditer(comment))
    yield from (match.span() for match in _KNOWN_TOKEN.finditer(comment))
    yield from (match.span() for match in _WORD.finditer(comment) if _looks_random(match[0]))
