"""What an instance has seen so far, and where the values of its next call come from. Pure, in bounded memory.

A value's origin is the first place where it appeared: the task, a trusted result, an untrusted result, or the agent's
own arguments. The last count as of unknown origin, even if a trusted server repeats them later. A value that a trusted
place returns as a whole (a contact, an account) stays trusted if untrusted content mentioned it, or the agent guessed
it, before; but not if this run has written it there. Trusted texts are matched strictly, untrusted ones generously
(`core/provenance/matching.py`), so that a doubtful value never counts as trusted. The task vouches only for what it
names (`core/provenance/task.py`), and for the identifiers of records that it names (`core/provenance/records.py`).
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal

from mcp_guard.core.errors import TooMuchMatching
from mcp_guard.core.model import Call, CallHistory, Effect, Json, Origins, Task, Tool
from mcp_guard.core.provenance import matching
from mcp_guard.core.provenance.dates import as_date
from mcp_guard.core.provenance.index import PassageIndex
from mcp_guard.core.provenance.passages import (
    BREAK,
    NAME,
    NOWHERE,
    UNTRUSTED,
    Origin,
    Passage,
    ValueOrigin,
    leaves,
    read_result,
    texts,
)
from mcp_guard.core.provenance.records import ReadRecords
from mcp_guard.core.provenance.task import TaskText

MAX_MATCHED_CHARACTERS = 200 << 20
"""Characters that the values of one call are searched for in, in total: as many values times so long a history."""
MAX_ADDRESS_CHARACTERS = 128 * 1024
"""Characters of words in one call that may contain addresses."""
MAX_DECODED = 1000
"""Texts that are encoded in the arguments of one call."""
SEARCH_CHARACTERS = 15_000
"""What each search counts as in addition: a call with very many values takes long even if little was seen."""
SPLIT_SEARCHES = 40
"""How many searches it takes to tell whether a value is assembled from parts."""
SENSITIVE = "sensitive"
MAX_CHARACTERS = 1 << 20
"""Characters kept per instance. Beyond it, trusted texts are dropped first; after that, nothing more is kept."""
_NUMBER = re.compile(r"\s*[+-]?\d+(?:\.\d+)?(?:e[+-]?\d{1,3})?\s*", re.ASCII)
"""A number, also as a text, which many servers take for one."""
NOT_VOUCHED = (Origin.UNTRUSTED, Origin.UNKNOWN, Origin.PARTY)


@dataclass(slots=True)
class InstanceHistory:
    """The history of one instance. `note` records calls and replies; `history_for` evaluates them for a call."""

    task: Task
    limit: int = MAX_CHARACTERS
    _tools: dict[str, None] = field(default_factory=dict)
    _labels: set[str] = field(default_factory=set)
    _passages: PassageIndex = field(default_factory=PassageIndex)
    _unread: list[tuple[Call, Json]] = field(default_factory=list)
    _refused: set[frozenset[str]] = field(default_factory=set)
    """What a person has refused: the destinations of a call together, because nobody else knows which is at fault."""
    _written: str = ""
    _written_to: dict[str, set[str]] = field(default_factory=dict)
    """The sinks of calls that ran, by tool; of all that took an amount together."""
    _named: dict[str, set[str] | None] = field(default_factory=dict)
    """The identifiers of records that the task names, as spelt and plain, by the text that it names them by (`""`: as
    the only answer); None if the text fits several."""
    _kept: int = 0
    """Characters of the above and the following."""
    _amounts: dict[tuple[str, str], Decimal] = field(default_factory=dict)
    """The largest that servers have stated with a value, by that value and the name of the member."""
    _has_dropped_orders: bool = False
    """Whether a text with instructions to agents was too long to be kept."""
    _task_text: TaskText | None = None
    _matching_left: int = MAX_MATCHED_CHARACTERS

    # Recording

    def note(self, call: Call, reply: Json) -> None:
        """Record a call that ran, and the reply to the agent. The reply is read when the next call is evaluated."""
        assert call.tool is not None
        self._tools[call.name] = None
        self._labels.update(call.tool.rule.returns)
        if not any(known.id == call.id and noted == reply for known, noted in self._unread):  # replies can be repeated
            self._unread.append((call, reply))

    def note_refused(self, call: Call) -> None:
        """Record a call that an approver refused: its sinks, except values from the task or a trusted place."""
        assert call.tool is not None
        self._matching_left = MAX_MATCHED_CHARACTERS
        refused = [
            _key(value)
            for name, text, value_origins, inside in self._origins_of_arguments(call)
            for value, origins in self._sinks(call.tool, name, (text, value_origins), inside)
            if all(origin.origin in NOT_VOUCHED for origin in origins)
        ]
        if refused:
            self._refused.add(frozenset(refused))

    def without_texts(self) -> "InstanceHistory":
        """What policies must not forget, in little memory: labels, tools, refusals, and whether orders were seen. It
        keeps no further text, so values are of unknown origin, and nothing that a server returns is trusted."""
        self._matching_left = MAX_MATCHED_CHARACTERS
        self._read_replies()
        return InstanceHistory(
            self.task,
            limit=0,
            _tools=self._tools,
            _labels=self._labels,
            _refused=self._refused,
            _has_dropped_orders=self._has_dropped_orders or self._passages.has_instructions(),
        )

    def _read_replies(self) -> None:
        """Read the replies recorded since the last evaluation."""
        unread, self._unread = self._unread, []
        for call, reply in unread:
            assert call.tool is not None
            values = [matching.plain(text) for _, text in texts(call.arguments)]
            origins = self._origins_of_values(values)
            if call.tool.effect is not Effect.READ:
                self._written = BREAK.join((self._written, *values))[: self.limit]
                known = self._written_to.setdefault(_kind(call), set())
                if not _is_error(reply) and self._has_room(new := set(map(_key, _sink_values(call))) - known):
                    known |= new
            own = [value for value, origin in zip(values, origins, strict=True) if origin is None]
            self._add(Passage(Origin.UNKNOWN, BREAK.join(own)))
            of_task = [origin is not None and origin.origin is Origin.TASK for origin in origins]
            named, is_answer = any(of_task), bool(of_task) and all(of_task)
            with suppress(TooMuchMatching):
                self._read_records(ReadRecords.of(call.tool, reply), values, is_answer=is_answer)
            for passage in read_result(call.tool, reply, named, self.limit):
                self._add(passage)
                if passage.labelled:
                    self._labels.add(UNTRUSTED)

    def _read_records(self, read: ReadRecords, sent: list[str], *, is_answer: bool) -> None:
        """What is not kept is asked about."""
        for naming, own in read.named(self._is_named, is_answer=is_answer):
            given = {spelt: value for spelt, value in own.items() if value not in sent}  # a server may repeat any value
            for name in (naming or {""}) if given else ():
                self._note_named(name, {*given, *given.values()})
        for value, member, amount in read.stated_amounts():
            known = self._amounts.get((value, member))
            if known is not None or self._has_room((value, member)):
                self._amounts[value, member] = amount if known is None else max(amount, known)

    def _note_named(self, name: str, own: set[str]) -> None:
        """Record the identifiers of what the task names so; of two records with nothing in common it names neither."""
        known = self._named.setdefault(name, set())
        if known and name and known.isdisjoint(own):
            self._named[name] = None
        elif known is not None and self._has_room(own - known):
            known |= own

    def _has_room(self, texts: Iterable[str] = ()) -> bool:
        """Whether these can be kept as well, besides the passages. They are not kept yet."""
        self._kept += sum(map(len, texts))
        return self._kept <= self.limit

    def _origins_of_values(self, values: list[str]) -> list[ValueOrigin | None]:
        """Those that would take too long to find count as the agent's own."""
        origins: list[ValueOrigin | None] = []
        with suppress(TooMuchMatching):
            origins += map(self.find_origin, values)
        return origins + [None] * (len(values) - len(origins))

    def _add(self, passage: Passage) -> None:
        if not passage.size or self._passages.is_repeated(passage):
            return
        while self._passages.size + passage.size > self.limit:
            if not self._passages.drop_oldest_trusted():  # a value that is not kept counts as of unknown origin
                self._has_dropped_orders |= passage.has_instructions
                return
        self._passages.add(passage)

    # Evaluating

    def history_for(self, call: Call) -> CallHistory:
        """The history for the decision on this call. Raises: TooMuchMatching."""
        assert call.tool is not None
        self._matching_left = MAX_MATCHED_CHARACTERS
        self._read_replies()
        self._matching_left = MAX_MATCHED_CHARACTERS
        all_origins, sinks = _OriginCollector(), _OriginCollector()
        where: dict[str, str] = {}
        is_unwatched = self._labels.isdisjoint((UNTRUSTED, SENSITIVE)) and _kind(call) != ""
        for name, text, value_origins, inside in self._origins_of_arguments(call):
            all_origins.add(name, value_origins)
            for value, origins in self._sinks(call.tool, name, (text, value_origins), inside):
                if not (is_unwatched and {*origins} == {NOWHERE} and matching.is_identifier(value)):
                    sinks.add(name, origins)
                where.setdefault(_key(value), name)
        for refused in self._refused:
            if refused <= where.keys():
                for value in refused:
                    sinks.add_under("refused", where[value])
        is_write, untrusted_seen = call.tool.effect is not Effect.READ, UNTRUSTED in self._labels
        destinations = _sink_values(call) if is_write else {}
        is_repeated = set(map(_key, destinations)) <= self._written_to.get(_kind(call), set()) or not self._has_room()
        if destinations and is_repeated:
            for name in destinations.values():
                sinks.add_under("repeated", name)
        return CallHistory(
            tools=tuple(self._tools),
            untrusted_seen=untrusted_seen,
            sensitive_seen=SENSITIVE in self._labels,
            orders_seen=is_write and (self._has_dropped_orders or self._passages.has_instructions()),
            new_amounts=self._new_amounts(call) if is_write and untrusted_seen else (),
            provenance=all_origins.origins(),
            sinks=sinks.origins(),
        )

    def _origins_of_arguments(
        self, call: Call
    ) -> Iterator[tuple[str, str, list[ValueOrigin], list[tuple[str, ValueOrigin]]]]:
        """Each text in the arguments: argument name, text, its origins, and the addresses in it with their origins."""
        assert call.tool is not None
        left, decoded_left = MAX_ADDRESS_CHARACTERS, MAX_DECODED
        for name, text in texts(call.arguments, call.tool.rule.sinks):
            decoded, is_sink = matching.decodings(text), name in call.tool.rule.sinks
            decoded_left -= len(decoded)
            if decoded_left < 0:
                raise TooMuchMatching("the arguments contain too many encoded texts to find where each comes from")
            left -= sum(map(matching.address_characters, (text, *decoded)))
            if left < 0:
                raise TooMuchMatching("the arguments contain too many addresses to find where each comes from")
            inside = list(self._inside((text, *decoded)))
            if call.tool.rule.sinks and not is_sink:
                inside += self._contacts((text, *decoded))
            found = [origin for _, origin in inside]
            yield name, text, self.origins(text, decoded, found, is_sink=is_sink), inside

    def _sinks(
        self, tool: Tool, name: str, whole: tuple[str, list[ValueOrigin]], inside: list[tuple[str, ValueOrigin]]
    ) -> Iterator[tuple[str, list[ValueOrigin]]]:
        """The destinations in this text, with their origins.

        A sink counts as a whole. In other arguments, addresses from untrusted content count; for a tool with sinks, so
        do addresses of unknown origin, and what only may be an address if it is from untrusted content.
        """
        if name in tool.rule.sinks:
            yield whole
            return
        wanted = (Origin.UNTRUSTED, Origin.UNKNOWN) if tool.rule.sinks else (Origin.UNTRUSTED,)
        for address, origin in inside:
            if origin.origin in wanted:
                yield address, [origin]

    def origins(self, text: str, decoded: list[str], inside: list[ValueOrigin], *, is_sink: bool) -> list[ValueOrigin]:
        """The origins of a value: its own, or those of its parts if the value as a whole is unknown."""
        value = matching.plain(text)
        day = as_date(value)
        forms = (value, matching.bare(value), *map(matching.plain, decoded), str(day) if day and day.year else "")
        for form in dict.fromkeys(forms):
            origin = self.find_origin(form, spelt=text if is_sink else "")
            is_of_task = origin is not None and origin.origin is Origin.TASK
            if form and not is_sink and not is_of_task and self._read_task().mentions(form):
                return [ValueOrigin(Origin.MENTIONED)]
            if origin is not None:
                return [origin]
        if matching.is_one_word(text) and not any(origin.origin is Origin.UNTRUSTED for origin in inside):
            tight = matching.squeeze_value(value)
            self._spend(SPLIT_SEARCHES)
            if len(tight) >= matching.MIN_SQUEEZED and matching.is_assembled_from(
                tight, self._passages.squeezed_untrusted()
            ):
                return [ValueOrigin(Origin.UNTRUSTED)]
        return [NOWHERE, *inside]

    def _inside(self, forms: Iterable[str]) -> Iterator[tuple[str, ValueOrigin]]:
        """The addresses in a text and in its encoded parts, with their origins."""
        for form in forms:
            for address in matching.addresses(form):
                plain = matching.plain(address)
                yield address, self.find_origin(plain) or self.find_origin(matching.bare(plain)) or NOWHERE

    def _contacts(self, forms: Iterable[str]) -> Iterator[tuple[str, ValueOrigin]]:
        """What may be an address in a text and in its encoded parts, as far as it is from untrusted content."""
        for form in forms:
            for contact in matching.contacts(form):
                origin = self.find_origin(matching.plain(contact))
                if origin is not None and origin.origin is Origin.UNTRUSTED:
                    yield contact, origin

    def find_origin(self, value: str, *, spelt: str = "") -> ValueOrigin | None:
        """The origin of a plain value, by its first appearance; None if it never appeared. `spelt` is the value of a
        sink as the call has it.
        """
        if not value:
            return None
        self._matching_left -= SEARCH_CHARACTERS
        self._spend(1)
        given = self._origin_given(value)
        if self._read_task().names(value, spelt=spelt, is_known=given is not None):
            return ValueOrigin(Origin.TASK)
        exact = matching.spelling(spelt) if spelt and not matching.is_address(spelt) else value
        if any(own and exact in own for own in self._named.values()) and not self._has_written(value):
            return ValueOrigin(Origin.TASK)
        first = self._passages.find_first(value)
        if first is None:
            return None
        origin = first.origin_of(value)
        if origin.origin is not Origin.TRUSTED and given is not None:
            return ValueOrigin(given)
        if origin.origin is Origin.TRUSTED and matching.is_party(value) and not self._passages.is_confirmed(value):
            return ValueOrigin(Origin.PARTY)  # somebody has written it into a text
        return ValueOrigin(Origin.TRUSTED) if origin.origin is Origin.UNKNOWN and self._is_confirmed(value) else origin

    def _read_task(self) -> TaskText:
        if self._task_text is None:
            self._task_text = TaskText.of(self.task)
        return self._task_text

    def _is_named(self, value: str) -> bool:
        """Whether the task names it. Raises: TooMuchMatching."""
        self._spend(0)
        return self._read_task().names_title(value)

    def _new_amounts(self, call: Call) -> tuple[str, ...]:
        """The arguments, other than sinks, with numbers that the task does not state, and that are larger than those of
        the same name which servers have stated with one of the call's destinations."""
        assert call.tool is not None
        stated, destinations = self._read_task().numbers, _sink_values(call)

        def is_new(name: str, leaf: str | float) -> bool:
            if not _NUMBER.fullmatch(str(leaf)):
                return False
            number = abs(Decimal(leaf if isinstance(leaf, str) else str(leaf)))
            known = (self._amounts.get((value, name)) for value in destinations)
            is_stated = number in stated or any(amount is not None and number <= amount for amount in known)
            return not is_stated and not (isinstance(leaf, str) and self._is_of_task(leaf))

        return tuple(
            name
            for name, value in call.arguments.items()
            if name not in call.tool.rule.sinks
            and any(is_new(([name, *path])[-1], leaf) for path, leaf in leaves(value) if path[-1:] != (NAME,))
        )

    def _is_of_task(self, text: str) -> bool:
        origin = self.find_origin(matching.plain(text))
        return origin is not None and origin.origin is Origin.TASK

    def _spend(self, searches: int) -> None:
        self._matching_left -= searches * (self._passages.size + 100) + len(self._read_task().plain)
        if self._matching_left < 0:
            raise TooMuchMatching("the arguments have too many values to find where each comes from")

    def _origin_given(self, value: str) -> Origin | None:
        """What a server vouches for it as, as a whole, if this run has not written it there."""
        origin = self._passages.whole_origin(value)
        return None if origin is None or self._has_written(value) else origin

    def _is_confirmed(self, value: str) -> bool:
        """Whether a trusted result has what the agent guessed. A server that repeats an address knows nothing of it."""
        return not matching.is_address(value) and self._passages.is_confirmed(value) and not self._has_written(value)

    def _has_written(self, value: str) -> bool:
        return len(self._written) >= self.limit or matching.contains_value(value, self._written)


def _is_error(reply: Json) -> bool:
    result = reply.get("result")
    return "error" in reply or (isinstance(result, dict) and result.get("isError") is True)


def _kind(call: Call) -> str:
    """Calls of which one does what another did: of the same tool, or with an amount, such as payments."""
    assert call.tool is not None
    others = (value for name, value in call.arguments.items() if name not in call.tool.rule.sinks)
    has_amount = any(isinstance(leaf, int | float) for value in others for _, leaf in leaves(value))
    return "" if has_amount else call.name


def _key(value: str) -> str:
    """A destination in whatever spelling, such as an account number with spaces."""
    return matching.squeeze(matching.bare(plain := matching.plain(value))) or plain


def _sink_values(call: Call) -> dict[str, str]:
    """The values of a call's sinks in one spelling, each with the name of its argument."""
    assert call.tool is not None
    given = {name: call.arguments[name] for name in call.tool.rule.sinks if name in call.arguments}
    return {matching.bare(matching.plain(text)): name for name, text in texts(given, given)}


class _OriginCollector:
    """Collects argument names by origin."""

    def __init__(self) -> None:
        self.names: dict[str, dict[str, None]] = {}

    def add(self, name: str, value_origins: Iterable[ValueOrigin]) -> None:
        for value_origin in value_origins:
            self.add_under(value_origin.origin, name)
            if value_origin.named:
                self.add_under("named_by_task", name)
            if value_origin.instructs:
                self.add_under("instructed", name)

    def add_under(self, origin: str, name: str) -> None:
        self.names.setdefault(origin, {})[name] = None

    def origins(self) -> Origins:
        return Origins(**{name: tuple(sorted(names)) for name, names in self.names.items()})
