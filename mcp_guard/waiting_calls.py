"""The calls of one session that wait for the same approval."""

from dataclasses import dataclass, field

from mcp_guard.ports import ClientChannel


@dataclass(slots=True)
class WaitingCalls:
    """The calls of one session that wait for one approval. The latest that has not given up is the one that runs."""

    channels: dict[int, ClientChannel] = field(default_factory=dict)
    """By number, without those that have given up."""
    running: int = 0
    added: int = 0

    @property
    def latest(self) -> int | None:
        return next(reversed(self.channels), None)

    def add(self, channel: ClientChannel) -> int:
        """The number of a new call."""
        self.channels[self.added] = channel
        self.running += 1
        self.added += 1
        return self.added - 1

    def give_up(self, number: int) -> None:
        del self.channels[number]

    def leave(self) -> bool:
        """One call waits no longer. Returns whether it was the last."""
        self.running -= 1
        return self.running == 0
