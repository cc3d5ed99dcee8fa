"""A signed webhook (standardwebhooks.com): HMAC-SHA256 over `id.timestamp.body`."""

import base64
import binascii
import hashlib
import hmac

from mcp_guard.core.visible_text import visible_json
from mcp_guard.notify.message import Message
from mcp_guard.outbound import DeliveryError, Destination, post_json


def send(destination: Destination, message: Message) -> None:
    """Raises: DeliveryError."""
    body = visible_json({"type": message.type, "timestamp": message.at, "data": message.data}).encode()
    headers = signature_headers(destination.secret("secret"), message.id, message.at, body)
    post_json(destination.options["url"], body, headers, destination.network)


def signature_headers(secret: str, id: str, at: int, body: bytes) -> dict[str, str]:
    """The three `webhook-` headers; `at` is in Unix seconds. Raises: DeliveryError for a malformed secret."""
    signed = f"{id}.{at}.".encode() + body
    signature = hmac.new(_decode_key(secret), signed, hashlib.sha256).digest()
    return {
        "webhook-id": id,
        "webhook-timestamp": str(at),
        "webhook-signature": f"v1,{base64.b64encode(signature).decode()}",
    }


def _decode_key(secret: str) -> bytes:
    try:
        return base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except binascii.Error:
        raise DeliveryError("the secret is not base64, with or without the prefix `whsec_`") from None
