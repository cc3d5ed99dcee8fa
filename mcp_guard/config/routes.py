"""The section `[routes]`: who decides on held calls, and the drills that show how they decide."""

import re
from collections.abc import Collection, Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from mcp_guard.config.errors import no_upstream_of
from mcp_guard.config.notifiers import AnyNotifier, followers
from mcp_guard.config.types import ConfigModel
from mcp_guard.core.approval import Route
from mcp_guard.core.drills import DrillRule, Drills
from mcp_guard.core.model import SECOND
from mcp_guard.core.sign_in import SignInRule

MAX_WHY = 500
"""Characters: receipts of drills repeat it, and it is committed to whole."""
RATE = re.compile(r"1 in ([1-9][0-9]{0,5})")
Argument = Annotated[str, Field(min_length=1)]


class DrillConfig(ConfigModel):
    """How a request is made wrong."""

    tool: str
    arguments: dict[Argument, str | int | float | bool] = {}
    multiply: dict[Argument, int | float] = {}
    borrow: tuple[Argument, ...] = ()
    why: Annotated[str, Field(min_length=1, max_length=MAX_WHY)]

    @model_validator(mode="after")
    def changes_something(self) -> "DrillConfig":
        names = [*self.arguments, *self.multiply, *self.borrow]
        if not names:
            raise ValueError("nothing makes the request wrong; add arguments = { NAME = VALUE }, multiply or borrow")
        if len(set(names)) < len(names):
            raise ValueError("an argument is changed twice; name each once in `arguments`, `multiply` and `borrow`")
        return self

    def rule(self) -> DrillRule:
        return DrillRule(self.tool, self.why, dict(self.arguments), dict(self.multiply), self.borrow)


class RouteConfig(ConfigModel):
    approvers: Annotated[tuple[str, ...], Field(min_length=1)]
    quorum: Annotated[int, Field(ge=1)] = 1
    expires_seconds: Annotated[int, Field(gt=0)] = 3600
    escalate_to: str | None = None
    escalate_after_seconds: Annotated[int, Field(gt=0)] = 900
    notify: tuple[str, ...] = ()
    accept: tuple[Literal["slack"], ...] = ()
    text: str = ""
    unsafe_self_approval: bool = False
    acr: tuple[Annotated[str, Field(pattern=r"^[!-~]{1,255}$")], ...] = ()
    mfa: bool = False
    signed_in_within_seconds: Annotated[int, Field(gt=0)] | None = None
    drills: str | None = None
    drill: tuple[DrillConfig, ...] = ()

    @property
    def sign_in(self) -> SignInRule | None:
        rule = SignInRule(self.acr, self.mfa, self.signed_in_within_seconds or 0)
        return rule if rule.to_json() else None

    def route(self, name: str, notifiers: Mapping[str, AnyNotifier]) -> Route:
        return Route(
            name=name,
            approvers=self.approvers,
            expires=self.expires_seconds * SECOND,
            unsafe_self_approval=self.unsafe_self_approval,
            quorum=self.quorum,
            escalate_to=self.escalate_to,
            escalate_after=self.escalate_after_seconds * SECOND,
            notify=self.notify,
            text=self.text,
            sign_in=self.sign_in,
            follow=followers(self.notify, notifiers),
            accept=self.accept,
            drills=self._drills(),
        )

    def _drills(self) -> Drills | None:
        rate = RATE.fullmatch(self.drills or "")
        return Drills(int(rate[1]), tuple(drill.rule() for drill in self.drill)) if rate else None

    def check_drills(self, key: str, upstreams: Collection[str], approves_policies: bool) -> None:
        """Raises: ValueError. `key` is that of the route."""
        if self.drills is None and not self.drill:
            return
        if self.drills is None or not RATE.fullmatch(self.drills):
            what = "no rate says how often" if self.drills is None else f"`{self.drills}` is no rate"
            raise ValueError(f'{key}.drills: {what}; for one drill for every 20 requests: drills = "1 in 20"')
        if not self.drill:
            raise ValueError(f"{key}.drills: nothing says what is wrong in a drill; add [[{key}.drill]]")
        if approves_policies:
            raise ValueError(f"{key}.drills: the route approves policies (guard.policy_approval); use another route")
        for drill in self.drill:
            if drill.tool.partition("__")[0] not in upstreams:
                raise ValueError(f"{key}.drill.tool: {no_upstream_of(drill.tool, upstreams)}")
