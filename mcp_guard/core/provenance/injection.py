"""Detects whether, and where, a text written by others starts to give instructions to an agent. Pure.

The detection is a list of known patterns, which an attacker who reads it can avoid. So the absence of a match never
permits anything. A match makes policies refuse a destination that they would otherwise hold, so that approvers are not
asked about obvious injections.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

_TELL = r"(?:tell|inform|ask|mention|notify|alert)"
_WHO = r"(?:user|anyone|me|him|her|them|this)\b"
_YOU_MUST = ("you must", "you have to", "you need to", "you are ")
_MUST = r"(?:must|have to|need to|are (?:now )?(?:required|instructed) to)\b"
MARKS: tuple[tuple[tuple[str, ...], tuple[str, ...], str], ...] = (
    (
        ("information", "important", "system", "instruction", "admin", "assistant"),
        ("<",),
        r"\s*/?\s*(?:information|important|system|instructions?|admin|assistant)\s*>",
    ),
    (("[inst", "[/inst", "[system", "[user", "[assistant"), ("[",), r"/?(?:inst|system|user|assistant)\]"),
    (("<|",), ("<|",), r"(?:im_start|im_end|system|user|assistant)\|>"),
    (
        ("#(system", "# (system", "#system", "# system"),
        ("#",),
        r"(?:(?<!##)|(?<=\w##))#* ?\(?system",  # only from the first `#` on
    ),
    (
        ("ignore", "disregard", "forget", "override"),
        ("ignore", "disregard", "forget", "override"),
        r"\b.{0,40}\b(?:previous|prior|above|earlier|all|your|my)\b.{0,30}"
        r"\b(?:instruction|prompt|task|rule|message|order|guideline)",
    ),
    (
        ("important message", "important instruction", "important notice"),
        ("important ",),
        r"(?:message|instruction|notice)s?\b.{0,60}"
        r"\b(?:to you|for you|from me|from the user|assistant|agent)\b",
    ),
    (
        ("can solve", "you solve", "can complet", "you complet", "you continue", "you finish", "you perform"),
        ("before ", "after "),
        r"(?:you )?(?:can )?(?:solv|complet|continu|finish|perform)\w*\b.{0,60}\b(?:task|request)\b",
    ),
    (_YOU_MUST, ("you ",), rf"{_MUST}.{{0,60}}\b(?:first|instead)\b"),
    (
        _YOU_MUST,
        ("you ",),
        rf"{_MUST}.{{0,60}}\b(?:call|use|invoke|run) (?:the|a) .{{0,30}}\b(?:tool|function|command)\b",
    ),
    (("please",), ("please",), r",? (?:do|perform|execute|follow) (?:the following|these|this)\b"),
    (
        ("as an ai", "as an assistant", "as an agent", "as a language"),
        ("as a",),
        r"n? (?:ai|assistant|language model|agent)\b",
    ),
    (
        ("assistant", "agent", " ai", " model"),
        ("dear", "hello", "hi", "hey", "attention"),
        r",? (?:ai|assistant|agent|model)\b",
    ),
    (
        ("without ",),
        ("without ",),
        r"(?:asking|telling|informing|notifying|confirming with) (?:me|the user|anyone|him|her|them)\b",
    ),
    (("do not ", "don't ", "never "), ("do not ", "don't ", "never "), rf"{_TELL}\b.{{0,40}}\b{_WHO}"),
    (
        ("instruction", "system prompt", " task"),
        ("new ", "additional ", "updated ", "real "),
        r"(?:instruction|system prompt|task)s?\b\s*[:.]",
    ),
)
"""Patterns: literal words, one of which the text must contain (checking them first is fast), the words that a match may
start with, and what follows them."""
MAX_PART = 40
"""Characters of a part of a pattern, unless it has a repetition."""


@dataclass(frozen=True, slots=True)
class _Part:
    """What a pattern has between its gaps, and how many characters may be before the next part."""

    regex: re.Pattern[str]
    gap: int
    longest: float

    @classmethod
    def split(cls, start: str, rest: str) -> "tuple[_Part, ...]":
        first, *others = re.split(r"\.\{0,(\d+)\}", rest)
        later = [_WORDS.sub(lambda words: _starting(words[1].split("|")), part) for part in others[1::2]]
        return tuple(
            cls(re.compile(part), int(gap), float("inf") if "*" in part else MAX_PART)
            for part, gap in zip((_starting((start,)) + first, *later), (*others[::2], 0), strict=True)
        )


_WORDS = re.compile(r"^\\b\(\?:([^()]*)\)")


def _starting(words: Iterable[str]) -> str:
    """A pattern of these words at the start of a word. `re` finds literal text much faster if it comes first."""
    return "(?:" + "|".join(rf"{word}(?<!\w{word})" for word in map(re.escape, words)) + ")"


_MARKS = tuple((words, [_Part.split(start, rest) for start in starts]) for words, starts, rest in MARKS)


def injection_start(plain: str) -> int | None:
    """Where a plain text (`matching.plain`) starts to give instructions: at a tag or a sentence; else None."""
    possible = (parts for words, marks in _MARKS if any(word in plain for word in words) for parts in marks)
    at = min((start for parts in possible if (start := _first(plain, parts)) >= 0), default=-1)
    if at < 0:
        return None
    if not plain[at].isalpha():
        return at
    return max(plain.rfind(end, 0, at) + 1 for end in (". ", "! ", "? ", "> "))


def _first(plain: str, parts: tuple[_Part, ...], at: int = 0) -> int:
    """Where these parts first match one after the other, within their gaps, from `at` on; -1 if nowhere.

    A single regular expression would try every place in the gaps after every match of the first part.
    """
    part, others, following = parts[0], parts[1:], -1
    while (match := part.regex.search(plain, at)) is not None:
        if others and following < match.end():
            following = _first(plain, others, match.end())
            if following < 0:
                break
        if following <= match.end() + part.gap:
            return match.start()
        at = int(max(match.start() + 1, following - part.gap - part.longest))
    return -1
