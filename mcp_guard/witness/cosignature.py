"""A witness that checks that the ledger only grew, and cosigns: the protocol of c2sp.org/tlog-witness."""

import base64
import binascii

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from mcp_guard.core.receipt import format_time
from mcp_guard.core.tlog import note
from mcp_guard.outbound import Answer, Undelivered, exchange
from mcp_guard.witness.submission import Contradicted, Place, Submission, Taken

SIZE_TYPE = "text/x.tlog.size"
MOST_PROOF_LINES = 63


def send(place: Place, submission: Submission) -> Taken:
    """Raises: Undelivered, Contradicted."""
    old = min(submission.last.size, submission.head.size) if submission.last else 0
    answer = _add_checkpoint(place.values["url"], submission, old)
    if answer.status == 409 and answer.type == SIZE_TYPE and (seen := _size(answer)) != old:
        old = seen
        answer = _add_checkpoint(place.values["url"], submission, old)
        if answer.status == 409 and answer.type == SIZE_TYPE and _size(answer) != old:
            raise Undelivered("it was sent another checkpoint meanwhile")
    if answer.status in (409, 422):
        raise Contradicted(f"it has cosigned {old:,} receipts that are not the first {old:,} of this ledger")
    if answer.status != 200:
        unknown = {403: ": it does not trust this ledger's key", 404: ": it does not know this ledger's origin"}
        raise Undelivered(f"it answered HTTP {answer.status}{unknown.get(answer.status, '')}")
    line, at = cosignature(place.values["key"], submission.head.text(), answer.body.decode(errors="replace"))
    evidence = {"cosignature": line, "time": format_time(at * 1_000_000), "continues": old or None}
    return Taken({name: value for name, value in evidence.items() if value}, f"{line}\n")


def _add_checkpoint(url: str, submission: Submission, old: int) -> Answer:
    """Raises: Contradicted if the witness has seen more than there is; Undelivered."""
    proof = [base64.b64encode(hash).decode() for hash in submission.consistency(old)]
    assert len(proof) <= MOST_PROOF_LINES
    body = "\n".join([f"old {old}", *proof, "", submission.note])
    return exchange(f"{url.rstrip('/')}/add-checkpoint", body.encode(), {"content-type": "text/plain"})


def _size(answer: Answer) -> int:
    """Raises: Undelivered."""
    text = answer.body.decode(errors="replace").strip()
    if not text.isdecimal() or len(text) > 19:
        raise Undelivered("it answered with no size")
    return int(text)


def cosignature(key: str, text: str, lines: str) -> tuple[str, int]:
    """The witness's own line among those that it answered, and when it signed (Unix seconds).

    It is an Ed25519 signature over `cosignature/v1`, the time and the checkpoint (c2sp.org/tlog-cosignature).

    Raises: Undelivered if there is none that verifies.
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
    raise Undelivered(f"its answer holds no cosignature by `{name}` that verifies")
