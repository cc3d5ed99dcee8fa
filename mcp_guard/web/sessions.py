"""Sign-in sessions of browsers. They are held in memory, so everybody is signed out when the inbox ends."""

import secrets
from dataclasses import dataclass, field

from mcp_guard.core.model import Micros

LIFETIME = 8 * 3600 * 1_000_000
COOKIE = "mcp_guard_inbox"


@dataclass(frozen=True, slots=True)
class BrowserSession:
    """One browser of one approver. `csrf` is in each page, and each change must send it back."""

    approver: str
    csrf: str
    since: Micros


@dataclass(frozen=True, slots=True)
class BrowserSessions:
    by_token: dict[str, BrowserSession] = field(default_factory=dict)

    def open(self, approver: str, now: Micros) -> str:
        """Start a session. Returns the token for the cookie."""
        for expired in [token for token, session in self.by_token.items() if now - session.since > LIFETIME]:
            del self.by_token[expired]
        token = secrets.token_urlsafe(32)
        self.by_token[token] = BrowserSession(approver, secrets.token_urlsafe(32), now)
        return token

    def find_session(self, token: str | None, now: Micros) -> BrowserSession | None:
        session = self.by_token.get(token or "")
        return session if session is not None and now - session.since <= LIFETIME else None

    def close(self, token: str | None) -> None:
        self.by_token.pop(token or "", None)
