"""Approvers' signatures: the statements that they sign, and whether a signature verifies.

Used when a vote is cast, and in every later verification.
"""

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

from .files import decode_base64, parse_json

Receipt = dict[str, Any]
SIGNED = (
    "origin", "approval", "request_hash", "decision_hash", "verdict", "approver", "name", "rationale", "at", "rules",
    "expires", "commitment",
)  # fmt: skip
"""Members of every statement."""
SIGNED_4 = (*SIGNED[:6], "rationale", "at")
"""Members of a statement in a ledger of format 4, which says what it is about by its hashes only."""
ABOUT = (
    "agent", "owner", "instance", "on_behalf_of", "user_issuer", "upstream", "tool", "definition", "resource", "verb",
    "ticket", "reason", "claimed", "policy_version",
)  # fmt: skip
"""Members of a statement that the receipt of the request and the intent have as well, or lack as well."""
SIGNED_IF_PRESENT = (*ABOUT, "resource_argument", "terms", "signed_in")
PAYLOADS = ("request", "facts", "material", "response", "subject")
"""Names of the payloads that a receipt can commit to, in the order of their columns."""
USER_PRESENT_AND_VERIFIED = 0x05


def statement(receipt: Receipt) -> bytes:
    """The statement that an approver signed, rebuilt from the receipt of the vote (RFC 8785; text, lists, integers)."""
    if "commitment" not in receipt:
        signed = {name: receipt[name] for name in SIGNED_4} | {"type": "mcp-guard/approval/v1"}
        if receipt.get("terms"):
            signed["terms"] = receipt["terms"]
    else:
        signed = {name: receipt[name] for name in SIGNED} | {"type": "mcp-guard/approval/v2"}
        signed |= {name: receipt[name] for name in SIGNED_IF_PRESENT if receipt.get(name) is not None}
    return json.dumps(signed, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def voucher(receipt: Receipt) -> bytes:
    """The text that an approver's old key signed about the new key that this receipt enrols."""
    signed = {name: receipt[name] for name in ("origin", "approver", "key", "method", "public")}
    signed["type"] = "mcp-guard/approver-key/v1"
    return json.dumps(signed, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def check_signature(method: str, public: str, details: Receipt, text: bytes, signature: Receipt) -> None:
    """Check an approver's signature over `text`.

    A passkey signs a challenge, which must be the SHA-256 of the text (WebAuthn level 3, §7.2).

    Raises: ValueError.
    """
    try:
        raw, signed = decode_base64(public), _decode(signature, "signature")
        if method == "ed25519":
            Ed25519PublicKey.from_public_bytes(raw).verify(signed, text)
        elif method == "webauthn":
            _check_assertion(raw, details, text, signature)
        else:
            raise ValueError(f"unknown method `{method}`")
    except (InvalidSignature, KeyError, TypeError, binascii.Error) as error:
        raise ValueError(f"the signature does not match the statement and the key ({type(error).__name__})") from None


def _decode(signature: Receipt, name: str) -> bytes:
    return decode_base64(signature[name])


def _check_assertion(public: bytes, details: Receipt, text: bytes, signature: Receipt) -> None:
    client_data, authenticator_data = _decode(signature, "client_data"), _decode(signature, "authenticator_data")
    client = parse_json(client_data)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(text).digest()).rstrip(b"=").decode()
    if client.get("type") != "webauthn.get" or client.get("challenge") != challenge:
        raise ValueError("the passkey signed another statement")
    if client.get("origin") != details["origin"] or client.get("crossOrigin"):
        raise ValueError(f"the passkey signed for another page, `{client.get('origin')}`")
    if authenticator_data[:32] != hashlib.sha256(details["rp_id"].encode()).digest():
        raise ValueError("the passkey signed for another relying party")
    if authenticator_data[32] & USER_PRESENT_AND_VERIFIED != USER_PRESENT_AND_VERIFIED:
        raise ValueError("the passkey did not verify its user")
    key, signed = load_der_public_key(public), _decode(signature, "signature")
    message = authenticator_data + hashlib.sha256(client_data).digest()
    if isinstance(key, ec.EllipticCurvePublicKey):
        key.verify(signed, message, ec.ECDSA(hashes.SHA256()))
    elif isinstance(key, rsa.RSAPublicKey):
        key.verify(signed, message, padding.PKCS1v15(), hashes.SHA256())
    elif isinstance(key, Ed25519PublicKey):
        key.verify(signed, message)
    else:
        raise ValueError("the passkey's key is of an unsupported type")
