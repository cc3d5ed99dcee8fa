"""What verifying says: what is proved, sentence by sentence, and what is not; or where it stopped and why."""

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
class Statement:
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
    proved: list[Statement] = field(default_factory=list)
    not_proved: list[Statement] = field(default_factory=list)
    receipt: dict[str, object] | None = None
    """Of one receipt: what it says."""
    failed_at: int | None = None
    problem: str = ""

    def prove(self, check: str, says: str) -> None:
        self.proved.append(Statement(check, says))

    def leave_open(self, check: str, says: str) -> None:
        self.not_proved.append(Statement(check, says))


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
