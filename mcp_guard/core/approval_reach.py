"""Whether enough people may approve a request at all. Pure."""

from collections.abc import Iterable, Mapping, Sequence

from mcp_guard.core.approval import Route, RouteRule, escalate_rule, may_decide
from mcp_guard.core.approval_subject import NAME_USER
from mcp_guard.core.people import Requesters
from mcp_guard.core.visible_text import join, quote, say


def why_never_granted(rules: Iterable[RouteRule], routes: Mapping[str, Route], requesters: Requesters) -> str:
    """Which route can never have its quorum of this request, and why; empty if each can, perhaps once it escalates.

    The rules of a request, and who made it, stay as they are: no key that is added later changes the answer.
    """
    for rule in rules:
        route = routes.get(rule.route)
        waited = route.escalate_after if route is not None else 0
        widest = escalate_rule(rule, routes, waited, requesters.approvers) or rule
        able = [name for name in widest.approvers if may_decide(widest, name, requesters.approvers)]
        if len(able) < widest.quorum:
            return _explain(widest, able, requesters)
    return ""


def _explain(rule: RouteRule, able: Sequence[str], requesters: Requesters) -> str:
    barred = [name for name in rule.approvers if name not in able]
    own = say("; {} may not approve their own request", join(", ", map(quote, barred))) if barred else ""
    unknown = "; its user is not in the configuration, so two people must approve" if requesters.is_user_unknown else ""
    fix = f", or {NAME_USER}" if requesters.is_user_unknown else ""
    return say(
        "nobody was asked, because route {} needs {} and {} can be had{}{}; the operator can add approvers to it{}",
        quote(rule.route),
        "1 approval" if rule.quorum == 1 else f"{rule.quorum} approvals",
        f"only {len(able)}" if able else "none",
        own,
        unknown,
        fix,
    )
