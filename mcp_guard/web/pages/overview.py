"""What goes on: calls and how they were decided, over time; what waits, what was denied, what is down."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mcp_guard.core.approval import Approval, ApprovalState
from mcp_guard.core.model import HOUR, Micros
from mcp_guard.core.visible_text import say
from mcp_guard.ledger.receipt_search import SEARCH_SECONDS, Search, find
from mcp_guard.storage.contract import Store
from mcp_guard.storage.receipt_index import ReceiptIndex
from mcp_guard.web.charts import BarChart, Series, bar_chart, rank
from mcp_guard.web.console import Console, NavigationLink
from mcp_guard.web.pages import approvers
from mcp_guard.web.pages.inbox import LATEST, read_approvals
from mcp_guard.web.pages.ledger import read_entry_rows
from mcp_guard.web.roles import PAYLOAD_READERS, READERS
from mcp_guard.web.upstream_states import read_upstream_states
from mcp_guard.web.view import approvers_of, make_listed_card, may_see

NAV = (NavigationLink("/overview", "Overview", READERS),)
LISTED = 5
MAX_LATEST = 30
"""Requests among which those that wait are looked for."""
PERIODS = {"24h": ("24 hours", 1, 24), "7d": ("7 days", 6, 28), "30d": ("30 days", 24, 30), "90d": ("90 days", 72, 30)}
"""By name: what it is called, the hours of a step, and the number of steps."""
DECISIONS = (
    Series("allowed", "Allowed", "s-allowed"),
    Series("approved", "Approved by people", "s-approved"),
    Series("denied", "Denied by policy", "s-denied"),
    Series("refused", "Not approved by people", "s-refused"),
)
ENDINGS = (
    Series("ok", "Done", "s-allowed"),
    Series("tool_error", "Tool error", "s-refused"),
    Series("failed", "Failed or unknown", "s-denied"),
)
RISKS = (
    Series("low", "Low risk", "s-quiet"),
    Series("medium", "Medium risk", "s-refused"),
    Series("high", "High risk", "s-denied"),
)


@dataclass(frozen=True, slots=True)
class Charts:
    """What was counted in one period."""

    decisions: BarChart
    endings: BarChart
    risks: BarChart
    totals: Mapping[str, Counter[str]]
    """By kind, the number of each value."""


def routes(console: Console) -> list[Route]:
    return [Route("/overview", _OverviewPages(console).show)]


@dataclass(frozen=True, slots=True)
class _OverviewPages:
    console: Console

    async def show(self, request: Request) -> Response:
        console = self.console
        is_part = request.query_params.get("part") == "overview"
        viewer = await console.allowed(request, *READERS, is_part=is_part)
        period = request.query_params.get("period", "24h")
        problem = "" if period in PERIODS else say("there is no period `{}`; choose one of those below", period[:50])
        _, hours, steps = PERIODS.get(period, PERIODS["24h"])
        now = console.now()
        indexed, charts = await console.search.read(
            lambda index: (index.position().size, read_charts(index, now, hours, steps))
        )
        denied = await console.search.read(
            lambda index: find(index, Search({"outcome": ["deny"]}), LISTED, SEARCH_SECONDS).page.entries
        )
        requested = await console.reader.read(lambda store: len(store.open_ids()))
        waiting = await console.reader.read(_waiting)
        running = await console.reader.read(lambda store: sum(number for _, number in store.count_instances(now)))
        receipts = (await console.search.progress())[1]
        has_inbox = not viewer.roles.isdisjoint(PAYLOAD_READERS)
        return console.page(
            "overview_part.html" if is_part else "overview.html",
            viewer,
            400 if problem else 200,
            problem=problem,
            period=period if not problem else "24h",
            periods=PERIODS,
            charts=charts,
            agents=rank(charts.totals["agent"], LISTED),
            tools=rank(charts.totals["tool"], LISTED),
            denials=rank(charts.totals["denied_by"], LISTED),
            denied=await read_entry_rows(console, denied, now),
            waiting=[
                (make_listed_card(approval, now, viewer.approver), may_see(approvers_of(approval), viewer))
                for approval in waiting
            ],
            waiting_count=requested,
            has_inbox=has_inbox,
            sees_approvers=not viewer.roles.isdisjoint(approvers.ROLES),
            running=running,
            upstreams=await read_upstream_states(console),
            indexed=indexed,
            receipts=receipts,
        )


def _waiting(store: Store) -> list[Approval]:
    latest = store.requests_before(LATEST, MAX_LATEST)
    return read_approvals(store, [row for row in latest if row.state == ApprovalState.REQUESTED][:LISTED])


def read_charts(index: ReceiptIndex, now: Micros, hours: int, steps: int) -> Charts:
    """Of the last `steps` steps of so many hours, of which the last one has not ended. Raises: LedgerError."""
    step = hours * HOUR
    since = now // step * step - (steps - 1) * step
    numbers: dict[str, Counter[tuple[int, str]]] = {}
    for at, kind, value, number in index.counts(since, now, hours):
        numbers.setdefault(kind, Counter())[at, value] += number
    endings = numbers.get("ending", Counter())
    grouped: Counter[tuple[int, str]] = Counter()
    for (at, ending), number in endings.items():
        grouped[at, ending if ending in ("ok", "tool_error") else "failed"] += number
    totals: dict[str, Counter[str]] = {kind: Counter() for kind in ("agent", "tool", "denied_by", "call", "ending")}
    for kind, counts in numbers.items():
        for (_, value), number in counts.items():
            totals.setdefault(kind, Counter())[value] += number
    return Charts(
        bar_chart(DECISIONS, numbers.get("call", {}), since, hours, steps),
        bar_chart(ENDINGS, grouped, since, hours, steps),
        bar_chart(RISKS, numbers.get("risk", {}), since, hours, steps),
        totals,
    )
