"""Who is signed in. BrowserSessions live in this process's memory: end the inbox, and everybody is signed out."""

import secrets
from dataclasses import dataclass, field

from mcp_guard.core.model import Micros

LIFETIME = 8 * 3600 * 1_000_000
COOKIE = "mcp_guard_inbox"


@dataclass(frozen=True, slots=True)
class BrowserSession:
    """One browser of one approver. `csrf` stands in each page and must come back with each change."""

    approver: str
    csrf: str
    since: Micros


@dataclass(frozen=True, slots=True)
class BrowserSessions:
    by_token: dict[str, BrowserSession] = field(default_factory=dict)

    def open(self, approver: str, now: Micros) -> str:
        """The token for the cookie."""
        for token in [each for each, found in self.by_token.items() if now - found.since > LIFETIME]:
            del self.by_token[token]
        token = secrets.token_urlsafe(32)
        self.by_token[token] = BrowserSession(approver, secrets.token_urlsafe(32), now)
        return token

    def find_session(self, token: str | None, now: Micros) -> BrowserSession | None:
        found = self.by_token.get(token or "")
        return found if found is not None and now - found.since <= LIFETIME else None

    def close(self, token: str | None) -> None:
        self.by_token.pop(token or "", None)
