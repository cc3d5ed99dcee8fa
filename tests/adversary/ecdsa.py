"""Rewrites an ES256 signature without its key: (r, s) and (r, n-s) are both valid."""

import base64

N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""The order of P-256 (SEC 2 §2.4.2)."""


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def twin(token: str) -> str:
    """The same token with another valid signature."""
    header, claims, signature = token.split(".")
    raw = base64.urlsafe_b64decode(signature + "==")
    s = N - int.from_bytes(raw[32:], "big")
    return f"{header}.{claims}.{b64(raw[:32] + s.to_bytes(32, 'big'))}"
