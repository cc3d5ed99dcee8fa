"""Passkeys (WebAuthn, by the `webauthn` package): enrolment, sign-in, and signing a statement.

The challenge of a signature is the SHA-256 of the statement, so the assertion is the approver's signature over the
statement and is recorded as such. Challenges for a signed-in approver belong to their session. Those for signing in are
sealed and kept nowhere, so that any inbox of the ledger takes the answer, and asking for many of them takes nothing
from anybody.
"""

import base64
import hashlib
import hmac
import json
import secrets
from dataclasses import dataclass, field
from typing import Any

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
from mcp_guard.core.model import Json, Micros
from mcp_guard.identity.dpop import ProofMemory, ProofsOfProcess
from mcp_guard.ledger.approvals.approver_keys import NewKey
from mcp_guard.storage.rows import ApproverKey
from mcp_guard.web.sessions import CHALLENGE_LIFETIME, BrowserSession

NONCE_BYTES, TIME_BYTES = 16, 8
SECOND = 1_000_000
CLOCK_SKEW: Micros = 5 * SECOND
"""How far the clocks of two inboxes may differ."""
MEMORY = "sign-in"
"""Among used proofs of possession, in place of a key: no thumbprint is so short."""


@dataclass(frozen=True, slots=True)
class SignInChallenges:
    """Challenges for signing in: nonce, time, and an HMAC-SHA256 over both with a key that the inboxes of a ledger
    share, so each accepts the challenges of all. Only those that were answered are remembered, by all, until they
    expire. At 56 bytes, none can be the SHA-256 of a statement."""

    _key: bytes = field(repr=False)
    _answered: ProofMemory

    def make(self, now: Micros) -> bytes:
        signed = secrets.token_bytes(NONCE_BYTES) + now.to_bytes(TIME_BYTES)
        return signed + self._seal(signed)

    def check(self, challenge: bytes, now: Micros) -> None:
        """Raises: ApprovalError unless it is ours, recent and not answered yet."""
        signed, seal = challenge[: NONCE_BYTES + TIME_BYTES], challenge[NONCE_BYTES + TIME_BYTES :]
        is_ours = hmac.compare_digest(seal, self._seal(signed))
        at = int.from_bytes(signed[NONCE_BYTES:])
        if not is_ours or not -CLOCK_SKEW <= now - at <= CHALLENGE_LIFETIME:
            raise _is_over()

    async def settle(self, challenge: bytes, now: Micros) -> None:
        """It was answered by an enrolled passkey, and cannot be answered again. Raises: ApprovalError, LedgerError."""
        ends = now + CLOCK_SKEW + CHALLENGE_LIFETIME
        if not await self._answered.use(MEMORY, challenge.hex(), now // SECOND, ends // SECOND + 1):
            raise _is_over()

    def _seal(self, signed: bytes) -> bytes:
        return hmac.digest(self._key, b"mcp-guard/sign-in/v1" + signed, "sha256")


def challenges_of_process() -> SignInChallenges:
    """For a single inbox that is not started again."""
    return SignInChallenges(secrets.token_bytes(32), ProofsOfProcess())


@dataclass(frozen=True, slots=True)
class Passkeys:
    """Passkeys for one page. `origin` is `http://localhost:PORT`; the relying party is its host."""

    origin: str
    sign_ins: SignInChallenges = field(default_factory=challenges_of_process)
    rp_id: str = "localhost"

    # Enrolment

    def registration(self, session: BrowserSession, name: str, existing: list[ApproverKey], now: Micros) -> Json:
        """Options for `navigator.credentials.create`."""
        options = webauthn.generate_registration_options(
            rp_id=self.rp_id,
            rp_name="mcp-guard",
            user_name=session.approver,
            user_display_name=name,
            user_id=hashlib.sha256(session.approver.encode()).digest(),
            exclude_credentials=_descriptors(existing),
            authenticator_selection=AuthenticatorSelectionCriteria(
                resident_key=ResidentKeyRequirement.REQUIRED, user_verification=UserVerificationRequirement.REQUIRED
            ),
        )
        session.add_challenge(options.challenge, now, "enrol", None)
        return _as_json(options)

    def register(self, credential: Json, session: BrowserSession, now: Micros) -> NewKey:
        """The key of a new passkey, which answers a challenge of this session. Raises: ApprovalError."""
        challenge = _challenge_of(credential)
        session.take_challenge(challenge, now, "enrol")
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
        subject: object,
    ) -> Json:
        """Options for `navigator.credentials.get`, by which one of these keys signs the statement."""
        challenge = hashlib.sha256(statement).digest()
        session.add_challenge(challenge, now, purpose, subject)
        return self._request(challenge, keys)

    def answer(
        self, credential: Json, session: BrowserSession, keys: list[ApproverKey], now: Micros, purpose: str
    ) -> tuple[ApproverKey, object, int]:
        """The key that answered, what `ask` was given as `subject`, and the key's new signature count.

        Raises: ApprovalError.
        """
        challenge = _challenge_of(credential)
        subject = session.take_challenge(challenge, now, purpose)
        key, count = self._verify(credential, challenge, keys)
        return key, subject, count

    # Sign-in

    def sign_in_options(self, now: Micros) -> Json:
        """Options for `navigator.credentials.get`. The browser offers its passkeys for this page."""
        return self._request(self.sign_ins.make(now), [])

    async def sign_in(self, credential: Json, keys: list[ApproverKey], now: Micros) -> tuple[ApproverKey, int]:
        """The key that answered, and its new signature count. Raises: ApprovalError, LedgerError."""
        challenge = _challenge_of(credential)
        self.sign_ins.check(challenge, now)
        key, count = self._verify(credential, challenge, keys)
        await self.sign_ins.settle(challenge, now)
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
        key = next((key for key in keys if key.details.get("credential") == credential.get("id")), None)
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
