"""Passkeys: enrolling one, signing in with one, and signing a statement with one (WebAuthn, by the `webauthn` package).

A challenge is good once, for a few minutes, for what it was made for. The challenge of a decision is the SHA-256 of the
statement, so the assertion is the approver's signature over it and is kept as such.
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
    """What was asked of passkeys and not answered yet, by challenge."""

    open: dict[bytes, tuple[Micros, str, Any]] = field(default_factory=dict)

    def add(self, challenge: bytes, now: Micros, purpose: str, about: Any = None) -> None:
        for old in [each for each, (at, *_) in self.open.items() if now - at > LIFETIME]:
            del self.open[old]
        if len(self.open) >= MAX_OPEN:
            raise ApprovalError("too many unanswered requests; wait a few minutes")
        self.open[challenge] = (now, purpose, about)

    def take(self, credential: Json, now: Micros, purpose: str) -> tuple[bytes, Any]:
        """The challenge that this answers, once. Raises: ApprovalError."""
        try:
            client = json.loads(helpers.base64url_to_bytes(credential["response"]["clientDataJSON"]))
            challenge = helpers.base64url_to_bytes(client["challenge"])
        except (KeyError, TypeError, ValueError) as error:
            raise ApprovalError(f"that is no answer of a passkey: {type(error).__name__}") from None
        at, meant, about = self.open.pop(challenge, (0, "", None))
        if meant != purpose or now - at > LIFETIME:
            raise ApprovalError("that was asked too long ago, or answered already", "try again")
        return challenge, about


@dataclass(frozen=True, slots=True)
class Passkeys:
    """Passkeys for one page: `origin` is `http://localhost:PORT`, the relying party is its host."""

    origin: str
    challenges: Challenges = field(default_factory=Challenges)
    rp_id: str = "localhost"

    # Enrolling

    def registration(self, approver: str, name: str, known: list[ApproverKey], now: Micros) -> Json:
        """Options for `navigator.credentials.create`."""
        options = webauthn.generate_registration_options(
            rp_id=self.rp_id,
            rp_name="mcp-guard",
            user_name=approver,
            user_display_name=name,
            user_id=hashlib.sha256(approver.encode()).digest(),
            exclude_credentials=_descriptors(known),
            authenticator_selection=AuthenticatorSelectionCriteria(
                resident_key=ResidentKeyRequirement.REQUIRED, user_verification=UserVerificationRequirement.REQUIRED
            ),
        )
        self.challenges.add(options.challenge, now, "enrol", approver)
        return _as_json(options)

    def register(self, credential: Json, approver: str, now: Micros) -> NewKey:
        """The key of a new passkey. Raises: ApprovalError."""
        challenge, about = self.challenges.take(credential, now, "enrol")
        if about != approver:
            raise ApprovalError("that passkey was made for somebody else")
        try:
            made = webauthn.verify_registration_response(
                credential=credential,
                expected_challenge=challenge,
                expected_rp_id=self.rp_id,
                expected_origin=self.origin,
                require_user_verification=True,
            )
        except WebAuthnException as error:
            raise ApprovalError(f"the passkey was not accepted: {error}") from None
        cose = helpers.decode_credential_public_key(made.credential_public_key)
        public = helpers.decoded_public_key_to_cryptography(cose)
        details = {
            "rp_id": self.rp_id,
            "origin": self.origin,
            "credential": helpers.bytes_to_base64url(made.credential_id),
            "cose": base64.b64encode(made.credential_public_key).decode(),
            "count": made.sign_count,
        }
        return NewKey("webauthn", public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo), details)

    # Answering a challenge

    def ask(self, challenge: bytes, keys: list[ApproverKey], now: Micros, purpose: str, about: Any = None) -> Json:
        """Options for `navigator.credentials.get`; without keys, the browser offers what it has for this page."""
        options = webauthn.generate_authentication_options(
            rp_id=self.rp_id,
            challenge=challenge,
            allow_credentials=_descriptors(keys),
            user_verification=UserVerificationRequirement.REQUIRED,
        )
        self.challenges.add(challenge, now, purpose, about)
        return _as_json(options)

    def sign_in_options(self, now: Micros) -> Json:
        return self.ask(secrets.token_bytes(32), [], now, "sign in")

    def answer(
        self, credential: Json, keys: list[ApproverKey], now: Micros, purpose: str
    ) -> tuple[ApproverKey, Any, int]:
        """Whose passkey answered, what the challenge was about, and its new signature count. Raises: ApprovalError."""
        challenge, about = self.challenges.take(credential, now, purpose)
        key = next((each for each in keys if each.details.get("credential") == credential.get("id")), None)
        if key is None or key.removed is not None:
            raise ApprovalError("this passkey is not enrolled here", "sign in with a code, and enrol it")
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
        return key, about, verified.new_sign_count


def evidence(credential: Json) -> Json:
    """An assertion as it stands in a receipt, in plain base64."""
    response = credential["response"]
    parts = {"signature": "signature", "authenticator_data": "authenticatorData", "client_data": "clientDataJSON"}
    return {n: base64.b64encode(helpers.base64url_to_bytes(response[m])).decode() for n, m in parts.items()}


def _descriptors(keys: list[ApproverKey]) -> list[PublicKeyCredentialDescriptor]:
    passkeys = [key for key in keys if key.method == "webauthn" and key.removed is None]
    return [PublicKeyCredentialDescriptor(id=helpers.base64url_to_bytes(key.details["credential"])) for key in passkeys]


def _as_json(options: Any) -> Json:
    parsed: Json = json.loads(webauthn.options_to_json(options))
    return parsed
