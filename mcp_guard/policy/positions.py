"""Finds policies in their files, and the line and column of what an error is about: Cedar's errors, as its Python
package gives them, have none.

Positions are for messages only. Wherever a position cannot be told, it is that of the whole policy, or left out.
"""

import json
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cedarpy

from mcp_guard.policy.nesting import find_too_deep

_TOKEN = re.compile(
    r'(?:\s+|//[^\n]*)|("(?:\\.|[^"\\])*"|[A-Za-z_][A-Za-z0-9_]*|[0-9]+|::|==|!=|<=|>=|&&|\|\||.)', re.DOTALL
)
CLOSING = (")", "]", "}", ";")
BEGINNINGS = frozenset({";", "@", "permit", "forbid", "when", "unless"})
"""Tokens before which something is not closed, rather than a comma missing."""
MAX_LONG = 2**63 - 1
_QUOTED = re.compile(r"`([^`]+)`|'([^']+)'")


class Position(NamedTuple):
    """Line and column of a character, both counted from 1."""

    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.line}:{self.column}"


class Token(NamedTuple):
    text: str
    start: int
    end: int


class SyntaxProblem(NamedTuple):
    position: Position
    text: str


def position_of(text: str, offset: int) -> Position:
    before = text[:offset]
    return Position(before.count("\n") + 1, offset - (before.rfind("\n") + 1) + 1)


def _tokens(text: str) -> list[Token]:
    return [Token(match[1], match.start(1), match.end(1)) for match in _TOKEN.finditer(text) if match[1] is not None]


def _statements(tokens: Sequence[Token]) -> Iterator[Sequence[Token]]:
    """The tokens of each policy, with the `;` that ends it."""
    first = 0
    for number, token in enumerate(tokens):
        if token.text == ";":
            yield tokens[first : number + 1]
            first = number + 1
    if first < len(tokens):
        yield tokens[first:]


def find_syntax_problems(text: str) -> list[SyntaxProblem]:
    """What is wrong with a text that Cedar cannot parse: the first syntax error, else one for each policy."""
    if deep := find_too_deep(text):
        return [SyntaxProblem(position_of(text, deep[0]), f"too deep to be read: {deep[1]}")]
    tokens = _tokens(text)
    if not _may_continue(text) or (tokens and tokens[-1].text != ";"):
        return [_explain_syntax_error(text, tokens)]
    problems = []
    for statement in _statements(tokens):
        if message := _error_in(text[statement[0].start : statement[-1].end]):
            offset = _find_named(statement, message, with_words=True) or statement[0].start
            problems.append(SyntaxProblem(position_of(text, offset), message))
    return problems or [SyntaxProblem(Position(1, 1), _error_in(text))]


def _error_in(text: str) -> str:
    """Cedar's error; empty if it can parse the text."""
    try:
        cedarpy.policies_to_json_str(text)
    except ValueError as error:
        return str(error)
    return ""


def _may_continue(text: str) -> bool:
    """Whether this could be the beginning of policies, as far as the syntax goes.

    No policy has `];` or `@;` anywhere. Cedar reports the first error: it is in what was added if it varies with that.
    """
    return _error_in(f"{text}\n] ;") != _error_in(f"{text}\n@ ;")


def _explain_syntax_error(text: str, tokens: Sequence[Token]) -> SyntaxProblem:
    """The first token that cannot stand where it does, found by bisection, and what is missing there, if anything."""
    low, high = 0, len(tokens)
    while low < high:
        middle = (low + high) // 2
        if _may_continue(text[: tokens[middle].end]):
            low = middle + 1
        else:
            high = middle
    for near in tokens[max(low - 2, 0) : low + 1]:
        if near.text == '"' or (near.text.startswith('"') and "\n" in near.text):
            return SyntaxProblem(position_of(text, near.start), 'the text that begins here is not closed with `"`')
    if low and (number := tokens[low - 1]).text.isdecimal() and int(number.text) > MAX_LONG:
        return SyntaxProblem(position_of(text, number.start), f"`{number.text}` is larger than any number in Cedar")
    is_at_end = low == len(tokens)
    start, found = (tokens[-1].end, "") if is_at_end else (tokens[low].start, tokens[low].text)
    message = "unexpected end of the file" if is_at_end else f"unexpected `{found}`"
    if found == "'":
        message += '; texts are written in `"`'
    elif missing := _find_missing(text[: tokens[low - 1].end] if low else "", found):
        message += f"; `{missing}` is missing before it"
    return SyntaxProblem(position_of(text, start), message)


def _find_missing(before: str, token: str) -> str:
    """The mark with which the text before an unexpected token could go on; empty if there is none."""
    is_open = not token or token in BEGINNINGS or token in CLOSING
    candidates = CLOSING if is_open else (",", *CLOSING)
    return next((mark for mark in candidates if mark != token and before and _may_continue(before + mark)), "")


class PolicyPositions:
    """Where the policies of one text are, found in one pass."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._statements = list(_statements(_tokens(text)))
        self._numbers: dict[str, int] = {}
        for number, statement in enumerate(self._statements):
            self._numbers.setdefault(f"policy{number}", number)
            self._numbers.setdefault(_id_of(statement), number)

    def find(self, policy: str, about: str = "") -> Position | None:
        """The position of the policy with this id, or of Cedar's `policyN`, the N-th; None if it is not in the text.

        If `about`, an error message, quotes something in backticks that the policy has, it is the position of that.
        """
        number = self._numbers.get(policy)
        if number is None:
            return None
        statement = self._statements[number]
        return position_of(self._text, _find_named(statement, about) or statement[0].start)


def policies_as_written(text: str) -> dict[str, str]:
    """By `@id`, each policy of a text that Cedar can parse: from its first annotation to its `;`."""
    statements = list(_statements(_tokens(text)))
    written: dict[str, str] = {}
    for name, body in json.loads(cedarpy.policies_to_json_str(text))["staticPolicies"].items():
        statement = statements[int(name.removeprefix("policy"))]
        written[body.get("annotations", {}).get("id", "")] = text[statement[0].start : statement[-1].end]
    return written


def _id_of(statement: Sequence[Token]) -> str:
    words = [token.text for token in statement]
    for at in range(len(words) - 3):
        if words[at : at + 3] == ["@", "id", "("]:
            return words[at + 3][1:-1]
    return ""


def _find_named(statement: Sequence[Token], message: str, with_words: bool = False) -> int | None:
    """Where the policy has what a message quotes in backticks, or `with_words`, ends in."""
    texts = [token.text for token in statement]
    quoted = [either or other for either, other in _QUOTED.findall(message)]
    if with_words:
        quoted.append(message.rsplit(maxsplit=1)[-1].removeprefix("@"))
    for name in quoted:
        words = [token.text for token in _tokens(name)]
        for wanted in (words, [f'"{name}"'], [f'"{words[-1]}"'], words[-1:]):
            for at in range(len(texts) - len(wanted) + 1):
                if texts[at : at + len(wanted)] == wanted:
                    return statement[at].start
    return None
