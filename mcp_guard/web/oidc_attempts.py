"""Sign-ins with the identity provider that are under way: sealed, and kept by the browser that began them.

So the pages of any gateway take the provider's answer, beginning many sign-ins takes nothing from anybody, and nobody
completes a sign-in in another's browser (login CSRF, RFC 6749 §10.12).
"""

import base64
import hmac
import json
import re
from dataclasses import dataclass, field

from mcp_guard.core import base64url
from mcp_guard.core.model import SECOND, Micros
from mcp_guard.identity.dpop import ProofMemory
from mcp_guard.web.id_token import SignInFailed
from mcp_guard.web.oidc import ATTEMPT_SECONDS, Attempt, OidcClient

CLOCK_SKEW: Micros = 5 * SECOND
"""How far the clocks of two gateways may differ."""
MEMORY = "oidc"
"""Among used proofs of possession, in place of a key: no thumbprint is so short."""
MAX_SEALED = 4096
OWN_PATH = re.compile(r"/(?![/\\])[\x21-\x5b\x5d-\x7e]{0,1000}")
"""A path of this origin: `//` and `/\\` begin a host."""


@dataclass(frozen=True, slots=True)
class SealedAttempts:
    """Attempts with an HMAC-SHA256 by a key that the gateways of a ledger share. `memory` remembers those that were
    completed, for all of them."""

    _key: bytes = field(repr=False)
    _memory: ProofMemory

    def seal(self, attempt: Attempt, now: Micros) -> str:
        """What the browser keeps, and gives back with the provider's answer."""
        text = json.dumps({"at": now, "attempt": attempt.to_json()}).encode()
        return f"{base64url.encode(text)}.{base64url.encode(self._authenticate(text))}"

    def unseal(self, sealed: object, state: str | None, now: Micros) -> Attempt:
        """The attempt that the answer with this `state` is for. Raises: SignInFailed."""
        try:
            text, code = map(_decode, str(sealed)[: MAX_SEALED + 1].split("."))
        except ValueError:
            raise SignInFailed(
                "this sign-in was not begun in this browser", "sign in again, in the browser that you want to use"
            ) from None
        if not hmac.compare_digest(code, self._authenticate(text)):
            raise SignInFailed("this sign-in was not begun here", "sign in again")
        members = json.loads(text)
        attempt = Attempt.from_json(members["attempt"])
        if not hmac.compare_digest(attempt.state.encode(), (state or "").encode()):
            raise SignInFailed("the answer belongs to another sign-in (`state`)", "sign in again")
        if not -CLOCK_SKEW <= now - members["at"] <= ATTEMPT_SECONDS * SECOND:
            raise SignInFailed(f"the sign-in took longer than {ATTEMPT_SECONDS // 60} minutes", "sign in again")
        return attempt

    async def settle(self, attempt: Attempt, now: Micros) -> None:
        """It is completed, and cannot be again. Raises: SignInFailed, LedgerError."""
        ends = now + CLOCK_SKEW + ATTEMPT_SECONDS * SECOND
        if not await self._memory.use(MEMORY, attempt.state, now // SECOND, ends // SECOND + 1):
            raise SignInFailed("this sign-in was completed already", "sign in again")

    def _authenticate(self, text: bytes) -> bytes:
        return hmac.digest(self._key, b"mcp-guard/oidc-attempt/v1" + text, "sha256")


@dataclass(frozen=True, slots=True)
class ProviderSignIns:
    """What the pages need to sign people in with the identity provider."""

    client: OidcClient
    attempts: SealedAttempts


def return_path(to: object) -> str:
    """Where a sign-in leads: a page of this origin, and the first one for everything else."""
    is_own = isinstance(to, str) and OWN_PATH.fullmatch(to) is not None and not to.startswith("/sign-in")
    return str(to) if is_own else "/"


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
