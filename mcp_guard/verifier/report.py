"""The report of a verification: the checks that passed, what they assure and what they do not, or where it stopped.

The sentences are explained in docs/reference/verify.md; `conclusions.py` has those that depend on the input.
"""

import textwrap
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
class Assurance:
    """One question that a reader should ask of the ledger, and whether this verification answers it.

    `hint` says how to have it proved.
    """

    check: str
    proved: bool
    says: str
    hint: str = ""


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
    last_time: str = ""
    """The time of the last receipt that was verified (RFC 3339)."""
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
    operations: int = 0
    """Changes that an operator has signed with their own key."""
    approvers_keys_given: bool = False
    approvals: int = 0
    """Approvals that were completed."""
    self_approvals: int = 0
    """Those in which, on some route, nobody but the agent's owner or user has approved."""
    first_self_approval: int | None = None
    """The receipt that completed the first of them."""
    drills: int = 0
    """Requests that were made to be wrong, and are of no call (`drills.py`)."""
    reported_votes: int = 0
    """Votes that no key has signed, but a service has reported (`reported_votes.py`)."""
    first_reported_vote: int | None = None
    """The receipt of the first of them."""
    key_is_beside: bool = False
    """Whether the guard's key was read from beside the input."""
    policies: int = 0
    policy_approvals: int = 0
    """Proposed sets of policies that were approved."""
    policies_under_rule: int = 0
    """How often policies were loaded by a guard whose policies must be approved."""
    policies_unapproved: int = 0
    """How often they were loaded without approval, since the ledger has such a rule."""
    first_unapproved_policies: int | None = None
    format_4: int = 0
    """How many receipts at the beginning were verified by the rules of format 4."""
    votes_in_format_4: int = 0
    against: list[int] = field(default_factory=list)
    """Sizes of the earlier checkpoints that were given and that the tree continues."""
    remembered: list[int] = field(default_factory=list)
    """The same for those that earlier verifications have left beside the ledger."""
    discontinued: int = 0
    """The size of one of those that it does not continue."""
    unknown_files: list[str] = field(default_factory=list)
    """What is beside the files of an export in its folder, by name: nothing is said of it."""
    witnesses: list[dict[str, object]] = field(default_factory=list)
    witnessed_size: int = 0
    """How many receipts the checkpoint has that they cosigned."""
    proved: list[ReportItem] = field(default_factory=list)
    not_proved: list[ReportItem] = field(default_factory=list)
    assurance: list[Assurance] = field(default_factory=list)
    receipt: dict[str, object] | None = None
    """The receipt itself, if only one was verified."""
    failed_at: int | None = None
    problem: str = ""

    def prove(self, check: str, says: str) -> None:
        self.proved.append(ReportItem(check, says))

    def assure(self, check: str, says: str) -> None:
        self.assurance.append(Assurance(check, True, says))

    def leave_open(self, check: str, says: str, hint: str = "") -> None:
        self.not_proved.append(ReportItem(check, says))
        self.assurance.append(Assurance(check, False, says, hint))


HEADING = "Checkpoint;"
"""The start of the line that is printed above a checkpoint."""
GIVEN = "given"
"""In `keys`, why a key is accepted that was given to the verifier; any other reason is a sentence."""
NOUNS = {"ledger": "the ledger", "export": "the export", "range": "the range", "receipt": "the receipt"}


def describe(report: Report, width: int = 0) -> str:
    """The report as text, in lines of this width if one is given. What the input contains is visible in it, and adds no
    line."""
    if not report.ok:
        whole = NOUNS.get(report.scope, "the bundle") + " as a whole"
        where = whole if report.failed_at is None else f"receipt {report.failed_at}"
        return visible(f"NOT VERIFIED: {where}: {report.problem}")
    time = f", the last of {report.last_time[:19].replace('T', ' ')} UTC" if report.last_time else ""
    unproved = f"NOT proved: {len(report.not_proved)} of {len(report.assurance)}, see Assurance"
    lines = [f"verified: {_subject(report)} of {report.origin}{time}; {unproved}", "", "Checks (all passed)"]
    for check in report.proved:
        lines += _entry(f"{check.check:<{NAME_WIDTH}}", check.says, width)
    lines += [f"  {'root':<{NAME_WIDTH}}{report.root}", "", "Assurance"]
    for item in sorted(report.assurance, key=lambda item: item.proved):
        name = f"{STATES[item.proved]:<{STATE_WIDTH}}{item.check:<{NAME_WIDTH}}"
        lines += _entry(name, item.says, width)
        if item.hint:
            lines += _entry(" " * len(name), f"-> {item.hint}", width)
    lines += ["", f"{HEADING} keep it elsewhere, and give it with --against next time"]
    checkpoint = report.checkpoint.removesuffix("\n").split("\n")
    return "\n".join([*map(visible, lines), *(f"  {visible(line)}" for line in checkpoint)])


def _entry(name: str, says: str, width: int) -> list[str]:
    """A name, and beside it a sentence."""
    if not width:
        return [f"  {name}{says}"]
    indent = " " * (2 + len(name))
    return textwrap.wrap(
        says, max(width, len(indent) + MIN_TEXT), initial_indent=f"  {name}", subsequent_indent=indent,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


MIN_TEXT = 30
"""Columns for the text of an entry, however narrow the terminal is."""
NAME_WIDTH, STATE_WIDTH = 15, 12
STATES = {True: "proved", False: "NOT PROVED"}


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
