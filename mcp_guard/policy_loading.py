"""Where one guard process loads its policies from: the files of the configuration, or with `[guard] policy_approval`
the set that people have approved, of which the files are proposals.
"""

from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any

from mcp_guard.core.errors import GuardError
from mcp_guard.core.model import Json
from mcp_guard.ledger.open import OpenLedger
from mcp_guard.ledger.peers import PeerPolicies
from mcp_guard.ledger.policy_approvals import (
    ApprovedPolicies,
    ApprovedPolicyReceipts,
    GuardProposals,
    configured_approvals,
    rule_member,
)
from mcp_guard.ledger.writer import Transaction
from mcp_guard.policy.files import digest_of_files
from mcp_guard.policy.proposals import PolicyProposer
from mcp_guard.policy.reload import PolicyReloader
from mcp_guard.policy_environments import environment_with_pins
from mcp_guard.server_log import LoggedPolicyReceipts, ServerLog
from mcp_guard.settings import Settings

Job = Callable[[], Coroutine[Any, Any, None]]


class PolicyLoading:
    """Loads, reloads and proposes policies. `log` tells the operator what has become of them."""

    def __init__(self, settings: Settings, ledger: OpenLedger, log: ServerLog) -> None:
        self._settings = settings
        self._ledger = ledger
        self._log = log
        self._approvals = approvals = configured_approvals(settings, ledger.writer)
        approved = None if approvals is None else ApprovedPolicies(approvals)
        receipts = LoggedPolicyReceipts(
            ledger.ledger if approvals is None else ApprovedPolicyReceipts(ledger.ledger), log
        )
        self.reloader = PolicyReloader(
            receipts, log.note, policies=settings.policies, shadow=settings.shadow, approved=approved
        )
        self._proposer = None
        if approvals is not None:
            self._proposer = PolicyProposer(
                GuardProposals(approvals, ledger.ledger, self._on_proposed),
                receipts,
                policies=settings.policies,
                routes=tuple(settings.routes),
                why_unusable=self._why_unusable,
                tell=log.note,
            )

    @property
    def started_members(self) -> Json:
        """What the receipt of the guard's start says of the rule."""
        return {} if self._approvals is None else rule_member(self._approvals.route)

    def begin(self, tx: Transaction) -> None:
        """In the transaction of that receipt."""
        if self._approvals is not None:
            self._approvals.begin(tx)

    def jobs(self) -> tuple[Job, ...]:
        """What runs beside the calls, each until it is cancelled."""
        proposing: tuple[Job, ...] = () if self._proposer is None else (self._propose,)
        return (self.reloader.watch, self._compare, *proposing)

    async def _propose(self) -> None:
        assert self._proposer is not None
        await self._proposer.watch()

    async def _why_unusable(self, texts: Mapping[str, str]) -> GuardError | None:
        pins = await self._ledger.writer.query(lambda store: store.pins())
        known = environment_with_pins(self._settings, (), self._settings.upstreams.keys(), pins)
        return await self.reloader.why_unusable(texts, known)

    async def _compare(self) -> None:
        digest = partial(digest_of_files, self._settings.policies)
        await PeerPolicies(self._ledger.ledger, digest, self._log.note).run()

    def _on_proposed(self) -> None:
        """Have the messages of the route sent."""
        for callback in self._ledger.approvals.on_asked:
            callback()
