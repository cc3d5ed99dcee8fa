"""What verifying says: proved, or where it stopped and why."""

from dataclasses import dataclass, field


class Failed(Exception):
    """Something could not be proved."""

    def __init__(self, seq: int | None, problem: str) -> None:
        super().__init__(problem)
        self.seq = seq
        self.problem = problem


class Unusable(Exception):
    """The input is not what it should be, so nothing can be said."""


@dataclass
class Report:
    """What was proved. `failed_at` is the sequence number of the first receipt that could not be (None: the whole)."""

    ok: bool = False
    origin: str = ""
    receipts: int = 0
    root: str = ""
    checkpoint: str = ""
    kinds: dict[str, int] = field(default_factory=dict)
    payloads_checked: int = 0
    payloads_not_kept: int = 0
    calls_without_outcome: int = 0
    approvers_words: int = 0
    approvers_keys_given: bool = False
    failed_at: int | None = None
    problem: str = ""


UNPROVED_KEYS = (
    "not proved: whose the approvers' keys are; the ledger itself says so. Give what you know: --approvers FILE"
)


def describe(report: Report) -> str:
    """The report for a person."""
    if not report.ok:
        where = "the ledger as a whole" if report.failed_at is None else f"receipt {report.failed_at}"
        return f"NOT VERIFIED: {where}: {report.problem}"
    return "\n".join(
        [
            f"verified: {report.receipts} receipts of {report.origin}",
            "  every signature is the guard's; none is missing, changed, inserted or out of order",
            "  every outcome has its intent, every intent its decision, every approval used was granted and used once",
            f"  approvers: {report.approvers_words} words, each signed by the approver's own key",
            f"  payloads: {report.payloads_checked} match their commitments, {report.payloads_not_kept} not kept",
            f"  calls without an outcome: {report.calls_without_outcome}",
            f"  root {report.root}",
            *([] if report.approvers_keys_given or not report.approvers_words else [UNPROVED_KEYS]),
            "not proved: that no later receipt was removed together with its checkpoint; keep this one elsewhere:",
            *(f"  {line}" for line in report.checkpoint.splitlines()),
        ]
    )
