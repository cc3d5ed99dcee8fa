"""Whether, and from where on, a text that others wrote gives orders to an agent. Pure.

A visible list of marks, and no more than that: whoever knows it can avoid it. So nothing is ever allowed because a text
bears none of them; a destination that comes from a text that does is refused at once where it would have been asked
about, so that people are not asked about the plainest of forgeries.
"""

import re

MARKS = (
    r"<\s*/?\s*(?:information|important|system|instructions?|admin|assistant)\s*>",
    r"\b(?:ignore|disregard|forget|override)\b.{0,40}\b(?:previous|prior|above|earlier|all|your|my)\b.{0,30}"
    r"\b(?:instruction|prompt|task|rule|message|order|guideline)",
    r"\bimportant (?:message|instruction|notice)s?\b.{0,60}"
    r"\b(?:to you|for you|from me|from the user|assistant|agent)\b",
    r"\b(?:before|after) (?:you )?(?:can )?(?:solv|complet|continu|finish|perform|do)\w*\b.{0,60}\b(?:task|request)\b",
    r"\byou (?:must|have to|need to|are (?:now )?(?:required|instructed) to)\b.{0,60}"
    r"\b(?:first|instead|(?:call|use|invoke|run) (?:the|a) .{0,30}\b(?:tool|function|command))\b",
    r"\bplease,? (?:do|perform|execute|follow) (?:the following|these|this)\b",
    r"\bas an? (?:ai|assistant|language model|agent)\b",
    r"\b(?:dear|hello|hi|hey|attention),? (?:ai|assistant|agent|model)\b",
    r"\bwithout (?:asking|telling|informing|notifying|confirming with) (?:me|the user|anyone|him|her|them)\b",
    r"\b(?:do not|don't|never) (?:tell|inform|ask|mention|notify|alert)\b.{0,40}"
    r"\b(?:user|anyone|me|him|her|them|this)\b",
    r"\b(?:new|additional|updated|real) (?:instruction|system prompt|task)s?\b\s*[:.]",
    r"\[/?(?:inst|system|user|assistant)\]|<\|(?:im_start|im_end|system|user|assistant)\|>|#+ ?\(?system",
)
_MARKS = re.compile("|".join(f"(?:{mark})" for mark in MARKS), re.DOTALL)


def order_begins(plain: str) -> int | None:
    """Where a plain text (`matching.plain`) begins to give orders, or None: at a tag, or with a mark's sentence."""
    mark = _MARKS.search(plain)
    if mark is None:
        return None
    at = mark.start()
    return max(plain.rfind(end, 0, at) + 1 for end in (". ", "! ", "? ", "> ")) if plain[at].isalpha() else at
