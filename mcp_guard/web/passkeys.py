"""Passkeys (WebAuthn, by the `webauthn` package): enrolment, sign-in, and signing a statement.

The challenge of a signature is the SHA-256 of the statement, so the assertion is the approver's signature over the
statement and is recorded as such. Challenges are sealed and kept nowhere, so that the pages of any gateway take the
answer, and asking for many of them takes nothing from anybody. Those for a signed-in person are sealed for their
session and purpose; the page gives the seal back with the answer.
"""

import base64
import hashlib
import hmac
import json
import secrets
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import orjson
import webauthn
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from webauthn import helpers
from webauthn.helpers.structs import (
    AuthenticatorSelectionCriteria,
    PublicKeyCredentialDescriptor,
    ResidentKeyRequirement,
    UserVerificationRequirement,
)

from mcp_guard.core.errors import ApprovalError
from mcp_guard.core.model import SECOND, Json, Micros
from mcp_guard.identity.dpop import ProofMemory, ProofsOfProcess
from mcp_guard.ledger.approvals.approver_keys import NewKey
from mcp_guard.storage.rows import ApproverKey
from mcp_guard.web.sessions import CHALLENGE_LIFETIME, BrowserSession

NONCE_BYTES, TIME_BYTES = 16, 8
CLOCK_SKEW: Micros = 5 * SECOND
"""How far the clocks of two gateways may differ."""
MEMORY, SEALS = "sign-in", "seal"
"""Among used proofs of possession, in place of a key: no thumbprint is so short."""
MAX_SEAL = 48 * 1024
"""In characters."""


@dataclass(frozen=True, slots=True)
class Challenges:
    """Challenges with an HMAC-SHA256 by a key that the gateways of a ledger share, so each accepts those of all. Only
    those that were answered are remembered, by all, until they expire.

    One for signing in is a nonce, the time and the HMAC: at 56 bytes, it cannot be the SHA-256 of a statement.
    """

    _key: bytes = field(repr=False)
    _answered: ProofMemory

    # For signing in

    def make(self, now: Micros) -> bytes:
        signed = secrets.token_bytes(NONCE_BYTES) + now.to_bytes(TIME_BYTES)
        return signed + self._authenticate(b"sign-in", signed)

    def check(self, challenge: bytes, now: Micros) -> None:
        """Raises: ApprovalError unless it is ours, recent and not answered yet."""
        signed, code = challenge[: NONCE_BYTES + TIME_BYTES], challenge[NONCE_BYTES + TIME_BYTES :]
        is_ours = hmac.compare_digest(code, self._authenticate(b"sign-in", signed))
        if not is_ours:
            raise _is_over()
        _check_time(int.from_bytes(signed[NONCE_BYTES:]), now)

    async def settle(self, challenge: bytes, now: Micros) -> None:
        """It was answered by an enrolled passkey, and cannot be answered again. Raises: ApprovalError, LedgerError."""
        await self._use(MEMORY, challenge, now)

    # For a session

    def seal(self, session: BrowserSession, challenge: bytes, purpose: str, subject: Json, now: Micros) -> str:
        """What the page gives back with the answer to this challenge, for its purpose."""
        members = {"session": session.id, "purpose": purpose, "challenge": challenge.hex(), "at": now}
        text = orjson.dumps(members | {"subject": subject})
        return f"{helpers.bytes_to_base64url(text)}.{helpers.bytes_to_base64url(self._authenticate(b'seal', text))}"

    def unseal(self, sealed: object, session: BrowserSession, challenge: bytes, purpose: str, now: Micros) -> Json:
        """The subject that was sealed. Raises: ApprovalError unless it is ours, recent, and for exactly this."""
        members = orjson.loads(self._open(sealed))
        expected = {"session": session.id, "purpose": purpose, "challenge": challenge.hex()}
        if not expected.items() <= members.items():
            raise _is_over()
        _check_time(members["at"], now)
        subject: Json = members["subject"]
        return subject

    async def settle_seal(self, sealed: object, now: Micros) -> None:
        """Raises: ApprovalError, LedgerError."""
        # by what it says, because the same base64 can be spelled in several ways
        await self._use(SEALS, hashlib.sha256(self._open(sealed)).digest(), now)

    def _open(self, sealed: object) -> bytes:
        """The text of a seal. Raises: ApprovalError unless it is ours."""
        if not isinstance(sealed, str) or len(sealed) > MAX_SEAL:
            raise _is_over()
        try:
            text, code = map(helpers.base64url_to_bytes, sealed.split("."))
        except ValueError:
            raise _is_over() from None
        if not hmac.compare_digest(code, self._authenticate(b"seal", text)):
            raise _is_over()
        return text

    async def _use(self, memory: str, challenge: bytes, now: Micros) -> None:
        ends = now + CLOCK_SKEW + CHALLENGE_LIFETIME
        if not await self._answered.use(memory, challenge.hex(), now // SECOND, ends // SECOND + 1):
            raise _is_over()

    def _authenticate(self, use: bytes, text: bytes) -> bytes:
        return hmac.digest(self._key, b"mcp-guard/" + use + b"/v1" + text, "sha256")


def _check_time(at: Micros, now: Micros) -> None:
    """Raises: ApprovalError."""
    if now - at > CHALLENGE_LIFETIME:
        raise _is_over()
    if at - now > CLOCK_SKEW:
        ahead = (at - now) // SECOND
        raise ApprovalError(
            f"the clock of the gateway that asked is {ahead} s ahead of this one's; nothing was done",
            "have the operator set the clocks of all gateways by NTP (mcp-guard doctor), then try again",
        )


def challenges_of_process() -> Challenges:
    """For a single inbox that is not started again."""
    return Challenges(secrets.token_bytes(32), ProofsOfProcess())


@dataclass(frozen=True, slots=True)
class Passkeys:
    """Passkeys for the pages of one origin, which decide on one ledger; the relying party is the host.

    INVARIANT: an approver is another account for each page and ledger. An authenticator keeps one passkey for an
    account of a host, so enrolling at another port would replace the passkey there.
    """

    origin: str
    challenges: Challenges = field(default_factory=challenges_of_process)
    ledger: str = ""
    """The origin of the ledger."""

    @property
    def rp_id(self) -> str:
        return urlsplit(self.origin).hostname or ""

    # Enrolment

    def registration(self, session: BrowserSession, name: str, existing: list[ApproverKey], now: Micros) -> Json:
        """Options for `navigator.credentials.create`."""
        options = webauthn.generate_registration_options(
            rp_id=self.rp_id,
            rp_name="mcp-guard",
            user_name=session.approver,
            user_display_name=name,
            user_id=hashlib.sha256(f"{self.origin} {self.ledger} {session.approver}".encode()).digest(),
            exclude_credentials=_descriptors(existing),
            authenticator_selection=AuthenticatorSelectionCriteria(
                resident_key=ResidentKeyRequirement.REQUIRED, user_verification=UserVerificationRequirement.REQUIRED
            ),
        )
        return _as_json(options) | {"sealed": self.challenges.seal(session, options.challenge, "enrol", {}, now)}

    def register(self, credential: Json, session: BrowserSession, now: Micros) -> NewKey:
        """The key of a new passkey, which answers a challenge of this session. Raises: ApprovalError.

        Nothing remembers the answer: no key is enrolled twice.
        """
        challenge = _challenge_of(credential)
        self.challenges.unseal(credential.get("sealed"), session, challenge, "enrol", now)
        try:
            registration = webauthn.verify_registration_response(
                credential=credential,
                expected_challenge=challenge,
                expected_rp_id=self.rp_id,
                expected_origin=self.origin,
                require_user_verification=True,
            )
            cose = helpers.decode_credential_public_key(registration.credential_public_key)
            public = helpers.decoded_public_key_to_cryptography(cose)
        except Exception as error:  # the sender chooses these bytes: whatever a parser makes of them is a refusal
            raise _not_accepted(error) from None
        details = {
            "rp_id": self.rp_id,
            "origin": self.origin,
            "credential": helpers.bytes_to_base64url(registration.credential_id),
            "cose": base64.b64encode(registration.credential_public_key).decode(),
            "count": registration.sign_count,
        }
        return NewKey("webauthn", public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo), details)

    # Signatures of a signed-in approver

    def ask(
        self,
        session: BrowserSession,
        statement: bytes,
        keys: list[ApproverKey],
        now: Micros,
        purpose: str,
        subject: Json,
    ) -> Json:
        """Options for `navigator.credentials.get`, by which one of these keys signs the statement, and what the page
        gives back with the answer: `sealed`. The page can read the subject, and change nothing of it."""
        challenge = hashlib.sha256(statement).digest()
        sealed = self.challenges.seal(session, challenge, purpose, subject, now)
        return self._request(challenge, keys) | {"sealed": sealed}

    async def answer(
        self, credential: Json, session: BrowserSession, keys: list[ApproverKey], now: Micros, purpose: str
    ) -> tuple[ApproverKey, Json, int]:
        """The key that answered, what `ask` was given as `subject`, and the key's new signature count. It answers once.

        Raises: ApprovalError, LedgerError.
        """
        challenge = _challenge_of(credential)
        sealed = credential.get("sealed")
        subject = self.challenges.unseal(sealed, session, challenge, purpose, now)
        key, count = self._verify(credential, challenge, keys)
        await self.challenges.settle_seal(sealed, now)
        return key, subject, count

    # Sign-in

    def sign_in_options(self, now: Micros) -> Json:
        """Options for `navigator.credentials.get`. The browser offers its passkeys for this page."""
        return self._request(self.challenges.make(now), [])

    async def sign_in(self, credential: Json, keys: list[ApproverKey], now: Micros) -> tuple[ApproverKey, int]:
        """The key that answered, and its new signature count. Raises: ApprovalError, LedgerError."""
        challenge = _challenge_of(credential)
        self.challenges.check(challenge, now)
        key, count = self._verify(credential, challenge, keys)
        await self.challenges.settle(challenge, now)
        return key, count

    def _request(self, challenge: bytes, keys: list[ApproverKey]) -> Json:
        options = webauthn.generate_authentication_options(
            rp_id=self.rp_id,
            challenge=challenge,
            allow_credentials=_descriptors(keys),
            user_verification=UserVerificationRequirement.REQUIRED,
        )
        return _as_json(options)

    def _verify(self, credential: Json, challenge: bytes, keys: list[ApproverKey]) -> tuple[ApproverKey, int]:
        passkeys = (key for key in keys if "credential" in key.details)
        key = next((key for key in passkeys if key.details["credential"] == credential.get("id")), None)
        if key is None or key.removed is not None:
            raise ApprovalError("this passkey is not enrolled here", "sign in with a code and enrol it")
        if key.details["origin"] != self.origin:
            problem = f"this passkey was enrolled at {key.details['origin']}, and signs nothing that counts here"
            raise ApprovalError(problem, f"enrol another one: mcp-guard approvers code {key.approver} --enrol")
        try:
            verified = webauthn.verify_authentication_response(
                credential=credential,
                expected_challenge=challenge,
                expected_rp_id=self.rp_id,
                expected_origin=self.origin,
                credential_public_key=base64.b64decode(key.details["cose"]),
                credential_current_sign_count=key.details["count"],
                require_user_verification=True,
            )
        except Exception as error:  # the sender chooses these bytes: whatever a parser makes of them is a refusal
            raise _not_accepted(error) from None
        return key, verified.new_sign_count


def evidence(credential: Json) -> Json:
    """The assertion in the form that receipts record: plain base64."""
    response = credential["response"]
    parts = {"signature": "signature", "authenticator_data": "authenticatorData", "client_data": "clientDataJSON"}
    return {
        name: base64.b64encode(helpers.base64url_to_bytes(response[member])).decode() for name, member in parts.items()
    }


def _challenge_of(credential: Json) -> bytes:
    """The challenge that a response says it answers. Raises: ApprovalError."""
    try:
        client = json.loads(helpers.base64url_to_bytes(credential["response"]["clientDataJSON"]))
        return helpers.base64url_to_bytes(client["challenge"])
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ApprovalError(f"not a valid passkey response: {type(error).__name__}") from None


def _is_over() -> ApprovalError:
    return ApprovalError("the challenge has expired or was already answered", "try again")


def _not_accepted(error: Exception) -> ApprovalError:
    return ApprovalError(f"the passkey was not accepted: {error}", "try again")


def _descriptors(keys: list[ApproverKey]) -> list[PublicKeyCredentialDescriptor]:
    passkeys = [key for key in keys if key.method == "webauthn" and key.removed is None]
    return [PublicKeyCredentialDescriptor(id=helpers.base64url_to_bytes(key.details["credential"])) for key in passkeys]


def _as_json(options: Any) -> Json:
    parsed: Json = json.loads(webauthn.options_to_json(options))
    return parsed
