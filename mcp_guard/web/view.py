"""The values of an approval that the pages show, as visible text without markup (core/visible_text.py)."""

import json
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote as url_quote

import jinja2
from markupsafe import Markup

from mcp_guard.core.approval import Approval, ApprovalState, GrantTerms, RouteRule, describe_rule, may_decide
from mcp_guard.core.approval_card import (
    MINUTE_FORMAT,
    UNDO,
    ArgumentRow,
    argument_rows,
    describe_terms,
    format_minute,
    is_irreversible,
    odd_words,
    other_arguments,
    other_odd_words,
    signal_words,
)
from mcp_guard.core.definition_diff import DiffPart, diff_texts
from mcp_guard.core.drill_results import drill_lines
from mcp_guard.core.model import SECOND, Json, Micros
from mcp_guard.core.visible_text import (
    VisibleText,
    has_hidden,
    join,
    quote,
    readable_value,
    reviewed_code,
    say,
    shorten,
    visible,
    visible_lines,
)
from mcp_guard.ledger.approvals.approver_keys import AUTHORIZATIONS, METHODS, authorization
from mcp_guard.policy.positions import policies_as_written
from mcp_guard.storage.rows import ApproverKey
from mcp_guard.web.roles import Role
from mcp_guard.web.sessions import BrowserSession

HERE = Path(__file__).parent
LISTED_CHANGES = 3
"""Changes on a card in the list, besides sensitive arguments and destinations, which are all there."""
REMOVED_SINCE = VisibleText(" (with a key that was removed since; they can still deny)")
LISTED_LENGTH = 100
"""Characters of a value that a card in the list may show."""
RECENT = timedelta(days=7)
_WORD = re.compile(r"\w")
_AFTER_SIGN = re.compile(r"(?<=[_./@:-])(?=\w)")


MAX_BESIDE = 300
"""Characters of values that are shown beside each other."""
MAX_UNBOXED, MAX_UNBOXED_LINES = 1000, 12
"""Characters and lines of a value that is shown without a box that scrolls."""


@dataclass(frozen=True, slots=True)
class FieldRow:
    """One argument that is shown in full; `before` is its present value, or why there is none (`why_unknown`)."""

    name: str
    before: str
    after: str
    why_unknown: str
    marks: tuple[str, ...]
    is_change: bool
    decoded: tuple[tuple[str, str], ...]
    """Encoded text in the requested value: the encoding, and what it says."""
    has_hidden: bool
    """Whether characters of the values that show nothing are written as escapes."""
    odd: tuple[str, ...] = ()
    """Words of it with letters that can be taken for others, which are written as escapes."""
    parts: tuple[DiffPart, ...] = ()
    """How the values differ, by word; empty if they have no word in common."""

    @property
    def is_long(self) -> bool:
        """Whether its values get the whole width."""
        return len(self.before) + len(self.after) > MAX_BESIDE


@dataclass(frozen=True, slots=True)
class ApprovalCard:
    """One request, for its card in the list and for its page."""

    approval: Approval
    state: str
    title: str
    tool: str
    """Its full name, which says of which upstream it is."""
    target: str
    seconds_left: int
    requested: str
    rows: tuple[FieldRow, ...]
    facts: tuple[tuple[str, str], ...]
    """What else the configuration names of the resource's present state."""
    others: tuple[tuple[str, str], ...]
    meta: tuple[tuple[str, str], ...]
    """The members of `_meta` that are sent with the call."""
    signals: tuple[tuple[str, str], ...]
    """What each risk signal says, and its code."""
    undo: str
    """That the call cannot be undone; empty if that is not known."""
    rules: tuple[Json, ...]
    claimed: tuple[str, ...]
    """Which of `ticket` and `reason` only the agent says."""
    can_decide: bool
    """Whether the viewer may decide the request now."""
    why_barred: str
    """Why the viewer may decide on none of its routes; empty if they may."""
    can_revoke: bool
    """Whether the viewer may revoke the approval now."""
    terms: GrantTerms | None
    """What earlier votes grant besides, and another one must."""
    has_approved: bool
    """Whether the viewer has approved it, so that they may only deny it."""
    drill: tuple[str, ...]
    """What the viewer is told of a drill; empty for any other request, and before they have decided."""
    is_own: bool
    """Whether it is the viewer's own request, so that their approval is recorded as self-approved."""
    odd: tuple[str, ...] = ()
    """Words beside the rows with letters that can be taken for others, which are written as escapes."""

    @property
    def state_words(self) -> str:
        return "approved and used" if self.state == ApprovalState.CONSUMED else self.state

    @property
    def ending(self) -> str:
        """Why it ended; empty if the last vote says it."""
        approval = self.approval
        is_voted = approval.state in (ApprovalState.APPROVED, ApprovalState.DENIED, ApprovalState.MISSED)
        return "" if is_voted and approval.note in [vote.rationale for vote in approval.votes[-1:]] else approval.note

    @property
    def ending_label(self) -> VisibleText:
        labels = {ApprovalState.REVOKED: "Revoked: ", ApprovalState.STALE: "What changed: "}
        return VisibleText(labels.get(self.approval.state, ""))

    @property
    def listed_rows(self) -> tuple[FieldRow, ...]:
        """The rows for the list: every marked one, and some of the others."""
        marked = [row for row in self.rows if row.marks]
        return *marked, *[row for row in self.rows if not row.marks][: max(0, LISTED_CHANGES - len(marked))]


@dataclass(frozen=True, slots=True)
class KeyCard:
    """One key of the viewer, for their page of keys. `is_recent`: it was enrolled within a week."""

    id: str
    method: str
    enrolled: str
    authorized: str
    is_removed: bool
    is_recent: bool


def make_key_card(key: ApproverKey, enrolment: Json, now: Micros) -> KeyCard:
    """`enrolment` is the receipt of the enrolment."""
    at = datetime.fromisoformat(enrolment["time"])
    return KeyCard(
        id=key.id,
        method=METHODS.get(key.method, key.method),
        enrolled=at.strftime(MINUTE_FORMAT),
        authorized=AUTHORIZATIONS.get(authorization(enrolment), "with an earlier version, which did not record how"),
        is_removed=key.removed is not None,
        is_recent=key.removed is None and datetime.fromtimestamp(now / SECOND, UTC) - at < RECENT,
    )


def make_listed_card(approval: Approval, now: Micros, viewer: str) -> ApprovalCard:
    """As in a list, which shows the beginning of a few arguments: costs the same for arguments of any length."""
    return replace(
        _make_card(approval, now, viewer), rows=tuple(map(_make_listed_row, argument_rows(approval.subject)))
    )


def make_card(approval: Approval, now: Micros, viewer: str, removed: Collection[str] = ()) -> ApprovalCard:
    """The card of a request as the approver `viewer` sees it at `now`. `removed` are the keys that were removed.

    Makes every argument visible in full, which takes seconds for some megabytes.
    """
    subject = approval.subject
    return replace(
        _make_card(approval, now, viewer, removed),
        rows=_with_parts([_make_row(row) for row in argument_rows(subject)]),
        facts=tuple((visible(name), plain(value)) for name, value in (subject.facts or {}).items()),
        others=tuple((visible(name), plain(value)) for name, value in other_arguments(subject).items()),
        meta=tuple((visible(name), plain(value)) for name, value in (subject.meta or {}).items()),
        odd=other_odd_words(subject),
    )


def _make_card(approval: Approval, now: Micros, viewer: str, removed: Collection[str] = ()) -> ApprovalCard:
    """Without the values that the agent and the upstreams choose."""
    subject = approval.subject
    resource = subject.resource
    has_expired = approval.state in (ApprovalState.REQUESTED, ApprovalState.APPROVED) and now >= approval.expires
    has_voted = viewer in {vote.approver for vote in approval.votes}
    drill = tuple(drill_lines(approval, viewer))
    why_barred = _why_barred(approval, viewer)
    return ApprovalCard(
        approval=approval,
        state="expired" if has_expired else str(approval.state),
        title=visible(subject.tool.partition("__")[2].replace("_", " ") or subject.tool),
        tool=visible(subject.tool),
        target=say("{} {}", quote(resource.type), quote(resource.id)) if resource and resource.type != "Tool" else "",
        seconds_left=max(0, -((now - approval.expires) // SECOND)),
        requested=format_minute(approval.requested),
        rows=(),
        facts=(),
        others=(),
        meta=(),
        signals=tuple(map(signal_words, subject.risk.signals)),
        undo=UNDO if is_irreversible(subject) else "",
        rules=tuple(_describe_rule(approval, rule, removed) for rule in approval.rules),
        claimed=subject.claimed,
        can_decide=not why_barred and not drill and approval.state is ApprovalState.REQUESTED and not has_expired,
        why_barred=why_barred,
        can_revoke=approval.state is ApprovalState.APPROVED and not has_expired and viewer in approvers_of(approval),
        terms=next((vote.terms for vote in approval.votes), None),
        has_approved=has_voted,
        drill=drill,
        is_own=approval.is_requester(viewer),
    )


def _why_barred(approval: Approval, viewer: str) -> VisibleText:
    subject = approval.subject
    if any(may_decide(rule, viewer, subject.requesters) for rule in approval.rules):
        return VisibleText("")
    if viewer not in approvers_of(approval):
        return say("you are not an approver of its routes ({})", join(", ", approval.routes))
    if viewer == subject.owner:
        return VisibleText("you own the agent that made it")
    if viewer == subject.on_behalf_of:
        return VisibleText("it was made on your behalf")
    return VisibleText("you are, or may be, the owner of its agent or the person for whom it acts")


def _make_listed_row(row: ArgumentRow) -> FieldRow:
    before, after = (visible_lines(readable_value(value)[:LISTED_LENGTH]) for value in (row.before, row.after))
    return FieldRow(visible(row.name), before, after, row.why_unknown, row.marks, row.is_change, (), False)


def _make_row(row: ArgumentRow) -> FieldRow:
    before, after = "" if row.why_unknown else plain(row.before), plain(row.after)
    return FieldRow(
        name=visible(row.name),
        before=before,
        after=after,
        why_unknown=row.why_unknown,
        marks=row.marks,
        is_change=row.is_change,
        decoded=tuple((encoding, plain(text)) for encoding, text in row.decoded),
        has_hidden=any(map(has_hidden, (row.name, readable_value(row.before), readable_value(row.after)))),
        odd=odd_words(row.name, before, after),
    )


def _with_parts(rows: list[FieldRow]) -> tuple[FieldRow, ...]:
    parts = diff_texts((row.before, row.after) if row.is_change else ("", "") for row in rows)
    return tuple(replace(row, parts=_shown_parts(found)) for row, found in zip(rows, parts, strict=True))


def _shown_parts(parts: list[DiffPart]) -> tuple[DiffPart, ...]:
    has_common_word = any(kind == "same" and _WORD.search(text) for kind, text in parts)
    return tuple((kind, VisibleText(text)) for kind, text in parts) if has_common_word else ()


def _describe_rule(approval: Approval, rule: RouteRule, removed: Collection[str]) -> Json:
    subject = approval.subject
    return {
        "route": rule.route,
        "description": describe_rule(rule, subject.requesters),
        "approved_by": join(
            ", ",
            (
                say("{}{}", quote(vote.name or vote.approver), REMOVED_SINCE if vote.key in removed else "")
                for vote in approval.votes
                if vote.verdict == "approve" and may_decide(rule, vote.approver, subject.requesters)
            ),
        ),
        "text": subject.routes.get(rule.route, ""),
    }


def may_see(approvers: Iterable[str], viewer: BrowserSession) -> bool:
    """Whether somebody may read a request, payloads and all, whose routes have these approvers."""
    return Role.AUDITOR in viewer.roles or viewer.approver in approvers


def approvers_of(approval: Approval) -> frozenset[str]:
    """Those of its routes."""
    return frozenset(name for rule in approval.rules for name in rule.approvers)


def group_cards(cards: Iterable[ApprovalCard]) -> list[tuple[str, list[ApprovalCard]]]:
    """Heading and cards of each group of requests with the same agent, tool and reasons, to be reviewed together."""
    groups: dict[tuple[str, ...], list[ApprovalCard]] = {}
    for card in cards:
        subject = card.approval.subject
        groups.setdefault((subject.agent, subject.tool, *subject.reasons), []).append(card)
    return [(say("{}: {}", key[0], key[1]), members) for key, members in groups.items()]


def policy_texts(material: bytes | None, approval: Approval) -> list[tuple[str, str]]:
    """Id and Cedar text of each policy that required approval; the text is empty if the ledger does not have it.
    `material` is what the ledger has of the policy version."""
    files: dict[str, str] = json.loads(material)["policies"] if material else {}
    written: dict[str, str] = {}
    for text in files.values():
        written |= policies_as_written(text)
    return [(id, reviewed_code(written.get(id, ""))) for id in approval.subject.policies]


def plain(value: Any) -> str:
    """A JSON value as visible text, maybe of several lines. Strings have quotes only if they read as something else."""
    return visible_lines(readable_value(value))


def is_long(text: str) -> bool:
    """Whether the text would move what follows out of sight, so that it needs a box."""
    return len(text) > MAX_UNBOXED or text.count("\n") >= MAX_UNBOXED_LINES


def show(value: object) -> object:
    """What the templates show of a value. Markup is ours; everything else is made visible."""
    return value if hasattr(value, "__html__") else visible(value)


def wrappable(value: object) -> Markup:
    """The value with places at which a line may end: after the signs within names and addresses."""
    return Markup("<wbr>").join(_AFTER_SIGN.split(visible(value)))  # which escapes each part


def address_part(value: object) -> str:
    """The value in a path or query. Its slashes are encoded too, so that a name with `/../` leads to no other page."""
    return url_quote(str(value), safe="")


def make_pages() -> jinja2.Environment:
    """The templates. INVARIANT: everything that they show passes `show`; `quote` is for parts of a sentence."""
    pages = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=show,
    )
    pages.globals["assets"] = "/static"  # where no page says where they are served
    pages.globals["describe_terms"] = describe_terms
    pages.tests["long"] = is_long
    pages.filters |= {"quote": quote, "shorten": shorten, "wrappable": wrappable, "urlencode": address_part}
    return pages
