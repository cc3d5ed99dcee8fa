"""Whose signature counts when: the guard's keys, from one to the next by the receipts that say so."""

import base64
import binascii
import json
from collections.abc import Callable
from dataclasses import dataclass

from .notes import ED25519, VerifierKey, parse_key
from .report import Failed
from .signatures import Receipt

ROTATED, REPLACED = "key.rotated", "key.replaced"


@dataclass(frozen=True)
class Signer:
    """The key in use, and those that were given: the only ones between which a replacement is believed."""

    key: VerifierKey
    given: tuple[VerifierKey, ...]

    def accepts(self, body: bytes, signature: bytes) -> bool:
        """Whether the receipt is signed by the key in use, or is the replacement of a lost key by its successor."""
        if self.key.verifies(body, signature):
            return True
        if b'"kind":"key.replaced"' not in body:
            return False
        try:
            receipt = json.loads(body)
            return receipt["kind"] == REPLACED and parse_key(receipt["new"]).verifies(body, signature)
        except (ValueError, KeyError, TypeError, AttributeError):
            return False

    def after(self, seq: int, receipt: Receipt) -> "Signer":
        """The signer after a receipt that changes the key. Raises: Failed."""
        try:
            old, new = receipt["old"], parse_key(receipt["new"])
            if new.kind != ED25519 or new.name != self.key.name or new == self.key:
                raise ValueError("the new key is not one for this ledger")
            if old != self.key.line:
                raise ValueError("the old key is not the one in use")
            if not new.verifies(possession(receipt), base64.b64decode(receipt["possession"], validate=True)):
                raise ValueError("the new key did not sign for itself")
            if receipt["kind"] == REPLACED and not {self.key, new} <= set(self.given):
                raise ValueError(
                    f"the old key did not sign; give both keys to believe it: {self.key.line} and {new.line}"
                )
        except (ValueError, KeyError, TypeError, AttributeError, binascii.Error) as error:
            raise Failed(seq, f"the change of the guard's key is not in order: {error}") from None
        return Signer(new, self.given)


def possession(receipt: Receipt) -> bytes:
    """What the new key signs of itself (RFC 8785)."""
    said = {name: receipt[name] for name in ("new", "old", "origin", "seq")} | {"type": "mcp-guard/key-rotation/v1"}
    return json.dumps(said, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def begin(
    first: tuple[bytes, bytes], given: tuple[VerifierKey, ...], hints: Callable[[], list[str]], origin: str
) -> VerifierKey:
    """The key that signed the first receipt: one that was given, or one of which a later given one must come.

    `first` is the document and the signature. Hints are verifier lines that nobody vouches for yet. Raises: Failed.
    """
    for key in given:
        if key.name == origin and key.verifies(*first):
            return key
    for line in hints():
        try:
            key = parse_key(line)
        except ValueError:
            continue
        if key.name == origin and key.kind == ED25519 and key.verifies(*first):
            return key
    raise Failed(0, "its signature is not the guard's")
