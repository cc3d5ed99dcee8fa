"""Web push: notifications on the devices of those who may decide (RFC 8030), encrypted for the browser (RFC 8291), with
the guard's own key (RFC 8292).

A browser names the address that messages for it are sent to, so only hosts of known push services are used, by https.
"""

import base64
import hashlib
import json
import os
import re
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from mcp_guard.core import base64url
from mcp_guard.core.model import Json, Micros
from mcp_guard.core.visible_text import shorten
from mcp_guard.ledger.approvals.transitions import ENDED
from mcp_guard.ledger.confirmations import DIFFERED
from mcp_guard.notify.kept import Kept
from mcp_guard.notify.message import Message
from mcp_guard.outbound import DeliveryError, Destination, HttpResponse, as_error, post
from mcp_guard.shared_secret import SharedSecret
from mcp_guard.storage.items import Items

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

KIND = "push"
"""Of its items, and of the notifier."""
SERVICES = (
    "fcm.googleapis.com", "jmt17.google.com", "*.push.services.mozilla.com", "*.push.apple.com", "*.notify.windows.com",
)  # fmt: skip
"""The hosts of the push services of Chrome, Firefox, Safari and Edge."""
MAX_ENDPOINT = 2048
ADDRESS = re.compile(r"https://[A-Za-z0-9.-]+(:[0-9]+)?/[!-~]*")
"""Nothing in it that two parsers could read as different hosts, such as `%00`, a tab or `#` before the path."""
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""SEC 2, §2.4.2."""
POINT_BYTES, AUTH_BYTES, SALT_BYTES, NONCE_BYTES = 65, 16, 16, 12
RECORD_BYTES = 4096
"""What every push service takes (RFC 8291 §4)."""
MAX_TITLE, MAX_BODY = 200, 300
TOPIC_LENGTH = 32
TOKEN_SECONDS = 12 * 3600
"""RFC 8292 §2 allows 24 hours."""
DEFAULT_TTL, TOTAL_SECONDS = 3600, 40
GONE = (404, 410)
"""The subscription does not exist any more (RFC 8030 §7.3)."""
REFUSED = (400, 401, 403)
"""The service does not take the message: our key, our clock, or a subscription that is for another key."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """One browser of a person: where its messages are sent to, and the keys to encrypt them with."""

    endpoint: str
    public: bytes
    auth: bytes

    @property
    def key(self) -> str:
        """Of its item."""
        return hashlib.sha256(self.endpoint.encode()).hexdigest()

    @property
    def audience(self) -> str:
        parts = urlsplit(self.endpoint)
        return f"{parts.scheme}://{parts.netloc}"


def read_subscription(document: Any, services: Collection[str]) -> Subscription:
    """As a browser gives it (`PushSubscription.toJSON`). Raises: ValueError."""
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        endpoint, keys = document["endpoint"], document["keys"]
        public, auth = _decode(keys["p256dh"]), _decode(keys["auth"])
    except (KeyError, TypeError, AttributeError):
        raise ValueError("it is not a push subscription") from None
    check_endpoint(endpoint, services)
    if len(public) != POINT_BYTES or len(auth) != AUTH_BYTES:
        raise ValueError("the keys of the subscription have another length")
    ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), public)
    return Subscription(endpoint, public, auth)


def check_endpoint(endpoint: object, services: Collection[str]) -> None:
    """Raises: ValueError unless it is an address of one of these push services."""
    if not isinstance(endpoint, str) or len(endpoint) > MAX_ENDPOINT or not ADDRESS.fullmatch(endpoint):
        raise ValueError("the address of the push service is not one")
    parts = urlsplit(endpoint)
    host, port = parts.hostname or "", parts.port
    if parts.scheme != "https" or not host or "@" in parts.netloc or "\\" in endpoint:
        raise ValueError("the address of the push service does not begin with https://")
    name = host if port in (None, 443) else f"{host}:{port}"
    if not any(_is_host(name, service) for service in services):
        raise ValueError(f"`{name}` is not a push service of this guard; an operator can add it to `services`")


def services_of(options: Any) -> tuple[str, ...]:
    return (*SERVICES, *options.get("services", ()))


def _is_host(name: str, service: str) -> bool:
    return name.endswith(service[1:]) and name != service[2:] if service.startswith("*.") else name == service


# Subscriptions at rest


def seal(subscription: Subscription, owner: str, secret: SharedSecret) -> bytes:
    """AES-256-GCM (NIST SP 800-38D); the owner is bound, so that one person never gets another's messages."""
    keys = {"p256dh": base64url.encode(subscription.public), "auth": base64url.encode(subscription.auth)}
    nonce, text = os.urandom(NONCE_BYTES), json.dumps({"endpoint": subscription.endpoint, "keys": keys})
    sealed: bytes = _cipher(secret).encrypt(nonce, text.encode(), owner.encode())
    return nonce + sealed


def unseal(sealed: bytes, owner: str, secret: SharedSecret, services: Collection[str]) -> Subscription | None:
    """None if it was sealed with another secret or for somebody else, or its service is no longer known."""
    from cryptography.exceptions import InvalidTag

    try:
        text = _cipher(secret).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], owner.encode())
        return read_subscription(json.loads(text), services)
    except (InvalidTag, ValueError):
        return None


def _cipher(secret: SharedSecret) -> Any:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(secret.derive("push-subscriptions"))


async def forget_devices(items: Items, owner: str, now: Micros) -> int:
    """Have no device of this person notified until they switch it on again; returns how many there were. Whoever had
    their session may have subscribed a device of their own. Raises: LedgerError."""
    devices = await items.find_all(KIND, owner, now)
    for device in devices:
        await items.delete(KIND, device.key)
    return len(devices)


# The guard's key


def vapid_key(secret: SharedSecret) -> "EllipticCurvePrivateKey":
    """The same at all gateways of the ledger (FIPS 186-5, A.2.1: with 256 extra bits)."""
    from cryptography.hazmat.primitives.asymmetric import ec

    bits = int.from_bytes(secret.derive("web-push-1") + secret.derive("web-push-2"))
    return ec.derive_private_key(bits % (P256_ORDER - 1) + 1, ec.SECP256R1())


def vapid_public(secret: SharedSecret) -> str:
    """What browsers call the application server key."""
    return base64url.encode(_point(vapid_key(secret)))


def authorization(secret: SharedSecret, audience: str, contact: str, now: int) -> str:
    """The header of RFC 8292 §3. `now` is in seconds."""
    import jwt

    claims = {"aud": audience, "exp": now + TOKEN_SECONDS, "sub": contact}
    key = vapid_key(secret)
    return f"vapid t={jwt.encode(claims, key, algorithm='ES256')}, k={base64url.encode(_point(key))}"


# Encryption


def encrypt(
    plaintext: bytes,
    subscription: Subscription,
    private: "EllipticCurvePrivateKey | None" = None,
    salt: bytes | None = None,
) -> bytes:
    """One record of `aes128gcm` (RFC 8188 §2) with the keys of RFC 8291 §3.4. `private` and `salt` are random unless
    they are given, as the example of the RFC does."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    private, salt = private or ec.generate_private_key(ec.SECP256R1()), salt or os.urandom(SALT_BYTES)
    public = _point(private)
    peer = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), subscription.public)
    info = b"WebPush: info\0" + subscription.public + public
    keys = HKDF(SHA256(), 32, subscription.auth, info).derive(private.exchange(ec.ECDH(), peer))
    content = HKDF(SHA256(), 16, salt, b"Content-Encoding: aes128gcm\0").derive(keys)
    nonce = HKDF(SHA256(), NONCE_BYTES, salt, b"Content-Encoding: nonce\0").derive(keys)
    header = salt + RECORD_BYTES.to_bytes(4) + len(public).to_bytes() + public
    sealed: bytes = AESGCM(content).encrypt(nonce, plaintext + b"\2", None)
    return header + sealed


def _point(private: "EllipticCurvePrivateKey") -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def _decode(text: str) -> bytes:
    """Raises: ValueError."""
    return base64.b64decode(text.encode() + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)


# Sending


def send(destination: Destination, message: Message, kept: Kept | None) -> None:
    """To every device of those who may decide, once: another attempt is for those that do not have it yet.

    A device that its service refuses is forgotten if the same service takes the message for another one, so that it is
    not our key or our clock. Raises: DeliveryError if one of them may not have got it.
    """
    assert kept is not None
    deadline, received = time.monotonic() + TOTAL_SECONDS, kept.receivers(message.id)
    accepting, problems = set(), []
    failed: list[tuple[str, str, HttpResponse]] = []
    for device, subscription in _devices(destination, message, kept):
        if device in received:
            accepting.add(subscription.audience)
            continue
        try:
            response = _send_to(subscription, destination, message, kept.state.secret, deadline)
        except DeliveryError as error:
            problems.append(error)
            continue
        if response.is_success:
            received.add(device)
            accepting.add(subscription.audience)
        else:
            failed.append((device, subscription.audience, response))
    for device, service, response in failed:
        if response.status in GONE or (response.status in REFUSED and service in accepting):
            kept.delete(KIND, device)
        else:
            problems.append(as_error(response))
    if problems:
        kept.keep_receivers(message.id, received)
        raise problems[0]
    if not received:
        raise DeliveryError("nobody who may decide has switched notifications on, on the page of their keys")


def _devices(destination: Destination, message: Message, kept: Kept) -> list[tuple[str, Subscription]]:
    """The keys and subscriptions of those who may decide; what cannot be used any more is forgotten."""
    devices, services = [], services_of(destination.options)
    for person in message.audience:
        for item in kept.items_of(KIND, person):
            subscription = unseal(item.value, person, kept.state.secret, services)
            if subscription is None:
                kept.delete(KIND, item.key)
            else:
                devices.append((item.key, subscription))
    return devices


def _send_to(
    subscription: Subscription, destination: Destination, message: Message, secret: SharedSecret, deadline: float
) -> HttpResponse:
    if time.monotonic() > deadline:
        raise DeliveryError(f"not every device could be reached within {TOTAL_SECONDS} s")
    lifetime = message.expires - message.at if message.expires else DEFAULT_TTL
    contact = destination.options.get("contact") or _origin(message.link)
    headers = {
        "authorization": authorization(secret, subscription.audience, contact, int(time.time())),
        "content-encoding": "aes128gcm",
        "content-type": "application/octet-stream",
        "ttl": str(max(0, lifetime)),
        "urgency": "low" if message.event == ENDED else "high",
        "topic": base64url.encode(hashlib.sha256(_tag(message).encode()).digest())[:TOPIC_LENGTH],
    }
    return post(subscription.endpoint, encrypt(payload(message), subscription), headers, destination.network)


def payload(message: Message) -> bytes:
    """What the service worker shows: who asks for what, and the path of the page. No arguments: a lock screen shows
    it. Of a request that is over, it changes the notification that is on the screen, without a sound."""
    is_over = message.event == ENDED
    body = "There is nothing left to decide." if is_over else message.caution or "Open it to review and decide."
    if message.event == DIFFERED:
        body = "Open it to see what has changed."
    parts: Json = {"title": shorten(message.title, MAX_TITLE), "body": shorten(body, MAX_BODY)}
    parts |= {"path": urlsplit(message.link).path, "tag": _tag(message)}
    return json.dumps(parts | ({"over": True} if is_over else {})).encode()


def _tag(message: Message) -> str:
    """One notification for each request: a later message about it replaces the earlier one."""
    return message.approval or message.id


def _origin(link: str) -> str:
    parts = urlsplit(link)
    return f"{parts.scheme}://{parts.netloc}"
