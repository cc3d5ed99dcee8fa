"""The report of a verification: what is proved and what is not, sentence by sentence, or where it stopped and why.

The sentences are explained in docs/reference/verify.md.
"""

from dataclasses import dataclass, field


class VerificationFailed(Exception):
    """Something could not be proved: receipt `seq`, or the ledger as a whole if `seq` is None."""

    def __init__(self, seq: int | None, problem: str) -> None:
        super().__init__(problem)
        self.seq = seq
        self.problem = problem


class UnusableInput(Exception):
    """Nothing can be said about the input: it cannot be read, or the options do not fit it."""


@dataclass
class ReportItem:
    """One sentence of the report. `check` is the name of the check in docs/reference/verify.md."""

    check: str
    says: str


@dataclass
class Report:
    """The result of a verification; also the shape of the JSON report.

    `failed_at` is the sequence number of the first receipt that could not be proved (None: the whole). `scope` is
    `ledger`, `export`, `range`, `receipt` or `bundle`; `first` and `last` are the receipts that were verified.
    """

    ok: bool = False
    scope: str = "ledger"
    origin: str = ""
    first: int = 0
    last: int = -1
    receipts: int = 0
    root: str = ""
    checkpoint: str = ""
    kinds: dict[str, int] = field(default_factory=dict)
    keys: list[dict[str, object]] = field(default_factory=list)
    """The guard's keys: `key` (verifier line), `since` (the first receipt it signs), `by` (why it is accepted)."""
    payloads_checked: int = 0
    payloads_not_kept: int = 0
    payloads_erased: int = 0
    calls_without_outcome: int = 0
    approvers_words: int = 0
    approvers_keys_given: bool = False
    self_approvals: int = 0
    """Approvals in which, on some route, nobody but the agent's owner or user has approved."""
    policies: int = 0
    against: list[int] = field(default_factory=list)
    """Sizes of the earlier checkpoints that the tree continues."""
    witnesses: list[dict[str, object]] = field(default_factory=list)
    proved: list[ReportItem] = field(default_factory=list)
    not_proved: list[ReportItem] = field(default_factory=list)
    receipt: dict[str, object] | None = None
    """The receipt itself, if only one was verified."""
    failed_at: int | None = None
    problem: str = ""

    def prove(self, check: str, says: str) -> None:
        self.proved.append(ReportItem(check, says))

    def leave_open(self, check: str, says: str) -> None:
        self.not_proved.append(ReportItem(check, says))


GIVEN = "given"
"""In `keys`, why a key is accepted that was given to the verifier; any other reason is a sentence."""
NOUNS = {"ledger": "the ledger", "export": "the export", "range": "the range", "receipt": "the receipt"}


def describe(report: Report) -> str:
    """The report as text. What the input contains is visible in it, and adds no line."""
    if not report.ok:
        whole = NOUNS.get(report.scope, "the bundle") + " as a whole"
        where = whole if report.failed_at is None else f"receipt {report.failed_at}"
        return visible(f"NOT VERIFIED: {where}: {report.problem}")
    lines = [f"verified: {_subject(report)} of {report.origin}"]
    lines += [f"  {item.says}" for item in report.proved]
    lines += [f"  root {report.root}"]
    lines += [f"not proved: {item.says}" for item in report.not_proved]
    checkpoint = report.checkpoint.removesuffix("\n").split("\n")
    return "\n".join([*map(visible, lines), *(f"  {visible(line)}" for line in checkpoint)])


def visible(text: object) -> str:
    r"""The text for a terminal: everything but printable ASCII, and the dash of signature lines, as `\u{…}`.

    The backslash of a `\u{` in the text itself is escaped too, so two different texts never look the same.
    """
    escaped = str(text).replace("\\u{", "\\u{5c}u{")
    return "".join(c if " " <= c <= "~" or c == "—" else f"\\u{{{ord(c):x}}}" for c in escaped)


def _subject(report: Report) -> str:
    if report.scope in ("receipt", "bundle"):
        return f"receipt {report.first}"
    if report.scope == "range":
        return f"receipts {report.first} to {report.last}"
    return f"{report.receipts} receipts"


def count(number: int, noun: str) -> str:
    """`1 receipt`, `2 receipts`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def conclude_full(report: Report, has_payloads: bool, has_earlier_checkpoints: bool) -> None:
    """Add the sentences for a whole ledger or export."""
    report.prove("signatures", "every receipt is signed by the guard's key that was in use at the time")
    _conclude_keys(report)
    report.prove("order", "no receipt is missing, changed, inserted or out of order")
    report.prove("tree", "every receipt is a leaf of the tree in the signed checkpoint, and all stored hashes match")
    report.prove(
        "links",
        "every outcome has its intent, every intent its decision; every approval used was granted, and used once",
    )
    if report.approvers_words:
        votes = count(report.approvers_words, "vote")
        report.prove("approvers", f"approvers: {votes}, each signed with the approver's own key")
    _conclude_policies(report)
    if has_payloads:
        erased = f", {report.payloads_erased} erased and recorded as erased" if report.payloads_erased else ""
        report.prove("payloads", f"payloads: {_payload_counts(report)}{erased}")
        if report.payloads_not_kept or report.payloads_erased:
            report.leave_open("payloads", "the content of payloads that are not kept")
    else:
        report.leave_open("payloads", "the content of requests and responses: this export has no payloads")
    if witnessed := report.kinds.get("checkpoint.witnessed"):
        report.prove("witnessed", f"checkpoints recorded as witnessed: {witnessed}, each of this tree")
    if report.calls_without_outcome:
        report.leave_open("outcomes", f"the result of {count(report.calls_without_outcome, 'call')} without an outcome")
    if report.approvers_words and not report.approvers_keys_given:
        report.leave_open(
            "approvers",
            "who owns the approvers' keys: only the ledger itself says so. Give the keys you know: --approvers FILE",
        )
    if report.self_approvals:
        own = count(report.self_approvals, "approval")
        report.leave_open(
            "self_approval", f"that a second person approved: {own} by the agent's owner or its user alone"
        )
    _conclude_truncation(report, has_earlier_checkpoints)


def conclude_range(report: Report, has_payloads: bool, has_earlier_checkpoints: bool) -> None:
    """Add the sentences for a range, or for one receipt of a ledger or export."""
    is_single = report.first == report.last
    subject = "the receipt" if is_single else "every receipt"
    report.prove("signatures", f"{subject} is signed by the guard's key that was in use at the time")
    if not is_single:
        report.prove("order", "no receipt of the range is missing, changed, inserted or out of order")
    report.prove("tree", f"{subject} is a leaf of the tree in the signed checkpoint, at its place")
    _conclude_policies(report)
    if has_payloads:
        erased = f", {report.payloads_erased} missing" if report.payloads_erased else ""
        report.prove("payloads", f"payloads: {_payload_counts(report)}{erased}")
    _conclude_neighbours(report)
    _conclude_truncation(report, has_earlier_checkpoints)


def conclude_bundle(report: Report, has_earlier_checkpoints: bool) -> None:
    """Add the sentences for a bundle, which is verified without its ledger."""
    report.prove("signatures", "the receipt is signed by one of the given keys")
    report.prove("tree", f"it is receipt {report.first} of the tree in the signed checkpoint")
    if report.payloads_checked:
        report.prove("payloads", f"payloads: {report.payloads_checked} match their commitments")
    report.leave_open("keys", "that this key was in use at the time; verify the whole ledger for that")
    _conclude_neighbours(report)
    _conclude_truncation(report, has_earlier_checkpoints)


def _conclude_keys(report: Report) -> None:
    first, *later = report.keys
    if first["by"] != GIVEN:
        report.prove("keys", f"the first key is {first['key']}: {first['by']}")
    for key in later:
        report.prove("keys", f"from receipt {key['since']} on, the key is {key['key']}: {key['by']}")


def _conclude_policies(report: Report) -> None:
    if report.policies:
        versions = count(report.policies, "version")
        report.prove("policies", f"policies: {versions} referenced, the text of each is stored")


def _payload_counts(report: Report) -> str:
    return f"{report.payloads_checked} match their commitments, {report.payloads_not_kept} not kept"


def _conclude_neighbours(report: Report) -> None:
    report.leave_open("links", "consistency with neighbouring receipts; verify the whole ledger for that")


def _conclude_truncation(report: Report, has_earlier_checkpoints: bool) -> None:
    """No ledger can prove this alone. The checkpoint is printed after this sentence."""
    since = " after the given checkpoints" if has_earlier_checkpoints else ""
    report.leave_open(
        "truncation",
        f"that no later receipts{since} were removed together with their checkpoint; keep this checkpoint elsewhere:",
    )
