"""The histories of the instances of one process. What reads and matches texts is loaded with the first one. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mcp_guard.core.model import NO_HISTORY, Call, CallHistory, Instance, Json

if TYPE_CHECKING:
    from mcp_guard.core.provenance.history import InstanceHistory

MAX_INSTANCES, MAX_REMAINS = 500, 50_000
"""Of how many instances one process keeps the texts, and of how many more what remains without them. Those that were
not used for longest are dropped first."""


@dataclass(frozen=True, slots=True)
class InstanceHistories:
    """The histories of all instances of one guard process. Kept only if `attentive`: some tool is labelled."""

    attentive: bool = False
    _histories: "dict[str, InstanceHistory]" = field(default_factory=dict)
    _remains: "dict[str, InstanceHistory]" = field(default_factory=dict)

    @classmethod
    def of(cls, rules: Mapping[str, Any]) -> "InstanceHistories":
        """Histories that are kept only if the configuration labels any tool."""
        return cls(any(rule.returns or rule.trusted or rule.parties or rule.sinks for rule in rules.values()))

    def history_for(self, call: Call) -> CallHistory:
        return self._of(call.instance).history_for(call) if self.attentive and call.tool is not None else NO_HISTORY

    def note(self, call: Call, reply: Json) -> None:
        if self.attentive and call.tool is not None:
            self._of(call.instance).note(call, reply)

    def note_refused(self, call: Call) -> None:
        if self.attentive:
            self._of(call.instance).note_refused(call)

    def forget(self, instance: Instance) -> None:
        """Drop the history of an instance that has ended."""
        self._histories.pop(instance.id, None)
        self._remains.pop(instance.id, None)

    def _of(self, instance: Instance) -> "InstanceHistory":
        from mcp_guard.core.provenance.history import InstanceHistory

        remains = self._remains.pop(instance.id, None)
        history = self._histories.pop(instance.id, None) or remains or InstanceHistory(instance.task)
        self._histories[instance.id] = history  # most recently used last
        if len(self._histories) > MAX_INSTANCES:
            oldest = next(iter(self._histories))
            self._remains[oldest] = self._histories.pop(oldest).without_texts()
            if len(self._remains) > MAX_REMAINS:
                del self._remains[next(iter(self._remains))]
        return history
