"""What verifying says: what is proved, sentence by sentence, and what is not; or where it stopped and why."""

from dataclasses import dataclass, field


class VerificationFailed(Exception):
    """Something could not be proved."""

    def __init__(self, seq: int | None, problem: str) -> None:
        super().__init__(problem)
        self.seq = seq
        self.problem = problem


class UnusableInput(Exception):
    """The input is not what it should be, so nothing can be said."""


@dataclass
class ReportItem:
    """One thing that is proved, or is not; `check` is its name in docs/reference/verify.md."""

    check: str
    says: str


@dataclass
class Report:
    """`failed_at` is the sequence number of the first receipt that could not be proved (None: the whole).

    `scope` is `ledger`, `export`, `range`, `receipt` or `bundle`; `first` and `last` are the receipts looked at.
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
    """The guard's keys: `key` (verifier line), `since` (the first receipt that it signs), `by` (why it is believed)."""
    payloads_checked: int = 0
    payloads_not_kept: int = 0
    payloads_erased: int = 0
    calls_without_outcome: int = 0
    approvers_words: int = 0
    approvers_keys_given: bool = False
    policies: int = 0
    against: list[int] = field(default_factory=list)
    """Sizes of the checkpoints that it was held against."""
    witnesses: list[dict[str, object]] = field(default_factory=list)
    proved: list[ReportItem] = field(default_factory=list)
    not_proved: list[ReportItem] = field(default_factory=list)
    receipt: dict[str, object] | None = None
    """Of one receipt: what it says."""
    failed_at: int | None = None
    problem: str = ""

    def prove(self, check: str, says: str) -> None:
        self.proved.append(ReportItem(check, says))

    def leave_open(self, check: str, says: str) -> None:
        self.not_proved.append(ReportItem(check, says))


NOUNS = {"ledger": "the ledger", "export": "the export", "range": "the range", "receipt": "the receipt"}


def describe(report: Report) -> str:
    """The report for a person."""
    if not report.ok:
        whole = NOUNS.get(report.scope, "the bundle") + " as a whole"
        where = whole if report.failed_at is None else f"receipt {report.failed_at}"
        return f"NOT VERIFIED: {where}: {report.problem}"
    lines = [f"verified: {_what(report)} of {report.origin}"]
    lines += [f"  {statement.says}" for statement in report.proved]
    lines += [f"  root {report.root}"]
    lines += [f"not proved: {statement.says}" for statement in report.not_proved]
    return "\n".join([*lines, *(f"  {line}" for line in report.checkpoint.splitlines())])


def _what(report: Report) -> str:
    if report.scope in ("receipt", "bundle"):
        return f"receipt {report.first}"
    if report.scope == "range":
        return f"receipts {report.first} to {report.last}"
    return f"{report.receipts} receipts"


def count(number: int, noun: str) -> str:
    """`1 receipt`, `2 receipts`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


# The sentences of a report: one for each thing proved, and one for each that is not (docs/reference/verify.md).

TRUNCATION = "that no later receipt was removed together with its checkpoint; keep this one elsewhere:"
WHOSE_KEYS = "whose the approvers' keys are; the ledger itself says so. Give what you know: --approvers FILE"


def conclude_full(report: Report, payloads_here: bool, held_against: bool) -> None:
    """What a whole ledger or export proves."""
    _say_keys(report)
    report.prove("order", "none of the receipts is missing, changed, inserted or out of order")
    report.prove(
        "tree", "each receipt is a leaf of the tree of the signed checkpoint, and the stored hashes are theirs"
    )
    report.prove(
        "links",
        "every outcome has its intent, every intent its decision, every approval used was granted and used once",
    )
    if report.approvers_words:
        report.prove(
            "approvers", f"approvers: {count(report.approvers_words, 'word')}, each signed by the approver's own key"
        )
    if report.policies:
        report.prove("policies", f"policies: {count(report.policies, 'version')} named, the text of each is kept")
    _say_payloads(report, payloads_here)
    if seen := report.kinds.get("checkpoint.witnessed"):
        report.prove("witnessed", f"checkpoints said to be witnessed: {seen}, each of this tree")
    if report.calls_without_outcome:
        report.leave_open("outcomes", f"what came of {count(report.calls_without_outcome, 'call')} without an outcome")
    if report.approvers_words and not report.approvers_keys_given:
        report.leave_open("approvers", WHOSE_KEYS)
    say_end(report, held_against)


def say_end(report: Report, held_against: bool) -> None:
    """What no ledger can prove by itself; the checkpoint is printed after it."""
    since = " since the checkpoints given" if held_against else ""
    report.leave_open("truncation", TRUNCATION.replace("removed", f"removed{since}"))


def _say_keys(report: Report) -> None:
    report.prove("signatures", "every signature is the guard's, by the key that was in use")
    for at, key in enumerate(report.keys):
        if at:
            report.prove("keys", f"from receipt {key['since']} on the key is {key['key']}: {key['by']}")
        elif key["by"] != "given":
            report.prove("keys", f"the first key is {key['key']}: {key['by']}")


def _say_payloads(report: Report, here: bool) -> None:
    unkept = report.payloads_not_kept
    if not here:
        report.leave_open("payloads", "what was asked and answered: the payloads are not in this export")
        return
    gone = f", {report.payloads_erased} erased by a receipt that says so" if report.payloads_erased else ""
    report.prove("payloads", f"payloads: {report.payloads_checked} match their commitments, {unkept} not kept{gone}")
    if unkept or report.payloads_erased:
        report.leave_open("payloads", "what the payloads that are not kept were")


def conclude_range(report: Report, payloads_here: bool, held_against: bool) -> None:
    """What a range, or one receipt with the ledger behind it, proves."""
    one = report.first == report.last
    what = "it" if one else "each of them"
    report.prove("signatures", f"{what} is signed by the guard's key that was in use")
    if not one:
        report.prove("order", "none of them is missing, changed, inserted or out of order")
    report.prove("tree", f"{what} is a leaf of the tree of the signed checkpoint, at its place")
    if report.policies:
        report.prove("policies", f"policies: {count(report.policies, 'version')} named, the text of each is kept")
    if payloads_here:
        kept = f"{report.payloads_checked} match their commitments, {report.payloads_not_kept} not kept"
        gone = f", {report.payloads_erased} gone" if report.payloads_erased else ""
        report.prove("payloads", f"payloads: {kept}{gone}")
    report.leave_open("links", "how it hangs together with the receipts around it; verify the whole ledger for that")
    say_end(report, held_against)


def conclude_bundle(report: Report, held_against: bool) -> None:
    """What a bundle proves, which is all there is to look at."""
    report.prove("signatures", "it is signed by a guard's key that was given")
    report.prove("tree", f"it is receipt {report.first} of the tree of the signed checkpoint")
    if report.payloads_checked:
        report.prove("payloads", f"payloads: {report.payloads_checked} match their commitments")
    report.leave_open("keys", "that this key was in use then; the ledger says so")
    report.leave_open("links", "how it hangs together with the receipts around it; verify the whole ledger for that")
    say_end(report, held_against)
