"""Verifies one bundle: a receipt, its inclusion proof and its checkpoint, without the ledger that they are from."""

import base64
from collections.abc import Iterator
from pathlib import Path

from .bundle import FORM, Bundle, parse_bundle
from .checkpoints import Requirements, check_head, check_requirements, check_witnesses
from .conclusions import conclude_bundle
from .consistency import ConsistencyChecker
from .files import MAX_BUNDLE, parse_json, read_limited
from .notes import signers
from .receipts import check_chunk
from .report import Report, UnusableInput, VerificationFailed
from .signatures import PAYLOADS
from .sources import Row, TreeEnd


def verify_bundle(path: Path, requirements: Requirements) -> Report:
    """Raises: UnusableInput if the file is not a bundle."""
    check_requirements(requirements)
    try:
        text = read_limited(path, MAX_BUNDLE)
        if parse_json(text)["form"] != FORM:
            raise ValueError(f"`form` is not `{FORM}`")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UnusableInput(f"`{path}` is not a ledger, an export or a bundle: {error}") from None
    report = Report(scope="bundle", origin=requirements.origin, key_is_beside=requirements.key_is_beside)
    try:
        _verify(text, requirements, report)
    except ValueError as error:
        report.problem = str(error)
        return report
    except VerificationFailed as failure:
        report.failed_at, report.problem = failure.seq, failure.problem
        return report
    report.ok = True
    return report


def _verify(text: bytes, requirements: Requirements, report: Report) -> None:
    """Raises: VerificationFailed, ValueError, UnusableInput."""
    bundle = parse_bundle(text)
    report.first = report.last = report.failed_at = bundle.seq
    bundle.check_inclusion()
    key = next((key for key in requirements.keys if key.verifies(bundle.body, bundle.signature)), None)
    if key is None:
        raise VerificationFailed(bundle.seq, "not signed by any of the given keys")
    given = tuple(given.line for given in requirements.keys)
    result = check_chunk(_BundleReader(bundle), (bundle.seq, bundle.seq + 1, key.line, given))
    if result.failure is not None:
        raise VerificationFailed(*result.failure)
    consistency = ConsistencyChecker(requirements.approvers, is_part=True, first=bundle.seq)
    for seq, item in result.items:
        if item["kind"] == "approver.enrolled" and "authorized_by" not in item:
            continue  # in format 4, nothing said who permitted it; the whole ledger shows whether it is of format 4
        consistency.check_part(seq, item)
    head = bundle.checkpoint
    check_head(head, head.size, head.root, tuple(signers(head, requirements.keys)) or requirements.keys)
    check_witnesses(requirements, (head,), report)
    _check_against(requirements, bundle, report)
    report.failed_at, report.receipts, report.kinds = None, 1, result.kinds
    report.receipt, report.checkpoint = parse_json(bundle.body), head.note
    report.root, report.payloads_checked = base64.b64encode(head.root).decode(), result.payloads_checked
    report.last_time = result.last_time
    report.approvers_keys_given = requirements.approvers is not None
    consistency.self_approvals.report(report)
    consistency.reported.report(report)
    report.drills = consistency.drills
    conclude_bundle(report)


def _check_against(requirements: Requirements, bundle: Bundle, report: Report) -> None:
    """Without the tree, only checkpoints of the same size can be compared.

    Raises: VerificationFailed, UnusableInput.
    """
    for checkpoint in requirements.against:
        if checkpoint.size != bundle.checkpoint.size:
            raise UnusableInput(
                "a bundle can be compared only with a checkpoint of the same size; verify the ledger or an export"
            )
        if not signers(checkpoint, requirements.keys):
            raise UnusableInput("the checkpoint given with --against is not signed by any of the given keys")
        if checkpoint.root != bundle.checkpoint.root:
            raise VerificationFailed(None, f"split view: two trees of {checkpoint.size} receipts were signed")
        report.against.append(checkpoint.size)


class _BundleReader:
    """A `SourceReader` of the one receipt of a bundle."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    def rows(self, first: int, stop: int) -> Iterator[Row]:
        bundle = self.bundle
        payloads = tuple(bundle.payloads.get(name) for name in PAYLOADS)
        yield Row(bundle.seq, None, bundle.body, bundle.signature, bundle.leaf, payloads)

    def snapshot(self) -> str:
        return ""

    def size(self) -> int:
        return 1

    def checkpoint(self) -> str:
        return self.bundle.checkpoint.note

    def stored(self, level: int, first: int, stop: int) -> list[bytes] | None:
        return None

    def first_with_payload(self, first: int, last: int) -> int | None:
        return None

    def policy(self, version: str) -> bytes | None:
        return None

    def key_receipts(self) -> list[int]:
        return []

    def format_4_end(self) -> int:
        return 0

    def key_hints(self) -> list[str]:
        return []

    def strays(self, end: TreeEnd) -> tuple[int | None, str] | None:
        return None

    def check_file(self) -> str | None:
        return None

    def close(self) -> None: ...
