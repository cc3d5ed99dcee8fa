"""What all pages share: the ledger, who looks, and how an answer is made.

Whatever shows or changes something requires a session (`web/sessions.py`, `web/carrier.py`). A page that is requested
without one is the sign-in page. On loopback, where the browser sends no token for a page, it is a shell without data,
whose script fetches the same address with the token.
"""

import secrets
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import jinja2
import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from mcp_guard.core.approval import SIGN_IN_AGAIN
from mcp_guard.core.approval_card import format_minute
from mcp_guard.core.errors import GuardError, LedgerError, SignInRequired
from mcp_guard.core.model import Json
from mcp_guard.core.people import Identity
from mcp_guard.core.visible_text import visible_line
from mcp_guard.identity.dpop import ProofMemory
from mcp_guard.ledger.approvals.approver_keys import keys_in_use
from mcp_guard.ledger.approvals.votes import Votes
from mcp_guard.ledger.writer import Writer
from mcp_guard.settings import Settings
from mcp_guard.storage.background import BackgroundReader
from mcp_guard.storage.items import Item, Items
from mcp_guard.storage.rows import ApproverKey
from mcp_guard.web.carrier import carried_token, give_token, uses_cookie
from mcp_guard.web.id_token import ASK_OPERATOR
from mcp_guard.web.middleware import FOUND_SESSION
from mcp_guard.web.oidc_attempts import ProviderSignIns
from mcp_guard.web.passkeys import Passkeys
from mcp_guard.web.roles import Role, approver_of, roles_by_claims, roles_of_approver
from mcp_guard.web.search import LedgerSearch
from mcp_guard.web.sessions import ENROLMENT_LIFETIME, BrowserSession, BrowserSessions, Person
from mcp_guard.web.upstream_sign_ins import UpstreamSignIns
from mcp_guard.web.view import make_pages

NO_ROUTE, NOT_FOUND = "Not Found", "There is no page at this address."
ATTENDED = "mcp-guard-attended"
"""The header of a script's request, if somebody has moved or typed since its last one."""
SIGNED_OUT = HTTPException(401, "sign in again", {"www-authenticate": "Bearer"})


ENROLMENT_PATHS = ("/keys", "/passkeys", "/sign-")
"""What a session may read and change which began with a code for a new key, where nobody signs in locally."""
ENROLS_ONLY = "a code for a new key permits only to enrol it; decide after a sign-in with the identity provider"


class OnlyEnrols(HTTPException):
    """A session that may only enrol a key was used for another page."""

    def __init__(self) -> None:
        super().__init__(303, ENROLS_ONLY)


class SignInNeeded(HTTPException):
    """A page was requested without a session, or with one that has ended."""

    def __init__(self, has_ended: bool) -> None:
        super().__init__(401, "Your session has ended. Sign in again." if has_ended else "")


@dataclass(frozen=True, slots=True)
class NavigationLink:
    """A page in the bar at the top, for people with one of these roles."""

    path: str
    label: str
    roles: frozenset[Role]


@dataclass(frozen=True, slots=True)
class Console:
    """The pages of one ledger."""

    settings: Settings
    votes: Votes
    reader: BackgroundReader
    items: Items
    sessions: BrowserSessions
    passkeys: Passkeys
    proofs: ProofMemory
    """What was used and must not be used again, at any gateway."""
    search: LedgerSearch
    upstream_sign_ins: UpstreamSignIns
    provider: ProviderSignIns | None = None
    """The identity provider that people sign in with, if there is one."""
    navigation: tuple[NavigationLink, ...] = ()
    assets: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    """The folder of the scripts and the styles."""
    templates: jinja2.Environment = field(default_factory=make_pages)

    @property
    def origin(self) -> str:
        """The address of the pages, the only one that they answer for."""
        return self.passkeys.origin

    @property
    def is_local(self) -> bool:
        """Whether the browser keeps the session in the page, and another server may have had the address before."""
        return not uses_cookie(self.origin)

    @property
    def offers_push(self) -> bool:
        """Whether people may have notifications on their devices, which need a real origin."""
        return not self.is_local and any(notifier.kind == "push" for notifier in self.settings.notifiers.values())

    @property
    def writer(self) -> Writer:
        return self.votes.writer

    def now(self) -> int:
        """In microseconds."""
        return self.votes.writer.now()

    # The viewer

    async def allowed(self, request: Request, *roles: Role, is_part: bool = False) -> BrowserSession:
        """The session of somebody who has one of these roles. `is_part`: a script asks, for data or a part of a page,
        so the answer without a session is an error instead of a page, and the session is used only if the script says
        that a person was there since it last asked.

        Raises: HTTPException.
        """
        is_page = request.method in ("GET", "HEAD") and not is_part
        try:
            viewer = await self.viewer(request, is_use=not is_part or ATTENDED in request.headers)
        except HTTPException:
            if is_page and not self.is_local:
                raise SignInNeeded(has_ended=True) from None
            raise
        if viewer is None:
            raise SignInNeeded(has_ended=False) if is_page else SIGNED_OUT
        if viewer.roles.isdisjoint(roles):
            names = " or ".join(sorted(roles))
            raise HTTPException(403, f"this is for people with the role {names}, which you do not have")
        if self.may_only_enrol(viewer) and not request.url.path.startswith(ENROLMENT_PATHS):
            raise OnlyEnrols if is_page else SignInRequired(ENROLS_ONLY, SIGN_IN_AGAIN)
        return viewer

    async def viewer(self, request: Request, is_use: bool = True) -> BrowserSession | None:
        """The session whose token the request carries; None if it carries none.

        Raises: HTTPException if the session has ended.
        """
        token = carried_token(request, self.origin)
        if token is None:
            return None
        now = self.now()
        found = request.scope.setdefault("state", {}).pop(FOUND_SESSION, None)
        session = await self.sessions.find(token, now, is_use, found)
        if session is None or not (roles := await self._roles_in_force(session)):
            if session is not None:
                await self.sessions.close(session, now)
            give_token(request, "")
            raise SIGNED_OUT
        if (renewed := await self.sessions.renew(token, session, now)) is not None:
            give_token(request, renewed)
        viewer = replace(session, roles=roles)
        request.state.viewer = viewer
        return viewer

    async def find_session(self, token: str) -> Item | None:
        """What is kept of the session of this token; None if it is nobody's. Raises: LedgerError."""
        return await self.sessions.find_item(token, self.now())

    async def renew_token(self, request: Request, viewer: BrowserSession) -> None:
        """Replace the viewer's token now, because they may do more from now on."""
        token = carried_token(request, self.origin) or ""
        if (renewed := await self.sessions.renew(token, viewer, self.now(), force=True)) is not None:
            give_token(request, renewed)

    async def _roles_in_force(self, session: BrowserSession) -> frozenset[Role]:
        """Empty once they have left the configuration, or one of their keys was removed since they signed in."""
        if self.may_only_enrol(session) and self.now() - session.since > ENROLMENT_LIFETIME:
            return frozenset()
        if session.approver and count_removed(await self.keys(), session.approver) != session.removed_keys:
            return frozenset()
        return self.roles_of(session.person)

    def may_only_enrol(self, session: BrowserSession) -> bool:
        """Whether everybody signs in with the identity provider, but this session began with a code for a new key."""
        web = self.settings.web
        return web is not None and not web.local_sign_in and not session.person.issuer

    def roles_of(self, person: Person) -> frozenset[Role]:
        """As configured now. Somebody whom the identity provider has signed in is who its settings say."""
        own = roles_of_approver(person.approver, self.settings)
        if not person.issuer:
            return own
        provider = self.settings.web.provider if self.settings.web else None
        approver = approver_of(Identity(person.issuer, person.subject), self.settings)
        if provider is None or provider.issuer != person.issuer or approver != person.approver:
            return frozenset()
        return own | roles_by_claims(person.claims, self.settings)

    def can_change(self, viewer: BrowserSession) -> bool:
        """Whether they are an operator with an entry in [approvers], who can have the passkey that signs changes."""
        return Role.OPERATOR in viewer.roles and viewer.approver in self.votes.people

    async def forget_oldest(self, kind: str, owner: str, most: int) -> None:
        """Of the items of a person, leave so many: those that expire last."""
        items = await self.items.find_all(kind, owner, self.now())
        for item in sorted(items, key=lambda item: item.expires)[: max(0, len(items) - most)]:
            await self.items.delete(kind, item.key)

    # Keys

    async def keys(self) -> list[ApproverKey]:
        return await self.reader.read(lambda store: store.approver_keys())

    def passkeys_among(self, keys: list[ApproverKey], viewer: BrowserSession) -> list[ApproverKey]:
        """The viewer's passkeys in use. Those that were enrolled at another address sign nothing that counts here."""
        return [key for key in keys_in_use(keys, viewer.approver) if key.details.get("origin") == self.origin]

    async def passkeys_of(self, viewer: BrowserSession) -> list[ApproverKey]:
        return self.passkeys_among(await self.keys(), viewer)

    async def record_use(self, key: ApproverKey, count: int) -> None:
        """Note the signature count of a passkey that was just used."""
        details = key.details | {"count": count}
        await self.writer.submit(lambda tx: tx.store.note_key_use(key.id, details))

    # Answers

    def links_for(self, viewer: BrowserSession) -> list[NavigationLink]:
        return [link for link in self.navigation if not viewer.roles.isdisjoint(link.roles)]

    def page(self, template: str, viewer: BrowserSession | None, status: int = 200, **values: Any) -> HTMLResponse:
        who = self.votes.people.get(viewer.approver, viewer.name) if viewer else ""
        return HTMLResponse(
            self.templates.get_template(template).render(
                assets=f"/static/{self.assets}",
                viewer=viewer,
                who=who,
                navigation=self.links_for(viewer) if viewer else [],
                uses_cookie=not self.is_local,
                offers_push=self.offers_push,
                provider=self.settings.web.provider if self.settings.web else None,
                format_minute=format_minute,
                **values,
            ),
            status,
        )

    def sign_in_page(self, notice: str = "", status: int = 200) -> Response:
        web = self.settings.web
        is_local_allowed = web is None or web.local_sign_in
        return self.fresh(self.page("sign_in.html", None, status, notice=notice, with_codes=is_local_allowed))

    def fresh(self, response: Response, *kinds: str) -> Response:
        """On loopback, have the browser forget what it has cached for this origin, and the other kinds (W3C Clear Site
        Data). None of it is ours, so it is from another server that had this port before."""
        if self.is_local:
            response.headers["clear-site-data"] = ", ".join(f'"{kind}"' for kind in ("cache", *kinds))
        return response

    async def answer_http_error(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if isinstance(error, SignInNeeded):
            if self.is_local:
                return self.fresh(self.page("shell.html", None))
            return self.sign_in_page(error.detail, 401)
        if isinstance(error, OnlyEnrols):
            return RedirectResponse("/keys", 303)
        viewer = await self._viewer_of_error(request)
        if request.method == "GET" and (viewer or "text/html" in request.headers.get("accept", "")):
            problem = NOT_FOUND if error.detail == NO_ROUTE else error.detail
            return self.page("error.html", viewer, error.status_code, problem=problem, hint="")
        return JSONResponse({"problem": error.detail, "hint": ""}, error.status_code, error.headers)

    async def _viewer_of_error(self, request: Request) -> BrowserSession | None:
        """Whose page an error is; None if nobody is signed in, or that cannot be found out."""
        known: BrowserSession | None = getattr(request.state, "viewer", None)
        with suppress(HTTPException, GuardError):
            return known or await self.viewer(request)
        return None

    async def answer_guard_error(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, GuardError)
        message, hint = error.full, error.hint
        status = 503 if isinstance(error, LedgerError) else 409
        is_page = request.method == "GET"
        viewer = await self._viewer_of_error(request) if is_page else getattr(request.state, "viewer", None)
        if status == 503 and viewer is None and not self.is_local:  # the error names the database, and anybody can ask
            message, hint = "the guard cannot use its ledger now", ASK_OPERATOR
        problem, hint = visible_line(message), visible_line(hint)
        if is_page:
            return self.page("error.html", viewer, status, problem=problem, hint=hint)
        more = {"sign_in": True} if isinstance(error, SignInRequired) else {}
        return JSONResponse({"problem": problem, "hint": hint, **more}, status)


def count_removed(keys: Iterable[ApproverKey], approver: str) -> int:
    return sum(key.approver == approver and key.removed is not None for key in keys)


def text_of(body: Json, name: str) -> str:
    """A member of a body; empty if it has none. Raises: HTTPException."""
    text = body.get(name, "")
    if not isinstance(text, str):
        raise HTTPException(400, f"`{name}` must be text")
    return text


async def read_json(request: Request) -> Json:
    """Raises: HTTPException."""
    try:
        body = orjson.loads(await request.body())
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise HTTPException(400, "the body must be a JSON object")
    return body
