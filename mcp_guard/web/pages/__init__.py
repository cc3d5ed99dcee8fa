"""The pages of the console, one module each. To add one: a module with `NAV` and `routes`, a template, a line here."""

from collections.abc import Mapping
from typing import Protocol

from starlette.routing import Route

from mcp_guard.web.console import Console, NavigationLink
from mcp_guard.web.pages import (
    agents,
    approvers,
    inbox,
    keys,
    ledger,
    oidc,
    operations,
    overview,
    policies,
    policy_changes,
    push,
    requests,
    sign_in,
    slack,
    story,
    tools,
    upstreams,
)


class PageModule(Protocol):
    """What each module has."""

    @property
    def NAV(self) -> tuple[NavigationLink, ...]:
        """What it adds to the bar at the top, in the order of `PAGES`."""

    def routes(self, console: Console) -> list[Route]: ...


PAGES: tuple[PageModule, ...] = (
    inbox, requests, overview, ledger, story, agents, policies, policy_changes, tools, upstreams, operations, approvers,
    keys, sign_in, oidc, slack, push,
)  # fmt: skip
FROM_ELSEWHERE: Mapping[str, int] = {oidc.BACK_CHANNEL: oidc.MAX_LOGOUT_BYTES, slack.PATH: slack.MAX_BODY_BYTES}
"""Paths of requests that no page of ours makes, and how many bytes they may have. They have no session and another
origin: their pages check who has sent them."""
