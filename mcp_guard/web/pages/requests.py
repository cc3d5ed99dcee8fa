"""One request: what it would do, who asks and why; its decision, signed with a passkey; and the end of a grant."""

import asyncio
import json
from dataclasses import asdict, dataclass
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mcp_guard.core.approval import Approval, ApprovalState, GrantTerms, VoteStatement, check_sign_in, rules_as_json
from mcp_guard.core.approval_card import approvals_missing, earlier_lines, recent_lines
from mcp_guard.core.confirmation import confirmation_words
from mcp_guard.core.drill_results import is_told
from mcp_guard.core.errors import ApprovalError, SignInRequired
from mcp_guard.core.model import Json
from mcp_guard.core.sign_in import SignIn
from mcp_guard.core.visible_text import VisibleText, say, shorten, visible_lines
from mcp_guard.storage.contract import Store
from mcp_guard.web.console import ENROLS_ONLY, Console, NavigationLink, read_json, text_of
from mcp_guard.web.operations import passkeys_to_sign
from mcp_guard.web.passkeys import evidence
from mcp_guard.web.roles import PAYLOAD_READERS, Role
from mcp_guard.web.sessions import BrowserSession
from mcp_guard.web.view import ApprovalCard, approvers_of, make_card, make_listed_card, may_see, policy_texts

NAV: tuple[NavigationLink, ...] = ()
MAX_TARGET = 100
"""Characters of a resource's id in the sentence that confirms a decision."""


def routes(console: Console) -> list[Route]:
    pages = _RequestPages(console)
    return [
        Route("/requests/{id}", pages.show),
        Route("/requests/{id}/state", pages.state),
        Route("/requests/{id}/options", pages.decide_options, methods=["POST"]),
        Route("/requests/{id}/decide", pages.decide, methods=["POST"]),
        Route("/revoke/{id}", pages.revoke, methods=["POST"]),
    ]


@dataclass(frozen=True, slots=True)
class _RequestPages:
    console: Console

    async def show(self, request: Request) -> Response:
        console, read = self.console, self.console.reader.read
        viewer = await console.allowed(request, *PAYLOAD_READERS)
        approval = await self._find_approval(request, viewer)
        removed = {key.id for key in await console.keys() if key.removed is not None}
        material = await read(lambda store: store.policy(approval.subject.binding["policy_version"]))
        return await asyncio.to_thread(
            console.page,
            "request.html",
            viewer,
            card=await asyncio.to_thread(make_card, approval, console.now(), viewer.approver, removed),
            recent=recent_lines(await read(lambda store: store.recent_calls(approval)), approval.subject),
            earlier=earlier_lines(await read(lambda store: store.earlier_requests(approval)), approval.subject),
            deliveries=await read(lambda store: store.deliveries(approval.id)),
            texts=await asyncio.to_thread(policy_texts, material, approval),
            happened=await read(lambda store: _what_happened(store, approval)),
            has_passkey=bool(await console.passkeys_of(viewer)),
            sign_in_problem=_sign_in_problem(console, viewer, approval),
            plain=visible_lines,
        )

    async def state(self, request: Request) -> Response:
        viewer = await self.console.allowed(request, *PAYLOAD_READERS, is_part=True)
        return JSONResponse({"state": str((await self._find_approval(request, viewer)).state)})

    async def _find_approval(self, request: Request, viewer: BrowserSession) -> Approval:
        """Raises: HTTPException."""
        row = await self.console.reader.read(lambda store: store.approval(request.path_params["id"]))
        if row is None:
            raise HTTPException(404, "no such request")
        if not may_see(approvers_of(row[0]), viewer):
            routes = ", ".join(rule.route for rule in row[0].rules)
            raise HTTPException(403, f"this request is for the approvers of its routes ({routes}), and you are none")
        return row[0]

    # Decisions

    async def decide_options(self, request: Request) -> Response:
        """Prepare the statement to sign."""
        console = self.console
        viewer, body = await console.allowed(request, Role.APPROVER), await read_json(request)
        verdict = body.get("verdict")
        if verdict not in ("approve", "deny"):
            raise ApprovalError("`verdict` must be approve or deny")
        rationale, terms = text_of(body, "rationale"), _read_terms(body.get("terms"))
        signed_in = viewer.person.sign_in
        op = console.votes.prepare_op(request.path_params["id"], viewer.approver, verdict, rationale, terms, signed_in)
        statement = await console.writer.submit(op)
        passkeys = await passkeys_to_sign(console, viewer)
        asked = console.passkeys.ask(viewer, statement.text(), passkeys, console.now(), "decide", asdict(statement))
        return JSONResponse(asked)

    async def decide(self, request: Request) -> Response:
        console = self.console
        viewer, credential = await console.allowed(request, Role.APPROVER), await read_json(request)
        keys = await console.keys()
        key, subject, count = await console.passkeys.answer(credential, viewer, keys, console.now(), "decide")
        statement = _read_statement(subject)
        if statement.approver != viewer.approver or key.approver != viewer.approver:
            raise ApprovalError("the passkey belongs to another approver")
        if statement.approval != request.path_params["id"]:
            raise ApprovalError("the passkey signed for another request")
        approval = await console.writer.submit(console.votes.record_op(statement, key.id, evidence(credential)))
        await console.record_use(key, count)
        if is_told(approval, viewer.approver):  # and its page says what the vote has done
            return JSONResponse({"state": str(approval.state), "go": f"/requests/{approval.id}"})
        done = _what_was_recorded(statement.verdict, make_listed_card(approval, console.now(), viewer.approver))
        return JSONResponse({"state": str(approval.state), "go": "/", "done": done})

    async def revoke(self, request: Request) -> Response:
        console = self.console
        viewer, body = await console.allowed(request, Role.APPROVER), await read_json(request)
        op = console.votes.revoke_op(request.path_params["id"], viewer.approver, text_of(body, "rationale"))
        await console.writer.submit(op)
        return JSONResponse({"go": "/", "done": "Revoked."})


def _sign_in_problem(console: Console, viewer: BrowserSession, approval: Approval) -> str:
    """Why the viewer has to sign in again before they decide; empty if they need not."""
    if console.may_only_enrol(viewer):
        return ENROLS_ONLY
    try:
        check_sign_in(approval, viewer.approver, viewer.person.sign_in, console.now())
    except SignInRequired as problem:
        return problem.message
    return ""


def _what_was_recorded(verdict: str, card: ApprovalCard) -> VisibleText:
    approval = card.approval
    what = say("{} {}", card.title, shorten(card.target, MAX_TARGET)) if card.target else card.title
    if verdict == "deny":
        return say("You denied: {}.", what)
    if approval.state is not ApprovalState.REQUESTED:
        return say("You approved: {}.", what)
    missing = approvals_missing(rules_as_json(approval), [vote.approver for vote in approval.votes])
    return say("You approved: {}. It needs {}.", what, missing)


def _read_terms(terms: Any) -> GrantTerms | None:
    """Raises: ApprovalError."""
    if terms is None:
        return None
    try:
        return GrantTerms(int(terms["more"]), int(terms["seconds"]), tuple(str(name) for name in terms["free"]))
    except (KeyError, TypeError, ValueError, OverflowError):
        raise ApprovalError("a grant requires a number of calls, a time limit and a list of free arguments") from None


def _what_happened(store: Store, approval: Approval) -> VisibleText:
    """What reading the resource after the approved call has shown; empty if it was not read."""
    row = None if approval.outcome is None else store.receipt(approval.outcome)
    confirmation = row and json.loads(row.body).get("confirmation")
    return confirmation_words(confirmation) if confirmation else VisibleText("")


def _read_statement(subject: Json) -> VoteStatement:
    terms, signed_in = subject["terms"], subject["signed_in"]
    read = {
        "rules": tuple(subject["rules"]),
        "terms": GrantTerms.from_json(terms) if terms else None,
        "signed_in": SignIn.from_fields(signed_in) if signed_in else None,
    }
    return VoteStatement(**subject | read)
