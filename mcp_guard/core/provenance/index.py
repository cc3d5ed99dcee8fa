"""The passages an instance has seen, in order, grouped so that a value is found without searching each one. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from mcp_guard.core.provenance.passages import BREAK, Origin, Passage

BLOCK_SIZE = 16 * 1024
"""Characters of a block, each passage counted as some more: fewer make more blocks to search, more make larger ones."""
PASSAGE_SIZE = 32
VOUCHED = (Origin.TRUSTED, Origin.PARTY)


@dataclass(frozen=True, slots=True)
class _Block:
    """Successive passages. `untrusted` and `others`, their texts joined, contain every value that one of them does."""

    passages: list[Passage]
    untrusted: Passage
    others: Passage
    trusted_size: int

    @classmethod
    def of(cls, passages: list[Passage]) -> "_Block":
        untrusted = [passage for passage in passages if passage.origin is Origin.UNTRUSTED]
        others = [passage for passage in passages if passage.origin is not Origin.UNTRUSTED]
        return cls(
            passages, _joined(untrusted, Origin.UNTRUSTED), _joined(others, Origin.UNKNOWN), _trusted_size(passages)
        )

    def may_contain(self, value: str) -> bool:
        return self.others.contains(value) or self.untrusted.contains(value)


def _joined(passages: list[Passage], origin: Origin) -> Passage:
    return Passage(
        origin,
        BREAK.join(passage.text for passage in passages),
        BREAK.join(passage.decoded for passage in passages),
        frozenset().union(*(passage.whole for passage in passages)),
    )


@dataclass(slots=True)
class PassageIndex:
    """Passages by time. What a search takes grows with the characters kept, hardly with the number of passages."""

    block_size: int = BLOCK_SIZE
    size: int = 0
    """Characters kept."""
    _blocks: list[_Block] = field(default_factory=list)
    _recent: list[Passage] = field(default_factory=list)
    _recent_size: int = 0
    _labelled: list[Passage] = field(default_factory=list)
    _orders_seen: bool = False

    def add(self, passage: Passage) -> None:
        self._recent.append(passage)
        self._recent_size += passage.size + PASSAGE_SIZE
        self.size += passage.size
        if passage.labelled and not self._orders_seen:
            self._labelled.append(passage)
        if self._recent_size >= self.block_size:
            self._blocks.append(_Block.of(self._recent))
            self._recent, self._recent_size = [], 0

    def is_repeated(self, passage: Passage) -> bool:
        """Whether it is equal to one of the last few."""
        return passage in self._recent[-8:]

    def drop_oldest_trusted(self) -> bool:
        """Drop the trusted passages of the oldest block that has any; False if there are none."""
        for at, block in enumerate(self._blocks):
            if block.trusted_size:
                self._blocks[at] = _Block.of(_without_trusted(block.passages))
                self.size -= block.trusted_size
                return True
        trusted_size = _trusted_size(self._recent)
        self._recent = _without_trusted(self._recent)
        self.size -= trusted_size
        return trusted_size > 0

    def find_first(self, value: str) -> Passage | None:
        """The first passage that contains a plain value. Raises: TooMuchMatching."""
        return next((passage for passage in self._candidates(value) if passage.contains(value)), None)

    def _candidates(self, value: str) -> Iterator[Passage]:
        for block in self._blocks:
            if block.may_contain(value):
                yield from block.passages
        yield from self._recent

    def is_confirmed(self, value: str) -> bool:
        """Whether a trusted result has it as a whole text. Raises: TooMuchMatching."""
        whole = f"{BREAK}{value}{BREAK}"
        return any(
            passage.origin is Origin.TRUSTED and whole in f"{BREAK}{passage.text}{BREAK}"
            for passage in self._candidates(value)
        )

    def whole_origin(self, value: str) -> Origin | None:
        """What a server vouched for the value as, as a whole; None if none did."""
        blocks = (block.passages for block in self._blocks if value in block.others.whole)
        found = {
            passage.origin for passages in (*blocks, self._recent) for passage in passages if value in passage.whole
        }
        return Origin.TRUSTED if Origin.TRUSTED in found else next(iter(found), None)

    def squeezed_untrusted(self) -> list[str]:
        """The untrusted texts without punctuation."""
        joined = (block.untrusted for block in self._blocks)
        recent = (passage for passage in self._recent if passage.origin is Origin.UNTRUSTED)
        return [passage.squeezed for passage in (*joined, *recent)]

    def has_instructions(self) -> bool:
        """Whether a text of a tool labelled as untrusted gives instructions to agents. Looks at each text once."""
        labelled, self._labelled = self._labelled, []
        self._orders_seen = self._orders_seen or any(passage.has_instructions for passage in labelled)
        return self._orders_seen


def _without_trusted(passages: list[Passage]) -> list[Passage]:
    return [passage for passage in passages if passage.origin not in VOUCHED]


def _trusted_size(passages: list[Passage]) -> int:
    return sum(passage.size for passage in passages if passage.origin in VOUCHED)
