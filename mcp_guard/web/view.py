"""What the pages show of an approval: plain values, no markup. The command line shows the same."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mcp_guard.core.approval import Approval, ApprovalState, describe_rule, may_decide
from mcp_guard.core.model import Json, Micros
from mcp_guard.storage.sqlite import Store


@dataclass(frozen=True, slots=True)
class FieldChange:
    """One field: its present value, if it is known, and the one asked for."""

    name: str
    before: str | None
    after: str


@dataclass(frozen=True, slots=True)
class ApprovalCard:
    """One request, as a card in the list and as a page."""

    approval: Approval
    state: str
    title: str
    target: str
    seconds_left: int
    asked: str
    changes: tuple[FieldChange, ...]
    others: tuple[tuple[str, str], ...]
    rules: tuple[Json, ...]
    mine: bool
    """Whether the person who looks may decide on it now."""


def make_card(approval: Approval, now: Micros, viewer: str) -> ApprovalCard:
    subject = approval.subject
    wanted, present, resource = subject.arguments, subject.present, subject.resource
    lapsed = approval.state in (ApprovalState.REQUESTED, ApprovalState.APPROVED) and now >= approval.expires
    voted = {vote.approver for vote in approval.votes}
    may = any(may_decide(rule, viewer, approval.subject.requesters) for rule in approval.rules)
    return ApprovalCard(
        approval=approval,
        state="expired" if lapsed else str(approval.state),
        title=subject.tool.partition("__")[2].replace("_", " ") or subject.tool,
        target=f"{resource.type} {resource.id}" if resource and resource.type != "Tool" else "",
        seconds_left=max(0, (approval.expires - now) // 1_000_000),
        asked=day(approval.requested),
        changes=tuple(
            FieldChange(name, plain(present[name]) if name in present else None, plain(wanted.get(name)))
            for name in subject.changes
        ),
        others=tuple((name, plain(value)) for name, value in wanted.items() if name not in subject.changes),
        rules=tuple(_rule(approval, position) for position in range(len(approval.rules))),
        mine=may and viewer not in voted and approval.state is ApprovalState.REQUESTED and not lapsed,
    )


def _rule(approval: Approval, position: int) -> Json:
    rule = approval.rules[position]
    yes = [vote for vote in approval.votes if vote.verdict == "approve"]
    given = [vote.name or vote.approver for vote in yes if may_decide(rule, vote.approver, approval.subject.requesters)]
    text = approval.subject.routes.get(rule.route, "")
    return {
        "route": rule.route,
        "demand": describe_rule(rule, approval.subject.requesters),
        "given": given,
        "text": text,
    }


def groups(cards: Iterable[ApprovalCard]) -> list[tuple[str, list[ApprovalCard]]]:
    """Like requests together: the same agent, tool and reason, so that one look serves them all."""
    found: dict[tuple[str, ...], list[ApprovalCard]] = {}
    for each in cards:
        subject = each.approval.subject
        found.setdefault((subject.agent, subject.tool, *subject.reasons), []).append(each)
    return [(f"{key[0]}: {key[1]}", members) for key, members in found.items()]


def policy_texts(store: Store, approval: Approval) -> list[tuple[str, str]]:
    """The policies that asked, as they were written: id and Cedar text."""
    kept = store.policy(approval.subject.binding["policy_version"])
    files: dict[str, str] = json.loads(kept)["policies"] if kept else {}
    texts = []
    for id in approval.subject.policies:
        pattern = re.compile(rf'@id\("{re.escape(id)}"\).*?;\s*$', re.DOTALL | re.MULTILINE)
        found = next((match.group() for text in files.values() if (match := pattern.search(text))), "")
        texts.append((id, found.strip()))
    return texts


def plain(value: Any) -> str:
    """A JSON value for reading; text without its quotes, control characters spelt out."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def day(at: Micros) -> str:
    return datetime.fromtimestamp(at // 1_000_000, UTC).strftime("%Y-%m-%d %H:%M UTC")
