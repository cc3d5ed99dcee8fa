"""Policies that wait for approval: how they differ from those in force, what they would have decided, and the votes."""

import asyncio
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mcp_guard.core.errors import ApprovalError, ConfigError, SignInRequired
from mcp_guard.core.policy_approval import (
    PolicyApprovalState,
    PolicyProposal,
    PolicyStatement,
    check_sign_in,
    describe_missing,
)
from mcp_guard.core.sign_in import SignIn
from mcp_guard.ledger.policy_approvals import PolicyApprovals, configured_approvals, read_state, read_texts
from mcp_guard.policy.authoring.set_diff import FileDiff, diff_sets, show_files
from mcp_guard.storage.contract import Store
from mcp_guard.web.console import Console, NavigationLink, read_json, text_of
from mcp_guard.web.operations import passkeys_to_sign
from mcp_guard.web.passkeys import evidence
from mcp_guard.web.policy_replays import PolicyReplays
from mcp_guard.web.roles import READERS, Role
from mcp_guard.web.sessions import BrowserSession

ROLES = READERS | {Role.APPROVER}
NAV = (NavigationLink("/policy-changes", "Policy changes", ROLES),)
PURPOSE = "policy-approval"


def routes(console: Console) -> list[Route]:
    pages = _PolicyChanges(console, PolicyReplays(console.settings, console.reader))
    return [
        Route("/policy-changes", pages.show),
        Route("/policy-changes", pages.decide, methods=["POST"]),
        Route("/policy-changes/options", pages.options, methods=["POST"]),
        Route("/policy-changes/replay", pages.replay),
    ]


@dataclass(frozen=True, slots=True)
class _Sets:
    """The state of the ledger, and the texts of the set in force and of the one that waits."""

    state: PolicyApprovalState
    in_force: Mapping[str, str]
    proposed: Mapping[str, str]


def _read_sets(store: Store) -> _Sets:
    state = read_state(store) or PolicyApprovalState()
    in_force = read_texts(store, state.in_force) if state.in_force else {}
    return _Sets(state, in_force, read_texts(store, state.open.policy_set) if state.open else {})


def _differences(sets: _Sets) -> list[FileDiff]:
    return show_files(diff_sets(sets.in_force, sets.proposed))


@dataclass(frozen=True, slots=True)
class _PolicyChanges:
    console: Console
    replays: PolicyReplays

    async def show(self, request: Request) -> Response:
        console = self.console
        viewer = await console.allowed(request, *ROLES)
        sets = await console.reader.read(_read_sets)
        proposal = sets.state.open
        return console.page(
            "policy_changes.html",
            viewer,
            is_on=console.settings.policy_approval is not None,
            state=sets.state,
            proposal=proposal,
            missing=describe_missing(proposal) if proposal else "",
            files=await asyncio.to_thread(_differences, sets) if proposal else [],
            can_decide=self._can_decide(proposal, viewer),
            has_approved=proposal is not None and any(vote.approver == viewer.approver for vote in proposal.votes),
            sign_in_problem=self._sign_in_problem(proposal, viewer) if proposal else "",
            has_passkey=bool(await console.passkeys_of(viewer)),
        )

    def _can_decide(self, proposal: PolicyProposal | None, viewer: BrowserSession) -> bool:
        return proposal is not None and Role.APPROVER in viewer.roles and viewer.approver in proposal.rule.approvers

    def _sign_in_problem(self, proposal: PolicyProposal, viewer: BrowserSession) -> str:
        """Why the viewer has to sign in again before they decide; empty if they need not."""
        try:
            check_sign_in(proposal, viewer.person.sign_in, self.console.now())
        except SignInRequired as problem:
            return problem.message
        return ""

    async def replay(self, request: Request) -> Response:
        """The part of the page that says what the proposed set would have decided, or how far it is with that."""
        console = self.console
        viewer = await console.allowed(request, *ROLES, is_part=True)
        sets = await console.reader.read(_read_sets)
        if sets.state.open is None:
            raise ApprovalError("nothing waits for approval any more", "reload the page")
        replay = await self.replays.ask(sets.state.open.policy_set, sets.proposed)
        return console.page("policy_replay_part.html", viewer, replay=replay)

    def _approvals(self) -> PolicyApprovals:
        """Raises: ConfigError."""
        approvals = configured_approvals(self.console.settings, self.console.writer)
        if approvals is None:
            raise ConfigError("policies need no approval here", "set guard.policy_approval in the configuration")
        return approvals

    async def options(self, request: Request) -> Response:
        """Prepare the statement to sign."""
        console = self.console
        viewer, body = await console.allowed(request, Role.APPROVER), await read_json(request)
        id, verdict = str(body.get("proposal", "")), str(body.get("verdict", ""))
        rationale, signed_in = text_of(body, "rationale"), viewer.person.sign_in
        op = self._approvals().prepare_op(id, viewer.approver, verdict, rationale, signed_in)
        statement = await console.writer.submit(op)
        passkeys = await passkeys_to_sign(console, viewer)
        asked = console.passkeys.ask(viewer, statement.text(), passkeys, console.now(), PURPOSE, asdict(statement))
        return JSONResponse(asked)

    async def decide(self, request: Request) -> Response:
        console = self.console
        viewer, credential = await console.allowed(request, Role.APPROVER), await read_json(request)
        keys = await console.keys()
        key, subject, count = await console.passkeys.answer(credential, viewer, keys, console.now(), PURPOSE)
        signed_in = subject["signed_in"]
        statement = PolicyStatement(**subject | {"signed_in": SignIn.from_fields(signed_in) if signed_in else None})
        if {statement.approver, key.approver} != {viewer.approver}:
            raise ApprovalError("the passkey belongs to another approver", "sign with your own passkey")
        await console.writer.submit(self._approvals().record_op(statement, key.id, evidence(credential)))
        await console.record_use(key, count)
        return JSONResponse({"go": "/policy-changes"})
