"""A time-stamp authority (RFC 3161) signs that the checkpoint's text existed at a time. Its response is the evidence.

The time-stamp covers the three lines of the checkpoint without signatures. Anyone can restore them from the receipt of
kind `checkpoint.witnessed`.
"""

import base64
from datetime import UTC
from pathlib import Path
from types import ModuleType
from typing import Any

from mcp_guard.extras import lacks
from mcp_guard.outbound import DeliveryError, Destination, post
from mcp_guard.witness.submission import Acceptance, Submission

MAX_RESPONSE_BYTES = 32 * 1024
"""An entry of the ledger holds 64 KiB, and base64 adds a third."""


def send(destination: Destination, submission: Submission) -> Acceptance:
    """Raises: DeliveryError unless the time-stamp verifies against the configured roots."""
    library, text = _load_library(), submission.head.text().encode()
    request = library.TimestampRequestBuilder().data(text).hash_algorithm(library.HashAlgorithm.SHA256).build()
    headers = {"content-type": "application/timestamp-query"}
    response = post(destination.options["url"], request.as_bytes(), headers, destination.network)
    if response.status != 200 or response.content_type != "application/timestamp-reply":
        raise DeliveryError(f"the authority answered {response} with `{response.content_type}`, not with a time-stamp")
    if len(response.body) > MAX_RESPONSE_BYTES:
        raise DeliveryError(f"the time-stamp has {len(response.body):,} bytes, too many for a receipt")
    roots = _read_roots(destination.base_dir / destination.options["roots"])
    stamp = verify_timestamp(library, response.body, request, text, roots)
    at = stamp.tst_info.gen_time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return Acceptance({"response": base64.b64encode(response.body).decode(), "time": at})


def verify_timestamp(library: ModuleType, body: bytes, request: Any, text: bytes, roots: list[Any]) -> Any:
    """The decoded response. It is granted, covers our nonce and text, and is signed by a time-stamping certificate
    under one of the roots.

    Raises: DeliveryError.
    """
    builder = library.VerifierBuilder.from_request(request)
    for root in roots:
        builder = builder.add_root_certificate(root)
    try:
        stamp = library.decode_timestamp_response(with_sorted_certificates(body))
        if stamp.status != library.PKIStatus.GRANTED:
            reason = ", ".join(stamp.status_string) or f"status {stamp.status}"
            raise DeliveryError(f"the authority refused the request: {reason}")
        builder.build().verify_message(stamp, text)
    except (library.VerificationError, ValueError) as error:
        raise DeliveryError(f"the time-stamp does not verify: {error}") from None
    return stamp


def with_sorted_certificates(body: bytes) -> bytes:
    """The response with its certificates in the order that DER requires of a SET (X.690 §11.6).

    Many authorities, among them OpenSSL's, send the leaf first, which the library refuses to read. The certificates are
    not in a signed part of the token (RFC 5652 §5.1), so their order proves nothing.
    """
    try:
        at = _content_start(body, 0)  # TimeStampResp
        at = _content_start(body, _value_end(body, at))  # after its status: ContentInfo
        at = _content_start(body, _content_start(body, _value_end(body, at)))  # after its type: [0], SignedData
        for _ in range(3):  # version, digestAlgorithms, encapContentInfo
            at = _value_end(body, at)
        if body[at] != 0xA0:
            return body
        start, end, certificates = _content_start(body, at), _value_end(body, at), []
        while start < end:
            certificates.append(body[start : _value_end(body, start)])
            start = _value_end(body, start)
        return body[: _content_start(body, at)] + b"".join(sorted(certificates)) + body[end:]
    except IndexError:
        return body  # the library reports what is wrong with it


def _content_start(data: bytes, at: int) -> int:
    """The offset of the content of the DER value that begins at `at`."""
    return at + 2 + (data[at + 1] & 0x7F if data[at + 1] & 0x80 else 0)


def _value_end(data: bytes, at: int) -> int:
    """The offset behind the DER value that begins at `at`."""
    first, start = data[at + 1], _content_start(data, at)
    length = int.from_bytes(data[at + 2 : start], "big") if first & 0x80 else first
    return start + length


def _load_library() -> ModuleType:
    """Raises: DeliveryError."""
    try:
        import rfc3161_client
    except ImportError as error:
        missing = lacks("a witness of the kind `rfc3161`", "timestamps", error)
        raise DeliveryError(f"{missing.what}; {missing.hint}") from None
    return rfc3161_client


def _read_roots(path: Path) -> list[Any]:
    """Raises: DeliveryError."""
    from cryptography.x509 import load_pem_x509_certificates

    try:
        return list(load_pem_x509_certificates(path.read_bytes()))
    except (OSError, ValueError) as error:
        raise DeliveryError(f"cannot read the root certificates `{path}`: {error}") from None
