"""Detects whether, and where, a text written by others starts to give instructions to an agent. Pure.

The detection is a list of known patterns, which an attacker who reads it can avoid. So the absence of a match never
permits anything. A match makes policies refuse a destination that they would otherwise hold, so that approvers are not
asked about obvious injections.
"""

import re

_TELL = r"(?:tell|inform|ask|mention|notify|alert)"
_WHO = r"(?:user|anyone|me|him|her|them|this)\b"
MARKS: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        ("information", "important", "system", "instruction", "admin", "assistant"),
        r"<\s*/?\s*(?:information|important|system|instructions?|admin|assistant)\s*>",
    ),
    (("[inst", "[/inst", "[system", "[user", "[assistant"), r"\[/?(?:inst|system|user|assistant)\]"),
    (("<|",), r"<\|(?:im_start|im_end|system|user|assistant)\|>"),
    (("#(system", "# (system", "#system", "# system"), r"#+ ?\(?system"),
    (
        ("ignore", "disregard", "forget", "override"),
        r"(?:ignore|disregard|forget|override)\b.{0,40}\b(?:previous|prior|above|earlier|all|your|my)\b.{0,30}"
        r"\b(?:instruction|prompt|task|rule|message|order|guideline)",
    ),
    (
        ("important message", "important instruction", "important notice"),
        r"important (?:message|instruction|notice)s?\b.{0,60}"
        r"\b(?:to you|for you|from me|from the user|assistant|agent)\b",
    ),
    (
        ("can solve", "you solve", "can complet", "you complet", "you continue", "you finish", "you perform"),
        r"(?:before|after) (?:you )?(?:can )?(?:solv|complet|continu|finish|perform)\w*\b.{0,60}\b(?:task|request)\b",
    ),
    (
        ("you must", "you have to", "you need to", "you are "),
        r"you (?:must|have to|need to|are (?:now )?(?:required|instructed) to)\b.{0,60}"
        r"\b(?:first|instead|(?:call|use|invoke|run) (?:the|a) .{0,30}\b(?:tool|function|command))\b",
    ),
    (("please",), r"please,? (?:do|perform|execute|follow) (?:the following|these|this)\b"),
    (
        ("as an ai", "as an assistant", "as an agent", "as a language"),
        r"as an? (?:ai|assistant|language model|agent)\b",
    ),
    (("assistant", "agent", " ai", " model"), r"(?:dear|hello|hi|hey|attention),? (?:ai|assistant|agent|model)\b"),
    (
        ("without ",),
        r"without (?:asking|telling|informing|notifying|confirming with) (?:me|the user|anyone|him|her|them)\b",
    ),
    (("do not ", "don't ", "never "), rf"(?:do not|don't|never) {_TELL}\b.{{0,40}}\b{_WHO}"),
    (
        ("instruction", "system prompt", " task"),
        r"(?:new|additional|updated|real) (?:instruction|system prompt|task)s?\b\s*[:.]",
    ),
)
"""Each pattern with literal words, one of which every match contains: checking the words first is fast."""
_MARKS = tuple((words, re.compile(rf"(?<!\w){mark}", re.DOTALL)) for words, mark in MARKS)


def injection_start(plain: str) -> int | None:
    """Where a plain text (`matching.plain`) starts to give instructions: at a tag or a sentence; else None."""
    matches = [mark.search(plain) for words, mark in _MARKS if any(word in plain for word in words)]
    at = min((match.start() for match in matches if match is not None), default=None)
    if at is None or not plain[at].isalpha():
        return at
    return max(plain.rfind(end, 0, at) + 1 for end in (". ", "! ", "? ", "> "))
