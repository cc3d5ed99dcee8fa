"""What all pages share: the ledger, who looks, and how an answer is made.

Whatever shows or changes something requires the token of a session, in the `authorization` header. A page requested
without it, as a browser requests it, is a shell without data, whose script fetches the same address with the token.
"""

import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import jinja2
import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from mcp_guard.core.approval_card import format_minute
from mcp_guard.core.errors import GuardError
from mcp_guard.core.model import Json
from mcp_guard.core.visible_text import visible_line
from mcp_guard.ledger.approvals.approver_keys import keys_in_use
from mcp_guard.ledger.approvals.votes import Votes
from mcp_guard.ledger.writer import Writer
from mcp_guard.settings import Settings
from mcp_guard.storage.background import BackgroundReader
from mcp_guard.storage.rows import ApproverKey
from mcp_guard.web.passkeys import Passkeys
from mcp_guard.web.roles import OF_APPROVERS, Role
from mcp_guard.web.sessions import BrowserSession, BrowserSessions
from mcp_guard.web.view import make_pages

SIGNED_OUT = HTTPException(401, "sign in again", {"www-authenticate": "Bearer"})


class SignInNeeded(HTTPException):
    """A page was requested without a session."""

    def __init__(self) -> None:
        super().__init__(401, "sign in first")


@dataclass(frozen=True, slots=True)
class NavigationLink:
    """A page in the bar at the top, for people with one of these roles."""

    path: str
    label: str
    roles: frozenset[Role]


@dataclass(frozen=True, slots=True)
class Console:
    """The pages of one ledger. `origin` is their address, the only one that they answer for."""

    settings: Settings
    votes: Votes
    reader: BackgroundReader
    origin: str
    passkeys: Passkeys
    navigation: tuple[NavigationLink, ...] = ()
    assets: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    """The folder of the scripts and the styles. Another server that had this port before cannot have guessed it, so no
    browser has cached a script of that server under its name."""
    sessions: BrowserSessions = field(default_factory=BrowserSessions)
    templates: jinja2.Environment = field(default_factory=make_pages)

    @property
    def writer(self) -> Writer:
        return self.votes.writer

    def now(self) -> int:
        """In microseconds."""
        return self.votes.writer.now()

    # The viewer

    async def allowed(self, request: Request, *roles: Role, is_part: bool = False) -> BrowserSession:
        """The session of somebody who has one of these roles. `is_part`: a script asks, for data or a part of a page,
        so the answer without a session is an error instead of a page.

        Raises: HTTPException.
        """
        viewer = await self.viewer(request)
        if viewer is None:
            raise SIGNED_OUT if is_part or request.method not in ("GET", "HEAD") else SignInNeeded()
        if viewer.roles.isdisjoint(roles):
            names = " or ".join(roles)
            raise HTTPException(403, f"this page is for people with the role {names}, which you do not have")
        return viewer

    async def viewer(self, request: Request) -> BrowserSession | None:
        """The session whose token the request carries; None if it carries none.

        Raises: HTTPException if the session has ended.
        """
        token = carried_token(request)
        if token is None:
            return None
        session = self.sessions.find_session(token, self.now())
        if session is None or not await self._is_in_force(session):
            self.sessions.close(token)
            raise SIGNED_OUT
        request.state.viewer = session
        return session

    async def _is_in_force(self, session: BrowserSession) -> bool:
        """Whether they are still an approver, and none of their keys was removed since they signed in."""
        if session.approver not in self.votes.people:
            return False
        return count_removed(await self.keys(), session.approver) == session.removed_keys

    def roles_of(self, approver: str) -> frozenset[Role]:
        return OF_APPROVERS if approver in self.votes.people else frozenset()

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

    def page(self, template: str, viewer: BrowserSession | None, status: int = 200, **values: Any) -> HTMLResponse:
        who = self.votes.people.get(viewer.approver, viewer.approver) if viewer else ""
        links = [link for link in self.navigation if viewer and not viewer.roles.isdisjoint(link.roles)]
        return HTMLResponse(
            self.templates.get_template(template).render(
                assets=f"/static/{self.assets}",
                viewer=viewer,
                who=who,
                navigation=links,
                format_minute=format_minute,
                **values,
            ),
            status,
        )

    def fresh(self, response: Response, *kinds: str) -> Response:
        """Have the browser forget what it has cached for this origin, and the other kinds (W3C Clear Site Data). None
        of it is ours, so it is from another server that had this port before."""
        response.headers["clear-site-data"] = ", ".join(f'"{kind}"' for kind in ("cache", *kinds))
        return response

    async def answer_http_error(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if isinstance(error, SignInNeeded):
            return self.fresh(self.page("shell.html", None))
        if request.method == "GET" and error.status_code in (403, 404):
            viewer = await self.viewer(request)
            if viewer is not None:
                return self.page("error.html", viewer, error.status_code, problem=error.detail)
        return JSONResponse({"problem": error.detail, "hint": ""}, error.status_code, error.headers)


def carried_token(request: Request) -> str | None:
    """The token of the `authorization` header, empty if it is of another scheme; None without the header."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if not token:
        return None
    return token if scheme.lower() == "bearer" else ""


def count_removed(keys: Iterable[ApproverKey], approver: str) -> int:
    return sum(key.approver == approver and key.removed is not None for key in keys)


async def read_json(request: Request) -> Json:
    """Raises: HTTPException."""
    try:
        body = orjson.loads(await request.body())
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise HTTPException(400, "the body must be a JSON object")
    return body


async def answer_guard_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, GuardError)
    return JSONResponse({"problem": visible_line(error.message), "hint": visible_line(error.hint)}, 409)
