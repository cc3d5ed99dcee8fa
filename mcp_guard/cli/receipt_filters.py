"""Options that select receipts, for `mcp-guard log`.

To add a filter, add a line to `FIELDS`. Values of one option are alternatives; all options given must match.
"""

import argparse
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

from mcp_guard.cli import times
from mcp_guard.core.call_summary import is_look_up
from mcp_guard.core.model import ExecutionStatus, Micros, Outcome
from mcp_guard.core.receipt import KINDS, VOTED, shown_kind
from mcp_guard.core.visible_text import VisibleText, join, say

Receipt = dict[str, Any]
OUTCOMES = tuple(map(str, (*Outcome, *(f"would_{outcome}" for outcome in Outcome), *ExecutionStatus)))
"""What was decided, what would have been in enforce mode, and how a call ended."""
WIDER = VisibleText("choose other times; mcp-guard log lists the latest receipts")
MIN_VERSION_LENGTH = 8
"""Hexadecimal digits that are taken for the beginning of a policy version."""


@dataclass(frozen=True, slots=True)
class Field:
    """One option: its help text, the values of a receipt that it is compared with, and how."""

    help: str
    values: Callable[[Receipt], list[object]]
    matches: Callable[[str, str], bool] = str.__eq__
    """Whether a value of a receipt (first) is the one that was asked for."""
    choices: tuple[str, ...] | None = None
    of_call: bool = False
    """Whether a receipt also matches if another one of its call does."""


def _member(name: str) -> Callable[[Receipt], list[object]]:
    return lambda receipt: [receipt.get(name)]


def _kinds(receipt: Receipt) -> list[object]:
    return [receipt["kind"], shown_kind(receipt)]


def _subject(scope: str, member: str) -> Callable[[Receipt], list[object]]:
    """Of a revocation, which has a scope and a name, whom it revoked; of other receipts, this member."""
    return lambda receipt: [receipt.get("name") if receipt.get("scope") == scope else receipt.get(member)]


def _instances(receipt: Receipt) -> list[object]:
    """A revocation of an agent or user also concerns the instances that were alive."""
    revoked = receipt.get("instances", []) if receipt["kind"] == "credential.revoked" else []
    return [*_subject("instance", "instance")(receipt), *revoked]


def _resource(receipt: Receipt) -> list[object]:
    resource = receipt.get("resource")
    return [f"{resource['type']}/{resource['id']}", resource["id"], resource["type"]] if resource else []


def _outcomes(receipt: Receipt) -> list[object]:
    would = receipt.get("would")
    return [receipt.get("outcome"), receipt.get("ending"), *([f"would_{would['outcome']}"] if would else [])]


def _approvers(receipt: Receipt) -> list[object]:
    approval = receipt.get("approval")
    named = [*(approval.get("approvers", []) if isinstance(approval, dict) else []), *receipt.get("approvers", [])]
    people = [receipt, *named] if "approver" in receipt else named
    return [person.get(name) for person in people for name in ("approver", "name")]


def _policies(receipt: Receipt) -> list[object]:
    would, version = receipt.get("would") or {}, str(receipt.get("policy_version", ""))
    return [*receipt.get("policies", []), *would.get("policies", []), *([version] if version else [])]


def _is_policy(value: str, wanted: str) -> bool:
    digits = wanted.removeprefix("sha256:")
    is_version = len(digits) >= MIN_VERSION_LENGTH and re.fullmatch("[0-9a-f]+", digits)
    return value == wanted or bool(is_version and value.startswith(f"sha256:{digits}"))


FIELDS: Mapping[str, Field] = {
    "kind": Field("of this kind, such as intent or decision", _kinds, choices=(*KINDS, VOTED)),
    "agent": Field("of this agent", _subject("agent", "agent")),
    "user": Field("on behalf of this user", _subject("user", "on_behalf_of")),
    "ticket": Field("due to this ticket", _member("ticket")),
    "tool": Field("of this tool; `crm__*` for all of a server", _member("tool"), fnmatchcase),
    "resource": Field("on this resource: TYPE/ID, or either of them", _resource),
    "outcome": Field(f"with this decision or result: {', '.join(OUTCOMES)}", _outcomes, choices=OUTCOMES, of_call=True),
    "approver": Field("that this person voted on, approved or enrolled for", _approvers, of_call=True),
    "policy": Field("decided by this policy, or under this policy version", _policies, _is_policy, of_call=True),
    "instance": Field("of this instance", _instances),
    "call": Field("of this call", _member("call")),
    "trace": Field("of this trace, by its id", _member("trace")),
}


def add_filters(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("filters", "all must match; repeat one to allow several values")
    for name, option in FIELDS.items():
        read = partial(_choose, option.choices) if option.choices else str
        group.add_argument(
            f"--{name}", action="append", type=read, choices=option.choices, metavar=name.upper(),
            help=f"receipts {option.help}",
        )  # fmt: skip
    group.add_argument("--since", type=times.since, metavar="TIME", help=f"from this time on: {times.EXAMPLES}")
    group.add_argument("--until", type=times.until, metavar="TIME", help="up to this time; a day includes its end")


def _choose(choices: Sequence[str], text: str) -> str:
    """Raises: argparse.ArgumentTypeError, which names the nearest choice."""
    if text in choices:
        return text
    import difflib

    close = difflib.get_close_matches(text, choices, 1)
    meant = f"; did you mean `{close[0]}`?" if close else f": {', '.join(choices)}"
    raise argparse.ArgumentTypeError(f"`{text}` is not one of {len(choices)} values{meant}")


@dataclass(slots=True)
class ReceiptFilter:
    """What was asked for, and which values of the same members it has met, for a hint if nothing matches."""

    wanted: Mapping[str, list[str]] = field(default_factory=dict)
    since: Micros | None = None
    until: Micros | None = None
    _met: dict[str, set[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, options: argparse.Namespace) -> "ReceiptFilter":
        wanted = {name: values for name in FIELDS if (values := getattr(options, name))}
        return cls(wanted, options.since, options.until)

    def __bool__(self) -> bool:
        return bool(self.wanted) or self.since is not None or self.until is not None

    def matches(self, receipt: Receipt, of_call: Callable[[str], Iterable[Receipt]]) -> bool:
        """Whether it matches; `of_call` reads all receipts of a call.

        A decision, a vote and a result are receipts of their own, so `--approver alice --outcome ok` selects a receipt
        that matches one of them, if other receipts of its call match the rest.
        """
        failing = [name for name in self.wanted if not self._is_met(name, receipt)]
        if not failing:
            return True
        related = [name for name in self.wanted if FIELDS[name].of_call]
        if not set(failing) < set(related) or not receipt.get("call") or is_look_up(receipt):
            return False
        others = [other for other in of_call(receipt["call"]) if not is_look_up(other)]
        return all(any(self._is_met(name, other) for other in others) for name in failing)

    def _is_met(self, name: str, receipt: Receipt) -> bool:
        values = [value for value in FIELDS[name].values(receipt) if isinstance(value, str)]
        self._met.setdefault(name, set()).update(values)
        return any(FIELDS[name].matches(value, wanted) for value in values for wanted in self.wanted[name])

    def explain_nothing(self) -> VisibleText:
        """What to change, if nothing matched."""
        import difflib

        for name, values in self.wanted.items():
            met = self._met.get(name, set())
            for wanted in values:
                if not any(FIELDS[name].matches(value, wanted) for value in met):
                    close = difflib.get_close_matches(wanted, met, 1)
                    meant = say("; did you mean `{}`?", close[0]) if close else ""
                    when = VisibleText("" if self.since is None and self.until is None else " of this time")
                    return say("--{} `{}` matches no receipt{}{}", name, wanted, when, meant)
        names = join(", ", (f"--{name}" for name in self.wanted))
        return say("no receipt matches all of {}; leave one out", names) if len(self.wanted) > 1 else WIDER
