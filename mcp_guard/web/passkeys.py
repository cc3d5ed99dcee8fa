"""Passkeys (WebAuthn, by the `webauthn` package): enrolment, sign-in, and signing a statement.

A challenge can be answered once, within a few minutes, and only for its purpose. The challenge of a decision is the
SHA-256 of the statement, so the assertion is the approver's signature over the statement and is recorded as such.
"""

import base64
import hashlib
import json
import secrets
from dataclasses import dataclass, field
from typing import Any

import webauthn
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from webauthn import helpers
from webauthn.helpers.exceptions import WebAuthnException
from webauthn.helpers.structs import (
    AuthenticatorSelectionCriteria,
    PublicKeyCredentialDescriptor,
    ResidentKeyRequirement,
    UserVerificationRequirement,
)

from mcp_guard.core.errors import ApprovalError
from mcp_guard.core.model import Json, Micros
from mcp_guard.ledger.approvals.approver_keys import NewKey
from mcp_guard.storage.approvals import ApproverKey

LIFETIME = 5 * 60 * 1_000_000
MAX_OPEN = 1000


@dataclass
class Challenges:
    """Challenges that have not been answered yet, each with its time, purpose and subject."""

    open: dict[bytes, tuple[Micros, str, Any]] = field(default_factory=dict)

    def add(self, challenge: bytes, now: Micros, purpose: str, subject: Any = None) -> None:
        for expired in [challenge for challenge, (at, *_) in self.open.items() if now - at > LIFETIME]:
            del self.open[expired]
        if len(self.open) >= MAX_OPEN:
            raise ApprovalError("too many unanswered challenges", "wait a few minutes")
        self.open[challenge] = (now, purpose, subject)

    def take(self, credential: Json, now: Micros, purpose: str) -> tuple[bytes, Any]:
        """Take out the challenge that this answers, with its subject. Raises: ApprovalError."""
        try:
            client = json.loads(helpers.base64url_to_bytes(credential["response"]["clientDataJSON"]))
            challenge = helpers.base64url_to_bytes(client["challenge"])
        except (KeyError, TypeError, ValueError) as error:
            raise ApprovalError(f"not a valid passkey response: {type(error).__name__}") from None
        at, expected_purpose, subject = self.open.pop(challenge, (0, "", None))
        if expected_purpose != purpose or now - at > LIFETIME:
            raise ApprovalError("the challenge has expired or was already answered", "try again")
        return challenge, subject


@dataclass(frozen=True, slots=True)
class Passkeys:
    """Passkeys for one page. `origin` is `http://localhost:PORT`; the relying party is its host."""

    origin: str
    challenges: Challenges = field(default_factory=Challenges)
    rp_id: str = "localhost"

    # Enrolment

    def registration(self, approver: str, name: str, existing: list[ApproverKey], now: Micros) -> Json:
        """Options for `navigator.credentials.create`."""
        options = webauthn.generate_registration_options(
            rp_id=self.rp_id,
            rp_name="mcp-guard",
            user_name=approver,
            user_display_name=name,
            user_id=hashlib.sha256(approver.encode()).digest(),
            exclude_credentials=_descriptors(existing),
            authenticator_selection=AuthenticatorSelectionCriteria(
                resident_key=ResidentKeyRequirement.REQUIRED, user_verification=UserVerificationRequirement.REQUIRED
            ),
        )
        self.challenges.add(options.challenge, now, "enrol", approver)
        return _as_json(options)

    def register(self, credential: Json, approver: str, now: Micros) -> NewKey:
        """The key of a new passkey. Raises: ApprovalError."""
        challenge, subject = self.challenges.take(credential, now, "enrol")
        if subject != approver:
            raise ApprovalError("the passkey was created for another approver")
        try:
            registration = webauthn.verify_registration_response(
                credential=credential,
                expected_challenge=challenge,
                expected_rp_id=self.rp_id,
                expected_origin=self.origin,
                require_user_verification=True,
            )
        except WebAuthnException as error:
            raise ApprovalError(f"the passkey was not accepted: {error}") from None
        cose = helpers.decode_credential_public_key(registration.credential_public_key)
        public = helpers.decoded_public_key_to_cryptography(cose)
        details = {
            "rp_id": self.rp_id,
            "origin": self.origin,
            "credential": helpers.bytes_to_base64url(registration.credential_id),
            "cose": base64.b64encode(registration.credential_public_key).decode(),
            "count": registration.sign_count,
        }
        return NewKey("webauthn", public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo), details)

    # Sign-in and decisions

    def ask(self, challenge: bytes, keys: list[ApproverKey], now: Micros, purpose: str, subject: Any = None) -> Json:
        """Options for `navigator.credentials.get`. Without keys, the browser offers its passkeys for this page."""
        options = webauthn.generate_authentication_options(
            rp_id=self.rp_id,
            challenge=challenge,
            allow_credentials=_descriptors(keys),
            user_verification=UserVerificationRequirement.REQUIRED,
        )
        self.challenges.add(challenge, now, purpose, subject)
        return _as_json(options)

    def sign_in_options(self, now: Micros) -> Json:
        return self.ask(secrets.token_bytes(32), [], now, "sign in")

    def answer(
        self, credential: Json, keys: list[ApproverKey], now: Micros, purpose: str
    ) -> tuple[ApproverKey, Any, int]:
        """The key that answered, the challenge's subject, and the key's new signature count. Raises: ApprovalError."""
        challenge, subject = self.challenges.take(credential, now, purpose)
        key = next((key for key in keys if key.details.get("credential") == credential.get("id")), None)
        if key is None or key.removed is not None:
            raise ApprovalError("this passkey is not enrolled here", "sign in with a code and enrol it")
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
        except WebAuthnException as error:
            raise ApprovalError(f"the passkey was not accepted: {error}") from None
        return key, subject, verified.new_sign_count


def evidence(credential: Json) -> Json:
    """The assertion in the form that receipts record: plain base64."""
    response = credential["response"]
    parts = {"signature": "signature", "authenticator_data": "authenticatorData", "client_data": "clientDataJSON"}
    return {
        name: base64.b64encode(helpers.base64url_to_bytes(response[member])).decode() for name, member in parts.items()
    }


def _descriptors(keys: list[ApproverKey]) -> list[PublicKeyCredentialDescriptor]:
    passkeys = [key for key in keys if key.method == "webauthn" and key.removed is None]
    return [PublicKeyCredentialDescriptor(id=helpers.base64url_to_bytes(key.details["credential"])) for key in passkeys]


def _as_json(options: Any) -> Json:
    parsed: Json = json.loads(webauthn.options_to_json(options))
    return parsed
