"""Sign-in with the identity provider: it begins here, comes back here, and ends where the provider says so.

The browser comes back to a page without data, whose script sends the provider's answer together with the sealed attempt
that this browser keeps. So it is a request of our own page, at an https origin as on loopback.
"""

from dataclasses import dataclass
from urllib.parse import parse_qs

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mcp_guard.core.approval import may_decide
from mcp_guard.core.identity_provider import IdentityProvider
from mcp_guard.core.model import SECOND, Json
from mcp_guard.core.people import Identity
from mcp_guard.core.sign_in import SignInRule
from mcp_guard.core.visible_text import visible_line
from mcp_guard.ledger.policy_approvals import read_state
from mcp_guard.notify.push import forget_devices
from mcp_guard.storage.contract import Store
from mcp_guard.web.console import Console, NavigationLink, read_json
from mcp_guard.web.id_token import SignedInPerson, SignInFailed
from mcp_guard.web.oidc import Attempt, Demand, read_query
from mcp_guard.web.oidc_attempts import ProviderSignIns, return_path
from mcp_guard.web.pages.sign_in import welcome
from mcp_guard.web.roles import Role, approver_of
from mcp_guard.web.sessions import ENROLMENT_LIFETIME, Person

NAV: tuple[NavigationLink, ...] = ()
CALLBACK = "/sign-in/oidc/callback"
BACK_CHANNEL = "/sign-in/oidc/back-channel"
MAX_LOGOUT_BYTES = 32 * 1024


def routes(console: Console) -> list[Route]:
    provider = console.settings.web.provider if console.settings.web else None
    if console.provider is None or provider is None:
        return []
    pages = _OidcPages(console, console.provider, provider)
    return [
        Route("/sign-in/oidc", pages.begin, methods=["POST"]),
        Route(CALLBACK, pages.callback),
        Route("/sign-in/oidc/finish", pages.finish, methods=["POST"]),
        Route(BACK_CHANNEL, pages.back_channel_logout, methods=["POST"]),
    ]


@dataclass(frozen=True, slots=True)
class _OidcPages:
    console: Console
    sign_ins: ProviderSignIns
    provider: IdentityProvider

    async def begin(self, request: Request) -> Response:
        """Where the browser goes, and what it keeps until it comes back."""
        body = await read_json(request)
        try:
            demand = await self._demand(request, body)
            attempt = Attempt.begin(return_path(body.get("to")), demand.max_age)
            url = await self.sign_ins.client.authorization_url(attempt, demand)
        except SignInFailed as failure:
            return failure_answer(failure)
        sealed = self.sign_ins.attempts.seal(attempt, self.console.now())
        return JSONResponse({"url": url, "state": attempt.state, "sealed": sealed})

    async def _demand(self, request: Request, body: Json) -> Demand:
        """What the sign-in has to reach: for a first passkey that it is recent, and for a vote what its routes demand.

        Raises: HTTPException.
        """
        recent = [ENROLMENT_LIFETIME // SECOND] if body.get("anew") is True else []
        id = body.get("approval")
        if not isinstance(id, str):
            return Demand(anew=bool(recent), max_age=min(recent, default=None))
        viewer = await self.console.allowed(request, Role.APPROVER)
        rules = await self.console.reader.read(lambda store: _demanded(store, id, viewer.approver))
        limits = [rule.seconds for rule in rules if rule.seconds] + recent
        return Demand(
            acr=tuple(dict.fromkeys(value for rule in rules for value in rule.acr)),
            anew=True,
            max_age=min(limits, default=None),
        )

    async def callback(self, _: Request) -> Response:
        return self.console.fresh(self.console.page("oidc.html", None))

    async def finish(self, request: Request) -> Response:
        """Open a session for whom the provider has signed in."""
        console, body = self.console, await read_json(request)
        keys = await console.keys()
        try:
            query = read_query(str(body.get("query", "")))
            attempt = self.sign_ins.attempts.unseal(body.get("sealed"), query.get("state"), console.now())
            signed_in = await self.sign_ins.client.finish(query, attempt)
            await self.sign_ins.attempts.settle(attempt, console.now())
            person = self._person(signed_in)
        except SignInFailed as failure:
            return failure_answer(failure)
        token = await welcome(console, request, person, keys)
        answer = {"go": attempt.to} | ({"token": token} if console.is_local else {})
        return console.fresh(JSONResponse(answer), "storage")

    def _person(self, signed_in: SignedInPerson) -> Person:
        """Raises: SignInFailed for somebody whom the configuration gives no role."""
        sign_in, claims = signed_in.sign_in, signed_in.claims
        of_session = {name: claims[name] for name in ("sub", "sid") if isinstance(claims.get(name), str)}
        person = Person(
            approver=approver_of(Identity(sign_in.issuer, sign_in.subject), self.console.settings),
            name=signed_in.name,
            issuer=sign_in.issuer,
            subject=sign_in.subject,
            claims=self.provider.kept_claims(claims) | of_session,
            acr=sign_in.acr,
            amr=sign_in.amr,
            auth_time=0 if sign_in.at is None else sign_in.at // SECOND,
        )
        if self.console.roles_of(person):
            return person
        entry = f'identities = [{{ issuer = "{sign_in.issuer}", subject = "{sign_in.subject}" }}]'
        hint = f"to approve you need an entry that the operator makes, [approvers.NAME] with {entry}; to look, a role"
        raise SignInFailed(f"`{sign_in.subject}` is signed in at the provider, and unknown to this guard", hint, 403)

    async def back_channel_logout(self, request: Request) -> Response:
        """The provider says that somebody's session there has ended (OpenID Connect Back-Channel Logout 1.0 §2.5)."""
        form = parse_qs((await request.body()).decode(errors="replace"))
        try:
            subject, session = await self.sign_ins.client.read_logout(form.get("logout_token", [""])[0])
        except SignInFailed as failure:
            return JSONResponse({"error": "invalid_request", "error_description": failure.message}, 400)
        now = self.console.now()
        approvers = await self.console.sessions.close_of_provider(self.provider.issuer, subject, session, now)
        for approver in approvers if not session else ():  # signed out everywhere, not of one session
            await forget_devices(self.console.items, approver, now)
        return Response(status_code=200)


def failure_answer(failure: SignInFailed) -> Response:
    answer = {"problem": visible_line(failure.message), "hint": visible_line(failure.hint)}
    return JSONResponse(answer, failure.status)


def _demanded(store: Store, id: str, approver: str) -> list[SignInRule]:
    """What the routes of a request or of proposed policies demand of this sign-in. Raises: HTTPException."""
    state = read_state(store)
    if state is not None and state.open is not None and state.open.id == id:
        return [state.open.rule.sign_in] if state.open.rule.sign_in else []
    row = store.approval(id)
    if row is None:
        raise HTTPException(404, "no such request")
    requesters = row[0].subject.requesters
    return [rule.sign_in for rule in row[0].rules if rule.sign_in and may_decide(rule, approver, requesters)]
