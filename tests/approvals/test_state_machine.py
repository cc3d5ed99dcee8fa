"""Random walks through the approval lifecycle: two guards on one ledger, checked against a model of the state table.

Whatever the order of steps: the model and the ledger agree on every state, no call is sent without an approval that
was granted for it and not used, none is used twice, and the ledger verifies.
"""

import asyncio
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mcp_guard.core.approval import ApprovalState
from mcp_guard.core.errors import ApprovalError
from mcp_guard.core.model import ToolCallRequest
from mcp_guard.ledger.approvals.votes import Votes
from mcp_guard.verifier import verify_ledger
from tests.promises.harness import (
    ALLOW,
    HOLD,
    NOW,
    PEOPLE,
    ROUTES,
    SECOND,
    Harness,
    make_instance,
    open_harness,
    pending_id,
    text,
)
from tests.proof_size import sized

CALLS = st.sampled_from(["a", "b"])
GUARDS = st.integers(0, 1)
NUMBERS = st.integers(0, 9)
VOTERS = st.sampled_from(sorted(PEOPLE))
INSTANCE = make_instance(expires=NOW + 10**6 * 3600 * SECOND)


class Approvals(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        policies = f"{ALLOW}\n{HOLD}"
        self.guards = [open_harness(self.folder, policies) for _ in range(2)]
        self.clock = self.guards[0].clock
        for guard in self.guards:
            guard.ledger.writer._clock = self.clock  # both share one clock
            guard.store._run("PRAGMA synchronous = OFF")  # durability is not tested here
        self.guards = [self._on_clock(guard) for guard in self.guards]
        self.model: dict[str, ApprovalState] = {}
        self.of: dict[str, str] = {}
        self.expires: dict[str, int] = {}
        self.sent = 0

    def _on_clock(self, harness: Harness) -> Harness:
        return replace(harness, guard=replace(harness.guard, clock=self.clock))

    def teardown(self) -> None:
        for guard in self.guards:
            guard.close()
        report = verify_ledger(self.folder / "state" / "ledger.sqlite", self.folder / "state" / "ledger.pub")
        assert not self.model or report.ok, report.problem
        shutil.rmtree(self.folder)

    def which(self, number: int) -> str:
        """One of the requests made so far, by position, since ids differ between runs."""
        return list(self.model)[number % len(self.model)]

    def live(self, call: str) -> str | None:
        """The approval that applies to a call, according to the model."""
        counting = (ApprovalState.REQUESTED, ApprovalState.APPROVED, ApprovalState.DENIED)
        ids = [id for id, of in self.of.items() if of == call and self.model[id] in counting]
        return next((id for id in reversed(ids) if self.clock.time + 1 < self.expires[id]), None)

    @rule(call=CALLS, guard=GUARDS, is_reachable=st.booleans())
    def ask(self, call: str, guard: int, is_reachable: bool) -> None:
        """An agent makes the call, for the first time or again. An upstream that is not reached gets nothing of it."""
        harness, before = self.guards[guard], self.live(call)
        harness.upstream.is_unreachable = not is_reachable
        # Hypothesis calls the rules of a state machine itself, without a loop: pytest-asyncio does not reach them.
        reply = asyncio.run(harness.guard.call(INSTANCE, ToolCallRequest("crm__note", {"text": call})))
        if before is not None and self.model[before] is ApprovalState.APPROVED and not is_reachable:
            assert "was not sent" in text(reply)
        elif before is not None and self.model[before] is ApprovalState.APPROVED:
            assert text(reply) == "done"
            self.model[before] = ApprovalState.CONSUMED
            self.sent += 1
        elif before is not None and self.model[before] is ApprovalState.DENIED:
            assert "is denied by" in text(reply)
        else:
            id = pending_id(reply)
            assert before in (None, id)
            self.model[id], self.of[id] = ApprovalState.REQUESTED, call
            self.expires[id] = harness.store.approval(id)[0].expires

    @precondition(lambda self: self.model)
    @rule(
        number=NUMBERS, verdict=st.sampled_from(["approve", "deny"]), who=st.sampled_from(sorted(PEOPLE)), guard=GUARDS
    )
    def vote(self, number: int, verdict: str, who: str, guard: int) -> None:
        id = self.which(number)
        may = who in ("alice", "carol")
        open_now = self.model[id] is ApprovalState.REQUESTED and self.clock.time + 1 < self.expires[id]
        if may and open_now:
            self.guards[guard].approve(id, who, verdict)
            self.model[id] = ApprovalState.APPROVED if verdict == "approve" else ApprovalState.DENIED
        else:
            with pytest.raises(ApprovalError):
                self.guards[guard].approve(id, who, verdict)

    @precondition(lambda self: self.model)
    @rule(number=NUMBERS)
    def revoke(self, number: int) -> None:
        id = self.which(number)
        votes = Votes(self.guards[0].ledger.writer, ROUTES, PEOPLE)
        if self.model[id] is ApprovalState.APPROVED:
            votes.revoke(id, "alice", "on second thoughts")
            self.model[id] = ApprovalState.REVOKED
        else:
            with pytest.raises(ApprovalError):
                votes.revoke(id, "alice", "on second thoughts")

    @rule(seconds=st.sampled_from([1, 1800, 3599]))
    def time_goes_on(self, seconds: int) -> None:
        self.clock.time += seconds * SECOND

    @precondition(lambda self: ApprovalState.REQUESTED in self.model.values())
    @rule(guard=GUARDS)
    def the_instance_ends(self, guard: int) -> None:
        self.guards[guard].end(INSTANCE.id)
        self.expires = dict.fromkeys(self.expires, 0)  # decided requests are not looked up again
        for id, state in self.model.items():
            if state is ApprovalState.REQUESTED:
                self.model[id] = ApprovalState.WITHDRAWN
            elif state is ApprovalState.APPROVED:
                self.model[id] = ApprovalState.STALE

    @invariant()
    def the_ledger_says_what_the_model_says(self) -> None:
        result = {approval.id: approval.state for approval in self.guards[0].store.approvals()}
        assert result == self.model

    @invariant()
    def every_send_used_an_approval(self) -> None:
        assert sum(len(guard.upstream.sent) for guard in self.guards) == self.sent
        assert self.sent == list(self.model.values()).count(ApprovalState.CONSUMED)


Approvals.TestCase.settings = settings(max_examples=sized(40, 20), stateful_step_count=25, deadline=None)
TestApprovals = Approvals.TestCase
