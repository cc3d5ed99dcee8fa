"""A person's keys, and the enrolment of passkeys."""

import base64
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mcp_guard.core.errors import ApprovalError, GuardError, SignInRequired
from mcp_guard.core.model import Json
from mcp_guard.core.sign_in import SignIn
from mcp_guard.ledger.approvals.approver_keys import (
    Approver,
    CodeKind,
    NewKey,
    enrol_with_code,
    enrol_with_key,
    enrol_with_sign_in,
    ever_had_key,
    keys_in_use,
    voucher,
)
from mcp_guard.storage.rows import ApproverKey
from mcp_guard.web.console import Console, NavigationLink, read_json
from mcp_guard.web.passkeys import evidence
from mcp_guard.web.roles import Role
from mcp_guard.web.sessions import ENROLMENT_LIFETIME, BrowserSession
from mcp_guard.web.view import KeyCard, make_key_card

ROLES = frozenset({Role.APPROVER, Role.OPERATOR})
NAV = (NavigationLink("/keys", "Keys", ROLES),)


def routes(console: Console) -> list[Route]:
    pages = _KeyPages(console)
    return [
        Route("/keys", pages.show),
        Route("/passkeys/options", pages.passkey_options, methods=["POST"]),
        Route("/passkeys", pages.enrol_passkey, methods=["POST"]),
        Route("/passkeys/vouch", pages.vouch_for_passkey, methods=["POST"]),
    ]


async def key_cards(console: Console, viewer: BrowserSession) -> list[KeyCard]:
    """The viewer's keys, the newest first."""
    keys, enrolments = await console.reader.read(lambda store: (store.approver_keys(), store.enrolments()))
    own = [key for key in reversed(keys) if key.approver == viewer.approver]
    return [make_key_card(key, enrolments[key.id], console.now()) for key in own]


@dataclass(frozen=True, slots=True)
class _KeyPages:
    console: Console

    async def show(self, request: Request) -> Response:
        viewer = await self.console.allowed(request, *ROLES)
        console = self.console
        return console.page(
            "keys.html", viewer, keys=await key_cards(console, viewer), can_change=console.can_change(viewer)
        )

    async def passkey_options(self, request: Request) -> Response:
        console = self.console
        viewer = await console.allowed(request, *ROLES)
        name, keys = self._approver(viewer).name, await console.keys()
        self._enrolment_permit(viewer, keys)
        existing = console.passkeys_among(keys, viewer)
        return JSONResponse(console.passkeys.registration(viewer, name, existing, console.now()))

    async def enrol_passkey(self, request: Request) -> Response:
        """Enrol it if the viewer's code or sign-in permits it. Otherwise the answer is 403 with the request, `vouch`,
        that one of their passkeys must sign first."""
        console = self.console
        viewer = await console.allowed(request, *ROLES)
        new = console.passkeys.register(await read_json(request), viewer, console.now())
        keys = await console.keys()
        permit = self._enrolment_permit(viewer, keys)
        if isinstance(permit, SignIn):
            await enrol_with_sign_in(console.writer, self._approver(viewer), new, permit, self._notifiers)
            await console.renew_token(request, viewer)
            return JSONResponse({"go": "/keys"})
        if permit is not None:
            if not await console.sessions.take_code(viewer, console.now()):  # it authorizes one enrolment
                raise ApprovalError("your code was used meanwhile", "reload the page")
            try:
                await enrol_with_code(console.writer, self._approver(viewer), new, permit, self._notifiers)
            except GuardError:
                await console.sessions.give_code_back(viewer, console.now())
                raise
            await console.renew_token(request, viewer)
            return JSONResponse({"go": "/keys"})
        text = voucher(console.writer.key.origin, viewer.approver, new)
        passkeys = console.passkeys_among(keys, viewer)
        vouch = console.passkeys.ask(viewer, text, passkeys, console.now(), "vouch", _dump_key(new))
        problem = {"problem": "confirm the new passkey with one that you have", "hint": "", "vouch": vouch}
        return JSONResponse(problem, 403)

    async def vouch_for_passkey(self, request: Request) -> Response:
        console = self.console
        viewer, credential = await console.allowed(request, *ROLES), await read_json(request)
        passkeys = await console.passkeys_of(viewer)
        key, subject, count = await console.passkeys.answer(credential, viewer, passkeys, console.now(), "vouch")
        new, approver = _read_key(subject), self._approver(viewer)
        await enrol_with_key(console.writer, approver, new, key.id, evidence(credential), self._notifiers)
        await console.record_use(key, count)
        await console.renew_token(request, viewer)
        return JSONResponse({"go": "/keys"})

    def _enrolment_permit(self, viewer: BrowserSession, keys: list[ApproverKey]) -> CodeKind | SignIn | None:
        """The code or sign-in that authorizes an enrolment now; None if a passkey of the viewer must.

        Raises: ApprovalError.
        """
        code, name = viewer.enrolment_code(self.console.now()), viewer.approver
        is_first = not ever_had_key(keys, name)
        if code is not None and (code == "enrolment_code" or is_first):
            return code
        if self.console.passkeys_among(keys, viewer):
            return None
        if (sign_in := viewer.person.sign_in) is not None and is_first:
            return self._fresh(sign_in, viewer)
        if not is_first or viewer.person.issuer:
            hint = f"sign in with a new code that says so: mcp-guard approvers code {name} --enrol"
            verb = "has" if keys_in_use(keys, name) else "had"
            raise ApprovalError(f"`{name}` {verb} a key already, so a passkey needs the operator's consent", hint)
        hint = f"sign in with a new one: mcp-guard approvers code {name}"
        raise ApprovalError("the code that you signed in with no longer permits an enrolment", hint)

    def _fresh(self, sign_in: SignIn, viewer: BrowserSession) -> SignIn:
        """A sign-in that authorizes a first key: the person has just proved to the provider who they are.

        Raises: ApprovalError.
        """
        console = self.console
        provider = console.settings.web.provider if console.settings.web else None
        if provider is None or not provider.enrolment:
            problem = "this guard does not enrol keys on the word of the identity provider (web.oidc.enrolment)"
            raise ApprovalError(problem, f"sign in with a code: mcp-guard approvers code {viewer.approver} --enrol")
        now = console.now()
        if sign_in.at is None or now - min(sign_in.at, viewer.since) > ENROLMENT_LIFETIME:
            raise SignInRequired("a first passkey requires a sign-in of the last ten minutes", "sign in again")
        return sign_in

    def _approver(self, viewer: BrowserSession) -> Approver:
        """Raises: ApprovalError for somebody who may only look, or change what no approver decides."""
        if viewer.approver not in self.console.votes.people:
            problem = "keys belong to the entries in [approvers], and none of them is yours"
            raise ApprovalError(problem, "ask the operator for an entry with your identity")
        return Approver(viewer.approver, self.console.votes.people[viewer.approver])

    @property
    def _notifiers(self) -> tuple[str, ...]:
        """Those that report each new key: all."""
        return tuple(self.console.settings.notifiers)


def _dump_key(new: NewKey) -> Json:
    return {"method": new.method, "public": new.text, "details": new.details}


def _read_key(subject: Json) -> NewKey:
    return NewKey(subject["method"], base64.b64decode(subject["public"]), subject["details"])
