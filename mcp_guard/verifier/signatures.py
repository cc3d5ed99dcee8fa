"""Approvers' signatures: what they are over, and whether they are theirs. Asked when a vote is cast, and ever after."""

import base64
import binascii
import hashlib
import json
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

Receipt = dict[str, Any]
SIGNED = ("origin", "approval", "request_hash", "decision_hash", "verdict", "approver", "rationale", "at")
PAYLOADS = ("request", "facts", "material", "response", "subject")
"""Names of the payloads that a receipt can commit to, in the order of their columns."""
USER_PRESENT_AND_VERIFIED = 0x05


def statement(receipt: Receipt) -> bytes:
    """What an approver signed, rebuilt from the receipt that records their word (RFC 8785: text and integers only)."""
    said = {name: receipt[name] for name in SIGNED} | {"type": "mcp-guard/approval/v1"}
    if receipt.get("terms"):
        said["terms"] = receipt["terms"]
    return json.dumps(said, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def voucher(receipt: Receipt) -> bytes:
    """What an approver's old key signed of the new one that is enrolled here."""
    said = {name: receipt[name] for name in ("origin", "approver", "key", "method", "public")}
    said["type"] = "mcp-guard/approver-key/v1"
    return json.dumps(said, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def check_signature(method: str, public: str, details: Receipt, text: bytes, signature: Receipt) -> None:
    """Check an approver's signature. A passkey signs a challenge, which must be the SHA-256 of the statement
    (WebAuthn level 3, §7.2). Raises: ValueError."""
    try:
        raw, signed = base64.b64decode(public, validate=True), _decode(signature, "signature")
        if method == "ed25519":
            Ed25519PublicKey.from_public_bytes(raw).verify(signed, text)
        elif method == "webauthn":
            _check_assertion(raw, details, text, signature)
        else:
            raise ValueError(f"unknown method `{method}`")
    except (InvalidSignature, KeyError, TypeError, binascii.Error) as error:
        raise ValueError(f"it does not fit the statement and the key ({type(error).__name__})") from None


def _decode(signature: Receipt, name: str) -> bytes:
    return base64.b64decode(signature[name], validate=True)


def _check_assertion(public: bytes, details: Receipt, text: bytes, signature: Receipt) -> None:
    client, authenticator = _decode(signature, "client_data"), _decode(signature, "authenticator_data")
    said = json.loads(client)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(text).digest()).rstrip(b"=").decode()
    if said.get("type") != "webauthn.get" or said.get("challenge") != challenge:
        raise ValueError("the passkey signed another statement")
    if said.get("origin") != details["origin"] or said.get("crossOrigin"):
        raise ValueError(f"the passkey signed for another page, `{said.get('origin')}`")
    if authenticator[:32] != hashlib.sha256(details["rp_id"].encode()).digest():
        raise ValueError("the passkey signed for another relying party")
    if authenticator[32] & USER_PRESENT_AND_VERIFIED != USER_PRESENT_AND_VERIFIED:
        raise ValueError("the passkey did not verify its user")
    key, signed = load_der_public_key(public), _decode(signature, "signature")
    message = authenticator + hashlib.sha256(client).digest()
    if isinstance(key, ec.EllipticCurvePublicKey):
        key.verify(signed, message, ec.ECDSA(hashes.SHA256()))
    elif isinstance(key, rsa.RSAPublicKey):
        key.verify(signed, message, padding.PKCS1v15(), hashes.SHA256())
    elif isinstance(key, Ed25519PublicKey):
        key.verify(signed, message)
    else:
        raise ValueError("a passkey of an unknown kind")
