"""What one instance has seen so far, and so where a value in its next call comes from. Pure, in bounded memory.

A value belongs to the first place where it appeared: the task, a trusted result, an untrusted one, or the agent's own
words, which count as of unknown origin even if a trusted server repeats them later. That untrusted content mentions
what a trusted place gives as a whole (a contact, an account) does not taint it, nor does it that the agent guessed it
before, unless the run has written it there itself. Trusted places are searched strictly, untrusted ones generously
(`core/provenance/matching.py`), so that a doubtful value is never taken for a trusted one.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mcp_guard.core.model import NO_HISTORY, Call, CallHistory, Effect, Instance, Json, Origins, Task, Tool
from mcp_guard.core.provenance import matching
from mcp_guard.core.provenance.passages import (
    BREAK,
    NOWHERE,
    UNTRUSTED,
    Origin,
    Passage,
    ValueOrigin,
    read_result,
    sentences,
    texts,
)

SENSITIVE = "sensitive"
MAX_CHARACTERS = 1 << 20
"""Characters remembered of one instance. Beyond it trusted texts are forgotten first; then nothing more is learned."""
MAX_INSTANCES = 500
"""Instances remembered by one process; the one that has not called for the longest is forgotten first."""
MIN_IDENTIFIER = 12
"""From this many letters and digits on, half of them digits, the task's own spacing of a number is ignored."""


@dataclass(slots=True)
class InstanceHistory:
    """One instance's. Calls and results are noted as they happen; `history_for` says what that means for a call."""

    task: Task
    limit: int = MAX_CHARACTERS
    _tools: dict[str, None] = field(default_factory=dict)
    _labels: set[str] = field(default_factory=set)
    _passages: list[Passage] = field(default_factory=list)
    _later: list[tuple[Call, Json]] = field(default_factory=list)
    _refused: set[str] = field(default_factory=set)
    _said: str = ""
    _size: int = 0
    _known: str | None = None

    # What happens

    def note(self, call: Call, reply: Json) -> None:
        """The call ran and this is the reply that the agent gets. It is read when the next call is looked at."""
        assert call.tool is not None
        self._tools[call.name] = None
        self._labels.update(call.tool.rule.returns)
        self._later.append((call, reply))

    def note_refused(self, call: Call) -> None:
        """A person has refused the call: remember its sinks, but for those that the task or a trusted place gave."""
        assert call.tool is not None
        for name, text, found, inside in self._looked_up(call):
            for value, origins in self._sinks(call.tool, name, (text, found), inside):
                if all(each.origin in (Origin.UNTRUSTED, Origin.UNKNOWN) for each in origins):
                    self._refused.add(matching.bare(matching.plain(value)))

    def _learn(self) -> None:
        """Read what was noted."""
        waiting, self._later = self._later, []
        for call, reply in waiting:
            assert call.tool is not None
            values = [matching.plain(text) for _, text in texts(call.arguments)]
            found = [self.find_origin(value) for value in values]
            if call.tool.effect is not Effect.READ:
                self._said = BREAK.join((self._said, *values))[: self.limit]
            own = [value for value, origin in zip(values, found, strict=True) if origin is None]
            self._add(Passage(Origin.UNKNOWN, BREAK.join(own)))
            named = any(origin is not None and origin.origin is Origin.TASK for origin in found)
            for passage in read_result(call.tool, reply, named):
                self._add(passage)

    def _add(self, passage: Passage) -> None:
        if not passage.size or any(passage == known for known in self._passages[-8:]):
            return
        while self._size + passage.size > self.limit:
            oldest = next((each for each in self._passages if each.origin is Origin.TRUSTED), None)
            if oldest is None:
                return  # what is not remembered is of unknown origin
            self._passages.remove(oldest)
            self._size -= oldest.size
        self._passages.append(passage)
        self._size += passage.size

    # What it means

    def history_for(self, call: Call) -> CallHistory:
        """The past as the decision on this call may see it."""
        assert call.tool is not None
        self._learn()
        all_origins, sinks = _Sorter(), _Sorter()
        for name, text, found, inside in self._looked_up(call):
            all_origins.add(name, found)
            for value, origins in self._sinks(call.tool, name, (text, found), inside):
                sinks.add(name, origins)
                if matching.bare(matching.plain(value)) in self._refused:
                    sinks.say("refused", name)
        return CallHistory(
            tools=tuple(self._tools),
            untrusted_seen=UNTRUSTED in self._labels,
            sensitive_seen=SENSITIVE in self._labels,
            orders_seen=call.tool.effect is not Effect.READ and any(each.gives_orders for each in self._passages),
            provenance=all_origins.sorted(),
            sinks=sinks.sorted(),
        )

    def _looked_up(self, call: Call) -> Iterator[tuple[str, str, list[ValueOrigin], list[tuple[str, ValueOrigin]]]]:
        """Each text of the arguments: whose it is, where it comes from, and where the addresses in it do."""
        assert call.tool is not None
        for name, text in texts(call.arguments, call.tool.rule.sinks):
            decoded = matching.decodings(text)
            inside = list(self._inside((text, *decoded)))
            yield name, text, self.origins(text, decoded, [found for _, found in inside]), inside

    def _sinks(
        self, tool: Tool, name: str, whole: tuple[str, list[ValueOrigin]], inside: list[tuple[str, ValueOrigin]]
    ) -> Iterator[tuple[str, list[ValueOrigin]]]:
        """Where this text sends the call: itself if it is a sink, else addresses in it that untrusted content gave; in
        what a tool with sinks sends, those that stand nowhere too."""
        if name in tool.rule.sinks:
            yield whole
            return
        wanted = (Origin.UNTRUSTED, Origin.UNKNOWN) if tool.rule.sinks else (Origin.UNTRUSTED,)
        for address, found in inside:
            if found.origin in wanted:
                yield address, [found]

    def origins(self, text: str, decoded: list[str], inside: list[ValueOrigin]) -> list[ValueOrigin]:
        """Where a value comes from; where its parts do, if it is not known as a whole."""
        value = matching.plain(text)
        for form in dict.fromkeys((value, matching.bare(value), *map(matching.plain, decoded))):
            if form and (found := self.find_origin(form)) is not None:
                return [found]
        if matching.is_one_word(text) and not any(each.origin is Origin.UNTRUSTED for each in inside):
            untrusted = [each for each in self._passages if each.origin is Origin.UNTRUSTED]
            tight = matching.squeeze(value)
            if len(tight) >= matching.MIN_SQUEEZED and matching.is_assembled_from(
                tight, [each.squeezed for each in untrusted]
            ):
                return [ValueOrigin(Origin.UNTRUSTED)]
        return [NOWHERE, *inside]

    def _inside(self, forms: Iterable[str]) -> Iterator[tuple[str, ValueOrigin]]:
        """The addresses in a text and in its encoded parts, and where they come from."""
        for each in forms:
            for address in matching.addresses(each):
                plain = matching.plain(address)
                yield address, self.find_origin(plain) or self.find_origin(matching.bare(plain)) or NOWHERE

    def find_origin(self, value: str) -> ValueOrigin | None:
        """The first place of a plain value, or None if it has none."""
        if not value:
            return None
        if self._known is None:
            given = (self.task.text, self.task.reason, self.task.ticket)
            self._known = BREAK.join(map(matching.plain, sentences(each for each in given if each)))
        if matching.contains_value(value, self._known) or self._spaced_by_task(value):
            return ValueOrigin(Origin.TASK)
        first = next((each for each in self._passages if each.holds(value)), None)
        if first is None:
            return None
        if first.origin is not Origin.TRUSTED and self._is_given(value):
            return ValueOrigin(Origin.TRUSTED)
        return first.found(value)

    def _is_given(self, value: str) -> bool:
        """Whether a trusted place gives it as a whole, and not because this run has written it there."""
        if len(self._said) >= self.limit or matching.contains_value(value, self._said):
            return False
        return any(value in each.whole for each in self._passages)

    def _spaced_by_task(self, value: str) -> bool:
        """Whether the task has this long number in groups, as people write accounts."""
        tight = matching.squeeze(value)
        many = len(tight) >= MIN_IDENTIFIER and sum(map(str.isdigit, tight)) * 2 >= len(tight)
        return many and tight in matching.squeeze(self._known or "")


class _Sorter:
    """Collects names of arguments by origin."""

    def __init__(self) -> None:
        self.names: dict[str, dict[str, None]] = {}

    def add(self, name: str, found: Iterable[ValueOrigin]) -> None:
        for each in found:
            self.say(each.origin, name)
            if each.named:
                self.say("named_by_task", name)
            if each.instructs:
                self.say("instructed", name)

    def say(self, what: str, name: str) -> None:
        self.names.setdefault(what, {})[name] = None

    def sorted(self) -> Origins:
        return Origins(**{name: tuple(sorted(names)) for name, names in self.names.items()})


@dataclass(frozen=True, slots=True)
class InstanceHistories:
    """The histories of the instances of one guard process. With no labelled tool there is nothing to remember."""

    attentive: bool = False
    limit: int = MAX_CHARACTERS
    _histories: dict[str, InstanceHistory] = field(default_factory=dict)

    @classmethod
    def of(cls, rules: Mapping[str, Any], limit: int = MAX_CHARACTERS) -> "InstanceHistories":
        """Attentive if the configuration labels any tool."""
        return cls(any(rule.returns or rule.trusted or rule.sinks for rule in rules.values()), limit)

    def history_for(self, call: Call) -> CallHistory:
        return self._of(call.instance).history_for(call) if self.attentive and call.tool is not None else NO_HISTORY

    def note(self, call: Call, reply: Json) -> None:
        if self.attentive:
            self._of(call.instance).note(call, reply)

    def note_refused(self, call: Call) -> None:
        if self.attentive:
            self._of(call.instance).note_refused(call)

    def forget(self, instance: Instance) -> None:
        """The instance has ended."""
        self._histories.pop(instance.id, None)

    def _of(self, instance: Instance) -> InstanceHistory:
        known = self._histories.pop(instance.id, None) or InstanceHistory(instance.task, self.limit)
        self._histories[instance.id] = known  # the last one used is the last
        if len(self._histories) > MAX_INSTANCES:
            del self._histories[next(iter(self._histories))]
        return known
