"""Whether, and from where on, a text that others wrote gives orders to an agent. Pure.

A visible list of marks, and no more than that: whoever knows it can avoid it. So nothing is ever allowed because a text
bears none of them; a destination that comes from a text that does is refused at once where it would have been asked
about, so that people are not asked about the plainest of forgeries.
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
"""Each mark with words of which one stands in every text that bears it; these are looked for first, which is quick."""
_MARKS = tuple((words, re.compile(rf"(?<!\w){mark}", re.DOTALL)) for words, mark in MARKS)


def injection_start(plain: str) -> int | None:
    """Where a plain text (`matching.plain`) begins to give orders, or None: at a tag, or with a mark's sentence."""
    found = [mark.search(plain) for words, mark in _MARKS if any(word in plain for word in words)]
    at = min((match.start() for match in found if match is not None), default=None)
    if at is None or not plain[at].isalpha():
        return at
    return max(plain.rfind(end, 0, at) + 1 for end in (". ", "! ", "? ", "> "))
