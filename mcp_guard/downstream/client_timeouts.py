"""How long clients wait for the reply to a tool call: as they document it, and as they have shown it.

A client that gives up on a held call never hears that it is held, so the guard answers before that. How long the client
waits is not part of the protocol. It is known by the client's name (`clientInfo.name`), or learned when the client
cancels a held call, or makes it again while the first one is still held.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from mcp_guard.files import replace_file

MIN_MARGIN_SECONDS, MARGIN = 1.0, 0.1
"""How long before the client's time-out it gets its answer: a second at least, a tenth of the time-out at least."""
MIN_SECONDS = 0.5
"""A client that cancels sooner has not timed out."""
AGREEMENT, AGREEMENT_SECONDS = 0.02, 0.1
"""Two waits in a row that differ by no more than this share of them, or so many seconds, are taken for a time-out, also
in later sessions. A timer is that exact, and a person is not."""
MAX_REMEMBERED = 8
REMEMBERED_SECONDS = 30 * 24 * 3600.0
MAX_CLIENTS, MAX_NAME = 200, 100


@dataclass(frozen=True, slots=True)
class KnownClient:
    """The default time-out of a client. `is_shared` if others use the same name: then it counts only for the first wait
    of a call, whose answer is all that tells the agent that the call is held."""

    name: str
    seconds: float
    source: str
    is_shared: bool = False


KNOWN_CLIENTS = (
    KnownClient(
        "mcp",
        5,
        "the Python SDK's default name; openai-agents 0.24 has `client_session_timeout_seconds = 5`, autogen-ext 0.7 "
        "`read_timeout_seconds = 5`",
        is_shared=True,
    ),
    KnownClient("google-adk", 5, "google-adk 2.13, `StdioConnectionParams.timeout`"),
    KnownClient("codex-mcp-client", 60, "Codex configuration reference, `tool_timeout_sec`"),
    KnownClient("cursor-vscode", 60, "TypeScript SDK, `DEFAULT_REQUEST_TIMEOUT_MSEC`"),
    KnownClient("cline", 60, "Cline documentation, MCP `timeout`"),
    KnownClient("roo code", 60, "Roo Code documentation, MCP `timeout`"),
    KnownClient("zed", 60, "Zed settings reference, `context_server_timeout`"),
    KnownClient("gemini-cli-mcp-client", 600, "Gemini CLI documentation, MCP `timeout`"),
    KnownClient("claude-code", 100_000, "Claude Code documentation, `MCP_TOOL_TIMEOUT`"),
)
"""Clients by name. Others wait as long as the SDK that they use: 60 s in TypeScript, for ever in Python."""


def answer_before(timeout: float) -> float:
    """After how many seconds a client with this time-out is answered."""
    return max(timeout - max(MIN_MARGIN_SECONDS, MARGIN * timeout), timeout / 2)


@dataclass(slots=True)
class ClientTimeouts:
    """What is known of each agent's clients. Two waits that agree are remembered in `path` for later sessions.

    A client learns nothing from this and gains nothing: it can only make its own calls wait less.
    """

    path: Path
    note: Callable[[str], None]
    wall: Callable[[], float] = time.time
    _seen: dict[str, float] = field(default_factory=dict)
    """The shortest wait after which a client gave up, in this process: of the last `MAX_CLIENTS`."""
    _remembered: dict[str, list[list[float]]] | None = None
    """The waits (seconds, and when) in the file; None until it is read."""

    def find_timeout(self, agent: str, client: str, *, is_first: bool) -> float | None:
        """The seconds after which this client gives up, as far as is known. `is_first` for the call itself, as opposed
        to `guard__await`, by which an agent comes back to a call of which it knows that it is held."""
        key = _key(agent, client)
        known = _find_known(client)
        default = known.seconds if known is not None and (is_first or not known.is_shared) else None
        timeouts = (self._seen.get(key), self._recall(key), default)
        return min((timeout for timeout in timeouts if timeout is not None), default=None)

    def observe(self, agent: str, client: str, seconds: float) -> None:
        """The client has given up on a held call after so many seconds."""
        if seconds < MIN_SECONDS:
            return
        key = _key(agent, client)
        self._seen[key] = min(seconds, self._seen.pop(key, seconds))
        if len(self._seen) > MAX_CLIENTS:
            del self._seen[next(iter(self._seen))]
        remembered = self._recall(key)
        if remembered is None or seconds < remembered:
            self._remember(key, seconds)

    def observe_repeat(self, agent: str, client: str, seconds: float) -> None:
        """The client makes a call again that has been held for so many seconds: it gave up on it at some time since, by
        its default if that is in the later half, else perhaps in the middle."""
        known = _find_known(client)
        is_default = known is not None and seconds / 2 <= known.seconds <= seconds
        self.observe(agent, client, known.seconds if known is not None and is_default else seconds / 2)

    def _recall(self, key: str) -> float | None:
        """The shortest of the remembered waits that the next one confirms."""
        waits = [seconds for seconds, _ in self._read().get(key, ())]
        pairs = [(min(pair), max(pair)) for pair in pairwise(waits)]
        return min((a for a, b in pairs if b - a <= max(AGREEMENT * b, AGREEMENT_SECONDS)), default=None)

    def _read(self) -> dict[str, list[list[float]]]:
        if self._remembered is None:
            oldest = self.wall() - REMEMBERED_SECONDS
            try:
                stored = json.loads(self.path.read_bytes())
                self._remembered = {
                    str(key): [[float(seconds), float(at)] for seconds, at in waits if at >= oldest]
                    for key, waits in stored.items()
                }
            except (OSError, ValueError, TypeError, AttributeError):  # it is a hint, and is made anew
                self._remembered = {}
        return self._remembered

    def _remember(self, key: str, seconds: float) -> None:
        self._remembered = None  # another process may have written since
        remembered = self._read()
        waits = remembered.pop(key, [])[1 - MAX_REMEMBERED :]
        remembered[key] = [*waits, [round(seconds, 3), round(self.wall())]]
        kept = dict(list(remembered.items())[-MAX_CLIENTS:])
        try:
            replace_file(self.path, json.dumps(kept, indent=1).encode())
        except OSError as error:
            self.note(f"cannot write `{self.path}`: {error.strerror}; the time-out of a client is not remembered")


def _find_known(client: str) -> KnownClient | None:
    name = client.strip().lower()
    return next((known for known in KNOWN_CLIENTS if known.name == name), None)


def _key(agent: str, client: str) -> str:
    return f"{agent} {client[:MAX_NAME]}"


@dataclass(slots=True)
class ClientWait:
    """One call of a client, from its arrival on. `clock` is the event loop's; `is_closing` tells whether the session
    ends, which cancels calls as well."""

    timeouts: ClientTimeouts
    agent: str
    client: str
    is_first: bool
    clock: Callable[[], float]
    is_closing: Callable[[], bool]
    most: float | None = None
    """How long this request may take, whatever the client's time-out."""
    began: float = field(init=False)

    def __post_init__(self) -> None:
        self.began = self.clock()

    def limit(self) -> float | None:
        """After how many seconds the client must have its answer; None if nothing limits it."""
        timeout = self.timeouts.find_timeout(self.agent, self.client, is_first=self.is_first)
        limits = (None if timeout is None else answer_before(timeout), self.most)
        return min((limit for limit in limits if limit is not None), default=None)

    def seconds_left(self) -> float | None:
        """For how many more seconds the call may be held; None if nothing limits it."""
        limit = self.limit()
        return None if limit is None else limit - self.seconds_waited()

    def seconds_waited(self) -> float:
        return self.clock() - self.began

    def on_cancelled(self) -> bool:
        """The held call is cancelled. Returns whether its client did that."""
        if self.is_closing():
            return False
        self.timeouts.observe(self.agent, self.client, self.seconds_waited())
        return True

    def on_repeated(self) -> None:
        """The client makes the same call again: it gave up on this one, some time ago."""
        waited = self.seconds_waited()
        if waited >= 2 * MIN_MARGIN_SECONDS:
            self.timeouts.observe_repeat(self.agent, self.client, waited)
