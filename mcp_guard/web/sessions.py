"""Sign-in sessions of browsers. They are held in memory, so everybody is signed out when the inbox ends.

A session is a bearer token (RFC 6750, §2.1) that the page keeps in `localStorage` and sends in the `authorization`
header. It is not a cookie: a browser sends a cookie of `localhost` to every port of `localhost`, and any program may
listen on one.
"""

import hashlib
import secrets
from dataclasses import dataclass, field
from typing import Any

from mcp_guard.core.errors import ApprovalError
from mcp_guard.core.model import Micros
from mcp_guard.ledger.approvals.approver_keys import CodeKind
from mcp_guard.web.roles import Role

MINUTE = 60 * 1_000_000
LIFETIME = 8 * 60 * MINUTE
IDLE_LIFETIME = 30 * MINUTE
"""An open page asks for news every few seconds, so this is the time since the last page was closed."""
ENROLMENT_LIFETIME = 10 * MINUTE
"""How long after a sign-in with a code that code authorizes one enrolment."""
CHALLENGE_LIFETIME = 5 * MINUTE
MAX_SESSIONS = 10
"""Per approver; one more ends the session that was used the longest time ago."""
MAX_CHALLENGES = 16
"""Per session; one more forgets the oldest."""


@dataclass(slots=True)
class BrowserSession:
    """One browser of one approver. `code` is the kind of code that it signed in with, until that code has authorized an
    enrolment. `removed_keys` is how many of the approver's keys had been removed when it began."""

    approver: str
    since: Micros
    used: Micros
    removed_keys: int
    code: CodeKind | None = None
    roles: frozenset[Role] = frozenset()
    _challenges: dict[bytes, tuple[Micros, str, Any]] = field(default_factory=dict)

    def is_alive(self, now: Micros) -> bool:
        return now - self.since <= LIFETIME and now - self.used <= IDLE_LIFETIME

    def enrolment_code(self, now: Micros) -> CodeKind | None:
        """The kind of code that still authorizes an enrolment, if any."""
        return self.code if now - self.since <= ENROLMENT_LIFETIME else None

    def add_challenge(self, challenge: bytes, now: Micros, purpose: str, subject: Any) -> None:
        """Remember a WebAuthn challenge, which this session can answer once, within five minutes, for its purpose."""
        while len(self._challenges) >= MAX_CHALLENGES:
            del self._challenges[next(iter(self._challenges))]
        self._challenges[challenge] = now, purpose, subject

    def take_challenge(self, challenge: bytes, now: Micros, purpose: str) -> Any:
        """The subject of the challenge. Raises: ApprovalError."""
        at, expected_purpose, subject = self._challenges.pop(challenge, (0, "", None))
        if expected_purpose != purpose or now - at > CHALLENGE_LIFETIME:
            raise ApprovalError("the challenge has expired or was already answered", "try again")
        return subject


@dataclass(frozen=True, slots=True)
class BrowserSessions:
    """The open sessions, by the SHA-256 of their tokens."""

    _by_hash: dict[bytes, BrowserSession] = field(default_factory=dict)

    def open(
        self,
        approver: str,
        now: Micros,
        removed_keys: int = 0,
        code: CodeKind | None = None,
        roles: frozenset[Role] = frozenset(),
    ) -> str:
        """Start a session. Returns its token, 256 random bits."""
        for ended in [hash for hash, session in self._by_hash.items() if not session.is_alive(now)]:
            del self._by_hash[ended]
        own = [hash for hash, session in self._by_hash.items() if session.approver == approver]
        if len(own) >= MAX_SESSIONS:
            del self._by_hash[min(own, key=lambda hash: self._by_hash[hash].used)]
        token = secrets.token_urlsafe(32)
        self._by_hash[_hash(token)] = BrowserSession(approver, now, now, removed_keys, code, roles)
        return token

    def find_session(self, token: str, now: Micros) -> BrowserSession | None:
        """The session of this token, which counts as used now; None if it has ended."""
        session = self._by_hash.get(_hash(token))
        if session is None or not session.is_alive(now):
            return None
        session.used = now
        return session

    def close(self, token: str) -> None:
        self._by_hash.pop(_hash(token), None)


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="replace")).digest()
