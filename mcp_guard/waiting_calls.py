"""The calls of one session that wait for the same approval, and what their clients hear meanwhile."""

from collections.abc import Callable
from dataclasses import dataclass, field

from mcp_guard.core.approval import Approval
from mcp_guard.core.replies import held_meta
from mcp_guard.ports import ClientChannel, Progress


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


def report_waiting(approval: Approval, progress: Progress | None) -> Callable[[float], None]:
    """Sends progress to a client that waits. The numbers stay tiny, so that the upstream's own can only be greater."""

    def report(seconds: float) -> None:
        if progress is not None:
            message = f"waiting for approval {approval.id} on {', '.join(approval.routes)} ({seconds:.0f} s)"
            progress({"progress": seconds * 1e-6, "message": message, "_meta": held_meta(approval)})

    return report
