"""A time-stamp authority (RFC 3161): it signs that the checkpoint's text existed at a time. Its answer is the evidence.

The time-stamp is over the three lines of the checkpoint without signatures, which any receipt of kind
`checkpoint.witnessed` lets one write down again.
"""

import base64
from datetime import UTC
from pathlib import Path
from types import ModuleType
from typing import Any

from mcp_guard.outbound import Undelivered, exchange
from mcp_guard.witness.submission import Place, Submission, Taken

MOST_BYTES = 32 * 1024
"""Of an answer: an entry of the ledger holds 64 KiB, and base64 takes a third more."""


def send(place: Place, submission: Submission) -> Taken:
    """Raises: Undelivered unless the time-stamp verifies against the configured roots."""
    library, text = _library(), submission.head.text().encode()
    request = library.TimestampRequestBuilder().data(text).hash_algorithm(library.HashAlgorithm.SHA256).build()
    answer = exchange(place.values["url"], request.as_bytes(), {"content-type": "application/timestamp-query"})
    if answer.status != 200 or answer.type != "application/timestamp-reply":
        raise Undelivered(f"it answered HTTP {answer.status} with `{answer.type}`, not with a time-stamp")
    if len(answer.body) > MOST_BYTES:
        raise Undelivered(f"its time-stamp has {len(answer.body):,} bytes, which no receipt holds")
    stamp = verified(library, answer.body, request, text, _roots(place.here / place.values["roots"]))
    at = stamp.tst_info.gen_time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return Taken({"response": base64.b64encode(answer.body).decode(), "time": at})


def verified(library: ModuleType, body: bytes, request: Any, text: bytes, roots: list[Any]) -> Any:
    """The decoded response: granted, of our nonce and text, signed by a certificate for time-stamping under a root.

    Raises: Undelivered.
    """
    builder = library.VerifierBuilder.from_request(request)
    for root in roots:
        builder = builder.add_root_certificate(root)
    try:
        stamp = library.decode_timestamp_response(in_order(body))
        if stamp.status != library.PKIStatus.GRANTED:
            raise Undelivered(f"it refused: {', '.join(stamp.status_string) or f'status {stamp.status}'}")
        builder.build().verify_message(stamp, text)
    except (library.VerificationError, ValueError) as error:
        raise Undelivered(f"its time-stamp does not verify: {error}") from None
    return stamp


def in_order(body: bytes) -> bytes:
    """The response with its certificates in the order that DER asks of a SET (X.690 §11.6).

    Many authorities, OpenSSL's among them, send them leaf first, which the library refuses to read. Certificates are in
    no signed part of the token (RFC 5652 §5.1), so their order proves nothing either way.
    """
    try:
        at = _inside(body, 0)  # TimeStampResp
        at = _inside(body, _after(body, at))  # after its status: ContentInfo
        at = _inside(body, _inside(body, _after(body, at)))  # after its type: [0], SignedData
        for _ in range(3):  # version, digestAlgorithms, encapContentInfo
            at = _after(body, at)
        if body[at] != 0xA0:
            return body
        each, end, certificates = _inside(body, at), _after(body, at), []
        while each < end:
            certificates.append(body[each : _after(body, each)])
            each = _after(body, each)
        return body[: _inside(body, at)] + b"".join(sorted(certificates)) + body[end:]
    except IndexError:
        return body  # the library says what is wrong with it


def _inside(data: bytes, at: int) -> int:
    """Where the content of the DER value that begins here begins."""
    return at + 2 + (data[at + 1] & 0x7F if data[at + 1] & 0x80 else 0)


def _after(data: bytes, at: int) -> int:
    """Where the next one begins."""
    first, inside = data[at + 1], _inside(data, at)
    length = int.from_bytes(data[at + 2 : inside], "big") if first & 0x80 else first
    return inside + length


def _library() -> ModuleType:
    """Raises: Undelivered."""
    try:
        import rfc3161_client
    except ImportError:
        raise Undelivered("the package is not installed: pip install 'mcp-guard[timestamps]'") from None
    return rfc3161_client


def _roots(path: Path) -> list[Any]:
    """Raises: Undelivered."""
    from cryptography.x509 import load_pem_x509_certificates

    try:
        return list(load_pem_x509_certificates(path.read_bytes()))
    except (OSError, ValueError) as error:
        raise Undelivered(f"the root certificates `{path}` cannot be read: {error}") from None
