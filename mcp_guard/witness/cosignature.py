"""A witness that checks that the ledger only grew, and cosigns its checkpoint (c2sp.org/tlog-witness)."""

import base64
import binascii
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from mcp_guard.core.model import SECOND
from mcp_guard.core.receipt import format_time
from mcp_guard.core.tlog import note
from mcp_guard.outbound import DeliveryError, Destination, HttpResponse, post
from mcp_guard.witness.submission import Acceptance, Contradicted, Submission

if TYPE_CHECKING:
    from mcp_guard.network import Network

SIZE_TYPE = "text/x.tlog.size"
MAX_PROOF_LINES = 63
REASONS = {403: ": it does not trust this ledger's key", 404: ": it does not know this ledger's origin"}


def send(destination: Destination, submission: Submission) -> Acceptance:
    """Raises: DeliveryError, Contradicted."""
    url, network = destination.options["url"], destination.network
    old_size = min(submission.last.size, submission.head.size) if submission.last else 0
    response = _add_checkpoint(url, submission, old_size, network)
    if _is_size_conflict(response) and (witness_size := _read_size(response)) != old_size:
        old_size = witness_size
        response = _add_checkpoint(url, submission, old_size, network)
        if _is_size_conflict(response) and _read_size(response) != old_size:
            raise DeliveryError("the witness received another checkpoint at the same time")
    if response.status in (409, 422):
        raise Contradicted(
            f"the witness has cosigned {old_size:,} receipts that differ from the first {old_size:,} of this ledger"
        )
    if response.status != 200:
        raise DeliveryError(f"the witness answered {response}{REASONS.get(response.status, '')}")
    lines = response.body.decode(errors="replace")
    line, signed_at = find_cosignature(destination.options["key"], submission.head.text(), lines)
    evidence = {"cosignature": line, "time": format_time(signed_at * SECOND), "continues": old_size or None}
    return Acceptance({name: value for name, value in evidence.items() if value}, f"{line}\n")


def _is_size_conflict(response: HttpResponse) -> bool:
    """Whether the witness answered with the size that it holds, because the request named another one."""
    return response.status == 409 and response.content_type == SIZE_TYPE


def _add_checkpoint(url: str, submission: Submission, old_size: int, network: "Network") -> HttpResponse:
    """Raises: Contradicted if the witness has seen more receipts than the ledger has; DeliveryError."""
    proof = [base64.b64encode(hash).decode() for hash in submission.consistency(old_size)]
    assert len(proof) <= MAX_PROOF_LINES
    body = "\n".join([f"old {old_size}", *proof, "", submission.note])
    return post(f"{url.rstrip('/')}/add-checkpoint", body.encode(), {"content-type": "text/plain"}, network)


def _read_size(response: HttpResponse) -> int:
    """Raises: DeliveryError."""
    text = response.body.decode(errors="replace").strip()
    if not text.isdecimal() or len(text) > 19:
        raise DeliveryError("the witness answered with something other than a size")
    return int(text)


def find_cosignature(key: str, text: str, lines: str) -> tuple[str, int]:
    """The witness's cosignature line in its response, and when it signed (Unix seconds).

    It is an Ed25519 signature over `cosignature/v1`, the time and the checkpoint (c2sp.org/tlog-cosignature).

    Raises: DeliveryError if no line verifies with `key`, the witness's verifier line.
    """
    name, id, public = note.parse_verifier(key, note.COSIGNATURE)
    for line in lines.splitlines():
        dash, _, rest = line.partition(" ")
        signer, _, encoded = rest.partition(" ")
        try:
            raw = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            continue
        if (dash, signer, raw[:4]) != ("—", name, id) or len(raw) != 76:
            continue
        at = int.from_bytes(raw[4:12], "big")
        try:
            Ed25519PublicKey.from_public_bytes(public).verify(raw[12:], f"cosignature/v1\ntime {at}\n{text}".encode())
        except InvalidSignature:
            break
        return line, at
    raise DeliveryError(f"the response contains no valid cosignature by `{name}`")
