"""What the user's task says: which values it names, and which words merely occur in it. Pure.

To name a value, the task must contain it in a form that is no accident: an address, a long number, a phrase, a quoted
word, a proper name. A plain word or a short number occurs in many texts, and vouches for no destination.
"""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from mcp_guard.core.model import Task
from mcp_guard.core.provenance import matching
from mcp_guard.core.provenance.dates import MONTHS, WEEKDAYS, Day, as_date, find_dates
from mcp_guard.core.provenance.passages import BREAK, sentences

MIN_IDENTIFIER = 12
"""A value of at least this many letters and digits, half of them digits, matches the task regardless of spacing."""
_QUOTES = "\"'`“”„‘’«»"
_NUMBERED = re.compile(r"\b(?:ids?|no\.?|nr\.?|number)\s*[:=]?\s*#?$", re.IGNORECASE)
_SENTENCE_ENDS = (".", "!", "?", ":", BREAK)
_NUMBER = re.compile(r"(?<![\w.])\d[\d,]*(?:\.\d+)?(?![\w])")
_CALENDAR = frozenset((*MONTHS, *WEEKDAYS))


@dataclass(frozen=True, slots=True)
class TaskText:
    """A task, prepared for searching."""

    plain: str
    cased: str
    """The same with its upper case."""
    squeezed: str
    days: tuple[Day, ...]
    numbers: frozenset[Decimal]

    @classmethod
    def of(cls, task: Task) -> "TaskText":
        texts = [text for text in (task.text, task.reason, task.ticket) if text]
        plain = BREAK.join(map(matching.plain, sentences(texts)))
        cased = BREAK.join(" ".join(unicodedata.normalize("NFKC", text).split()) for text in texts)
        return cls(plain, cased, matching.squeeze(plain), tuple(find_dates(plain)), frozenset(_numbers(plain)))

    def mentions(self, value: str) -> bool:
        """Whether a plain value occurs in it at all. Raises: TooMuchMatching."""
        return matching.contains_value(value, self.plain) or self.names(value)

    def names(self, value: str, *, is_known: bool = False) -> bool:
        """Whether it names a plain value; `is_known` tells that a trusted place returns the value as a whole.

        Raises: TooMuchMatching.
        """
        if (day := as_date(value)) is not None:
            return any(known.covers(day) for known in self.days)
        if not matching.contains_value(value, self.plain):
            return self._has_spaced(value)
        return matching.is_distinctive(value) or self._is_marked(value, is_known)

    def _has_spaced(self, value: str) -> bool:
        """Whether it contains this long number with spaces, as people write account numbers."""
        tight = matching.squeeze(value)
        many = len(tight) >= MIN_IDENTIFIER and sum(map(str.isdigit, tight)) * 2 >= len(tight)
        return many and tight in self.squeezed

    def _is_marked(self, value: str, is_known: bool) -> bool:
        """Whether it quotes a word, writes it as a name, or introduces it as an identifier."""
        if len(value) > matching.MAX_SPLIT_LENGTH:
            return False
        for match in re.finditer(rf"(?<!\w){re.escape(value)}(?!\w)", self.cased, re.IGNORECASE):
            before, after = self.cased[: match.start()], self.cased[match.end() :]
            if before[-1:] in tuple("#@") or (before[-1:] in tuple(_QUOTES) and after[:1] in tuple(_QUOTES)):
                return True
            if value.isdigit():
                if _NUMBERED.search(before):
                    return True
            elif match.group()[0].isupper() and len(value) > 1 and value not in _CALENDAR:
                begins = before.rstrip(_QUOTES + " ([")
                if is_known or (begins and not begins.endswith(_SENTENCE_ENDS)):
                    return True
        return False


def _numbers(plain: str) -> Iterable[Decimal]:
    return (Decimal(number.replace(",", "")) for number in _NUMBER.findall(plain))
