"""A signed webhook, as standardwebhooks.com has it: HMAC-SHA256 over `id.timestamp.body`."""

import base64
import binascii
import hashlib
import hmac
import json

from mcp_guard.notify.http import post
from mcp_guard.notify.message import Message, Options, Undelivered


def send(options: Options, message: Message) -> None:
    """Raises: Undelivered."""
    body = json.dumps({"type": f"approval.{message.event}", "timestamp": message.at, "data": message.data}).encode()
    signed = f"{message.id}.{message.at}.".encode() + body
    signature = hmac.new(_key(options.secret("secret")), signed, hashlib.sha256).digest()
    headers = {
        "webhook-id": message.id,
        "webhook-timestamp": str(message.at),
        "webhook-signature": f"v1,{base64.b64encode(signature).decode()}",
    }
    post(options.values["url"], body, headers)


def _key(secret: str) -> bytes:
    try:
        return base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except binascii.Error:
        raise Undelivered("its secret is not `whsec_` and base64") from None
