"""Shares what one process has between the agents that it serves: sessions, and memory for what they have half sent.

All transports of a process take from the same shares, so that no agent gets more by using several of them. A share is
given back when a session is over and its upstreams have ended, not when its client has gone.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from mcp_guard.core.model import Instance
from mcp_guard.settings import SessionLimits


class LimitReached(Exception):
    """The request is refused until something else of its agent ends. `setting` is what limits it, if any."""

    def __init__(self, what: str, setting: str = "", *, is_own: bool = True, advice: str = "try again later") -> None:
        super().__init__(f"{what}; {advice}" + (f", or raise `{setting}`" if setting else ""))
        self.is_own = is_own
        """Whether it is the caller's own share that is used up, or that of all."""


class SessionShares:
    """The open sessions of one process, by agent and instance."""

    def __init__(self, limits: SessionLimits) -> None:
        self._limits = limits
        self._agents: Counter[str] = Counter()
        self._instances: Counter[str] = Counter()

    def check(self, agent: str, instance: str | None = None) -> None:
        """Whether this agent, and this instance of it, may open a session now. Raises: LimitReached."""
        limits = self._limits
        if instance is not None and self._instances[instance] >= limits.per_instance:
            count = limits.per_instance
            raise LimitReached(f"this instance has {count} open sessions", "serve.max_sessions_per_instance")
        if self._agents[agent] >= limits.per_agent:
            count = limits.per_agent
            raise LimitReached(f"agent `{agent}` has {count} open sessions", "serve.max_sessions_per_agent")
        if self._agents.total() >= limits.total:
            raise LimitReached("session limit reached", "serve.max_sessions", is_own=False)

    @contextmanager
    def reserving(self, agent: str) -> Iterator[None]:
        """Count one session more for this agent, of an instance that is being issued. Raises: LimitReached."""
        self.check(agent)
        self._agents[agent] += 1
        try:
            yield
        finally:
            self._take_back(self._agents, agent)

    def add(self, instance: Instance) -> None:
        self._agents[instance.agent.name] += 1
        self._instances[instance.id] += 1

    def remove(self, instance: Instance) -> None:
        self._take_back(self._agents, instance.agent.name)
        self._take_back(self._instances, instance.id)

    def _take_back(self, counter: Counter[str], name: str) -> None:
        counter[name] -= 1
        if not counter[name]:
            del counter[name]


class ReceivedBytes:
    """Memory for messages that have not arrived completely yet, by agent.

    An agent may always send one message of the largest size, and more of them at once up to `per_agent` bytes together.
    """

    def __init__(self, message_bytes: int, *, messages_per_agent: int = 4, messages: int = 16) -> None:
        self._per_agent = messages_per_agent * message_bytes
        self._total = messages * message_bytes
        self._agents: Counter[str] = Counter()

    @contextmanager
    def receiving(self, agent: str) -> Iterator["Charge"]:
        charge = Charge(self, agent)
        try:
            yield charge
        finally:
            charge.set(0)

    def change(self, agent: str, by: int) -> None:
        """Charge the agent so many bytes more. Raises: LimitReached."""
        if by > 0 and self._agents[agent] + by > self._per_agent:
            raise LimitReached(f"agent `{agent}` is sending too many large messages at once", "limits.request_bytes")
        if by > 0 and self._agents.total() + by > self._total:
            raise LimitReached("too many large messages are being sent at once", "limits.request_bytes", is_own=False)
        self._agents[agent] += by
        if not self._agents[agent]:
            del self._agents[agent]


class Charge:
    """What one sender's unfinished message takes."""

    def __init__(self, received: ReceivedBytes, agent: str) -> None:
        self._received = received
        self._agent = agent
        self._size = 0

    def set(self, size: int) -> None:
        """The message has this many bytes by now. Raises: LimitReached, and then it is charged what it was before."""
        if size != self._size:
            self._received.change(self._agent, size - self._size)
            self._size = size
