"""A signed webhook, as standardwebhooks.com has it: HMAC-SHA256 over `id.timestamp.body`."""

import base64
import binascii
import hashlib
import hmac
import json

from mcp_guard.notify.message import Message
from mcp_guard.outbound import Options, Undelivered, post


def send(options: Options, message: Message) -> None:
    """Raises: Undelivered."""
    body = json.dumps({"type": f"approval.{message.event}", "timestamp": message.at, "data": message.data}).encode()
    post(options.values["url"], body, signature_headers(options.secret("secret"), message.id, message.at, body))


def signature_headers(secret: str, id: str, at: int, body: bytes) -> dict[str, str]:
    """`at` in Unix seconds. Raises: Undelivered if the secret is none."""
    signed = f"{id}.{at}.".encode() + body
    signature = hmac.new(_key(secret), signed, hashlib.sha256).digest()
    return {
        "webhook-id": id,
        "webhook-timestamp": str(at),
        "webhook-signature": f"v1,{base64.b64encode(signature).decode()}",
    }


def _key(secret: str) -> bytes:
    try:
        return base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except binascii.Error:
        raise Undelivered("its secret is not `whsec_` and base64") from None
