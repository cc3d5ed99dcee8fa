"""What the user's task says: which values it names, and which words merely occur in it. Pure.

To name a value, the task must contain it in a form that is no accident: an address, a long number, a quoted word or
phrase, a proper name. Plain words or a short number occur in many texts, and vouch for no destination: anybody could
register under them. In the title of a record, several plain words are no accident.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from mcp_guard.core.model import Task
from mcp_guard.core.normal_form import normalize
from mcp_guard.core.provenance import matching
from mcp_guard.core.provenance.dates import MONTHS, WEEKDAYS, Day, as_date, find_dates
from mcp_guard.core.provenance.passages import BREAK, sentences

MIN_IDENTIFIER = 12
"""A value of at least this many letters and digits, half of them digits, matches the task regardless of spacing."""
_QUOTES = "\"'`“”„‘’«»"
_NUMBERED = re.compile(r"\b(?:ids?|no\.?|nr\.?|number)\s*[:=]?\s*#?$", re.IGNORECASE)
_SENTENCE_ENDS = (".", "!", "?", ":", BREAK)
_NUMBER = re.compile(r"(?<![\w.:/#-])\d[\d,]*(?:\.\d+)?(?![\w-]|[.:/]\w)")
"""A number that is no part of a date, a time or a name."""
_YEAR = re.compile(
    rf"\b(?:{'|'.join((*MONTHS, *(month[:3] for month in MONTHS)))})\b\.?(?: \d{{1,2}}(?:st|nd|rd|th)?,?)? \d{{4}}\b"
)
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
        cased = BREAK.join(" ".join(normalize("NFKC", text).split()) for text in texts)
        return cls(plain, cased, matching.squeeze(plain), tuple(find_dates(plain)), frozenset(_numbers(plain)))

    def mentions(self, value: str) -> bool:
        """Whether a plain value occurs in it at all. Raises: TooMuchMatching."""
        return matching.contains_value(value, self.plain) or self.names(value)

    def names(self, value: str, *, spelt: str = "", is_known: bool = False) -> bool:
        """Whether it names a plain value; `is_known` tells that a trusted place returns the value as a whole.

        `spelt` is the value as a call has it: what is no address must have that very spelling in the task, because
        names that differ in case or in what nobody sees may be different ones. Raises: TooMuchMatching.
        """
        if (day := as_date(value)) is not None:
            return any(known.covers(day) for known in self.days)
        if not matching.contains_value(value, self.plain):
            return self._has_spaced(value)
        if spelt and not (
            self._has_page(value) if matching.is_address(spelt) else matching.spelling(spelt) in self.cased
        ):
            return False
        is_rare = matching.is_distinctive(value) and not matching.is_plain_phrase(value)
        return is_rare or self._is_marked(value, is_known)

    def names_title(self, value: str) -> bool:
        """Whether it names the record with this title, a plain value. Raises: TooMuchMatching."""
        is_phrase = matching.is_plain_phrase(value) and matching.is_distinctive(value)
        return (is_phrase and matching.contains_value(value, self.plain)) or self.names(value)

    def _has_page(self, address: str) -> bool:
        """Whether it has this address, and not only that of a page below it."""
        return "@" in address or re.search(rf"(?<![\w.@-]){re.escape(address)}(?!/\w)", self.plain) is not None

    def _has_spaced(self, value: str) -> bool:
        """Whether it contains this long number with spaces, as people write account numbers."""
        tight = matching.squeeze_value(value)
        is_number = tight in self.squeezed and sum(map(str.isdigit, tight)) * 2 >= len(tight)
        return is_number and len(tight) >= MIN_IDENTIFIER

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
    return (Decimal(number.replace(",", "")) for number in _NUMBER.findall(_YEAR.sub("", plain)))
