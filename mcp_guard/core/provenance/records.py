"""The records of a reply: objects whose members belong together, such as one mail, file or event. Pure.

The task names "the minutes of the kick-off", and the server gives them an id: what the task says of a record, it says
of the identifiers that the server gave to it.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from typing import Any

from mcp_guard.core.exact_json import to_decimal
from mcp_guard.core.model import Json, Tool
from mcp_guard.core.provenance import matching
from mcp_guard.core.provenance.dates import find_dates
from mcp_guard.core.provenance.passages import Labels, parts

Leaf = tuple[tuple[str, ...], str | float]
"""A text or number in a reply, with the path to it (`passages.leaves`)."""
MAX_RECORDS = 2000
"""Of one reply; what is in further ones counts as in none."""
MAX_AMOUNTS = 10_000
"""Of one reply: as many numbers in a record times so many texts."""
MAX_NAME = 200
"""Characters of a name or title; longer texts are content."""


def records(value: Any, path: tuple[str, ...] = ()) -> Iterator[list[Leaf]]:
    """The texts and numbers of each object. An object within another one is a record of its own, and the elements of a
    list belong to none: they name others.
    """
    if isinstance(value, list):
        for item in value:
            yield from records(item, (*path, "*"))
    elif isinstance(value, dict):
        own: list[Leaf] = []
        for name, item in value.items():
            if isinstance(item, str | int | float) and not isinstance(item, bool):
                own.append(((*path, name), item))
            yield from records(item, (*path, name))
        if own:
            yield own


@dataclass(frozen=True, slots=True)
class ReadRecords:
    """The records of one reply, with how its tool's results are labelled."""

    labels: Labels
    records: list[list[Leaf]]

    @classmethod
    def of(cls, tool: Tool, reply: Json) -> "ReadRecords":
        found = (record for part in parts(reply) for record in records(part))
        return cls(Labels.of(tool), list(islice(found, MAX_RECORDS)))

    def named(self, names: Callable[[str], bool], *, is_answer: bool) -> Iterator[tuple[set[str], dict[str, str]]]:
        """The records that the task names: the texts that it names them by, and the identifiers that the server gave
        them, as it spells them, with their plain values.

        `names` tells whether the task names a plain value. `is_answer` tells that the task names everything that was
        asked for: then it names a record that is the only answer, by no text.
        """
        is_only = is_answer and len({tuple(str(leaf) for _, leaf in record) for record in self.records}) == 1
        for record in self.records:
            values = [(path, str(leaf), matching.plain(str(leaf))) for path, leaf in record]
            naming = {value for _, _, value in values if _may_name(value) and names(value)}
            if naming or is_only:
                own = {
                    matching.spelling(text): value
                    for path, text, value in values
                    if self.labels.gives(path, text) and naming != {value} and len(value) <= MAX_NAME
                }
                yield set() if is_only else naming, own

    def stated_amounts(self) -> Iterable[tuple[str, str, Decimal]]:
        """Amounts that the server states: a value of the same record, such as the other party, the member's name, and
        the absolute amount."""
        return islice(self._stated_amounts(), MAX_AMOUNTS)

    def _stated_amounts(self) -> Iterator[tuple[str, str, Decimal]]:
        for record in self.records:
            given = [(path, leaf) for path, leaf in record if self._is_stated(path, leaf)]
            numbers = [(path[-1], to_decimal(leaf)) for path, leaf in given if not isinstance(leaf, str)]
            if amounts := [(name, abs(number)) for name, number in numbers if number is not None]:
                for value in {matching.bare(matching.plain(leaf)) for _, leaf in given if isinstance(leaf, str)}:
                    yield from ((value, name, amount) for name, amount in amounts)

    def _is_stated(self, path: tuple[str, ...], leaf: str | float) -> bool:
        return not self.labels.is_untrusted or self.labels.whole(path, str(leaf)) is not None


def _may_name(value: str) -> bool:
    """Whether a record could be meant by it: no date or number, which many records share."""
    return len(value) <= MAX_NAME and sum(map(str.isalpha, value)) > 2 and not find_dates(value)
