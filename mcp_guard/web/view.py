"""The values of an approval that the pages show, as plain text without markup."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mcp_guard.core.approval import Approval, ApprovalState, RouteRule, describe_rule, may_decide
from mcp_guard.core.model import Json, Micros
from mcp_guard.storage.sqlite import Store


@dataclass(frozen=True, slots=True)
class FieldChange:
    """One field: its present value, or None if that is unknown, and the requested one."""

    name: str
    before: str | None
    after: str


@dataclass(frozen=True, slots=True)
class ApprovalCard:
    """One request, for its card in the list and for its page."""

    approval: Approval
    state: str
    title: str
    target: str
    seconds_left: int
    requested: str
    changes: tuple[FieldChange, ...]
    others: tuple[tuple[str, str], ...]
    meta: tuple[tuple[str, str], ...]
    """The members of `_meta` that are sent with the call."""
    rules: tuple[Json, ...]
    can_decide: bool
    """Whether the viewer may decide the request now."""


def make_card(approval: Approval, now: Micros, viewer: str) -> ApprovalCard:
    """The card of a request as the approver `viewer` sees it at `now`."""
    subject = approval.subject
    wanted, present, resource = subject.arguments, subject.present, subject.resource
    has_expired = approval.state in (ApprovalState.REQUESTED, ApprovalState.APPROVED) and now >= approval.expires
    has_voted = viewer in {vote.approver for vote in approval.votes}
    is_approver = any(may_decide(rule, viewer, subject.requesters) for rule in approval.rules)
    return ApprovalCard(
        approval=approval,
        state="expired" if has_expired else str(approval.state),
        title=subject.tool.partition("__")[2].replace("_", " ") or subject.tool,
        target=f"{resource.type} {resource.id}" if resource and resource.type != "Tool" else "",
        seconds_left=max(0, (approval.expires - now) // 1_000_000),
        requested=format_minute(approval.requested),
        changes=tuple(
            FieldChange(name, plain(present[name]) if name in present else None, plain(wanted.get(name)))
            for name in subject.changes
        ),
        others=tuple((name, plain(value)) for name, value in wanted.items() if name not in subject.changes),
        meta=tuple((name, plain(value)) for name, value in (subject.meta or {}).items()),
        rules=tuple(_describe_rule(approval, rule) for rule in approval.rules),
        can_decide=is_approver and not has_voted and approval.state is ApprovalState.REQUESTED and not has_expired,
    )


def _describe_rule(approval: Approval, rule: RouteRule) -> Json:
    subject = approval.subject
    return {
        "route": rule.route,
        "description": describe_rule(rule, subject.requesters),
        "approved_by": [
            vote.name or vote.approver
            for vote in approval.votes
            if vote.verdict == "approve" and may_decide(rule, vote.approver, subject.requesters)
        ],
        "text": subject.routes.get(rule.route, ""),
    }


def group_cards(cards: Iterable[ApprovalCard]) -> list[tuple[str, list[ApprovalCard]]]:
    """Heading and cards of each group of requests with the same agent, tool and reasons, to be reviewed together."""
    groups: dict[tuple[str, ...], list[ApprovalCard]] = {}
    for card in cards:
        subject = card.approval.subject
        groups.setdefault((subject.agent, subject.tool, *subject.reasons), []).append(card)
    return [(f"{key[0]}: {key[1]}", members) for key, members in groups.items()]


def policy_texts(store: Store, approval: Approval) -> list[tuple[str, str]]:
    """Id and Cedar text of each policy that required approval; the text is empty if the ledger does not have it."""
    material = store.policy(approval.subject.binding["policy_version"])
    files: dict[str, str] = json.loads(material)["policies"] if material else {}
    texts = []
    for id in approval.subject.policies:
        pattern = re.compile(rf'@id\("{re.escape(id)}"\).*?;\s*$', re.DOTALL | re.MULTILINE)
        text = next((match.group() for file in files.values() if (match := pattern.search(file))), "")
        texts.append((id, text.strip()))
    return texts


def plain(value: Any) -> str:
    """A JSON value as text: strings without quotes, and control characters escaped."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def format_minute(at: Micros) -> str:
    return datetime.fromtimestamp(at // 1_000_000, UTC).strftime("%Y-%m-%d %H:%M UTC")
