"""The inbox as a Starlette application. A change needs a signed-in approver, their page's token, and our own origin."""

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import jinja2
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from mcp_guard.core.approval import Approval, ApprovalState, VoteStatement
from mcp_guard.core.errors import ApprovalError, GuardError
from mcp_guard.core.model import Json
from mcp_guard.ledger.approvals.approver_keys import enrol
from mcp_guard.ledger.approvals.sign_in_codes import take_code
from mcp_guard.ledger.approvals.votes import Approver, GrantTerms, Votes
from mcp_guard.storage.approvals import ApproverKey
from mcp_guard.web.passkeys import Passkeys, evidence
from mcp_guard.web.sessions import COOKIE, LIFETIME, BrowserSession, BrowserSessions
from mcp_guard.web.view import ApprovalCard, day, groups, make_card, plain, policy_texts

HERE = Path(__file__).parent
HISTORY = 100
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Inbox:
    """The pages over one ledger. `origin` is `http://localhost:PORT`, the only name it answers to."""

    votes: Votes
    origin: str
    passkeys: Passkeys
    sessions: BrowserSessions = field(default_factory=BrowserSessions)
    pages: jinja2.Environment = field(
        default_factory=lambda: jinja2.Environment(
            loader=jinja2.FileSystemLoader(HERE / "templates"), autoescape=True, undefined=jinja2.StrictUndefined
        )
    )

    # Who asks

    def now(self) -> int:
        return self.votes.writer.now()

    def viewer(self, request: Request) -> BrowserSession | None:
        return self.sessions.find_session(request.cookies.get(COOKIE), self.now())

    def signed_in(self, request: Request) -> BrowserSession:
        """Raises: HTTPException unless a signed-in page of ours sent this change."""
        viewer = self.viewer(request)
        if viewer is None or request.headers.get("x-csrf-token") != viewer.csrf:
            raise HTTPException(403, "sign in again")
        return viewer

    def keys(self) -> list[ApproverKey]:
        return self.votes.writer.read(lambda store: store.approver_keys())

    def passkeys_of(self, viewer: BrowserSession) -> list[ApproverKey]:
        """Those in use."""
        mine = [key for key in self.keys() if key.approver == viewer.approver and key.method == "webauthn"]
        return [key for key in mine if key.removed is None]

    # Pages

    def page(self, name: str, viewer: BrowserSession | None, **values: Any) -> HTMLResponse:
        who = self.votes.people.get(viewer.approver, viewer.approver) if viewer else ""
        return HTMLResponse(self.pages.get_template(name).render(viewer=viewer, who=who, day=day, **values))

    def cards(self, viewer: BrowserSession, found: list[Approval]) -> list[ApprovalCard]:
        now = self.now()
        return [make_card(approval, now, viewer.approver) for approval in found]

    async def sign_in_page(self, request: Request) -> Response:
        return RedirectResponse("/", 303) if self.viewer(request) else self.page("sign_in.html", None)

    async def show_list(self, request: Request) -> Response:
        if (viewer := self.viewer(request)) is None:
            return RedirectResponse("/sign-in", 303)
        requested = self.votes.writer.read(lambda store: store.approvals([ApprovalState.REQUESTED]))
        cards = [each for each in self.cards(viewer, requested) if each.state == "requested"]
        grants = self.votes.writer.read(lambda store: store.grants(state="active"))
        active = [grant for grant in grants if self.now() < grant.expires]
        bare = request.query_params.get("part") == "list"
        has_passkey = bool(self.passkeys_of(viewer))
        template = "list_part.html" if bare else "list.html"
        values = {"groups": groups(cards), "count": len(cards), "grants": active, "has_passkey": has_passkey}
        return self.page(template, viewer, **values)

    async def history(self, request: Request) -> Response:
        if (viewer := self.viewer(request)) is None:
            return RedirectResponse("/sign-in", 303)
        cards = self.cards(viewer, self.votes.writer.read(lambda store: store.latest_approvals(HISTORY)))
        return self.page("history.html", viewer, cards=[each for each in cards if each.state != "requested"])

    async def show(self, request: Request) -> Response:
        if (viewer := self.viewer(request)) is None:
            return RedirectResponse("/sign-in", 303)
        approval = self._approval(request)
        store = self.votes.writer
        lately = store.read(lambda store: store.lately(approval.id))
        told = store.read(lambda store: store.deliveries(approval.id))
        texts = store.read(lambda store: policy_texts(store, approval))
        view = make_card(approval, self.now(), viewer.approver)
        has_passkey = bool(self.passkeys_of(viewer))
        values = {"card": view, "lately": lately, "told": told, "texts": texts, "has_passkey": has_passkey}
        return self.page("request.html", viewer, plain=plain, **values)

    def _approval(self, request: Request) -> Approval:
        found = self.votes.writer.read(lambda store: store.approval(request.path_params["id"]))
        if found is None:
            raise HTTPException(404, "there is no such request")
        return found[0]

    async def state(self, request: Request) -> Response:
        if self.viewer(request) is None:
            raise HTTPException(403, "sign in again")
        return JSONResponse({"state": str(self._approval(request).state)})

    # Signing in and out

    async def sign_in_with_code(self, request: Request) -> Response:
        form = parse_qs((await request.body())[:1000].decode(errors="replace"))
        approver = take_code(self.votes.writer, form.get("code", [""])[0])
        if approver is None or approver not in self.votes.people:
            return self.page(
                "sign_in.html", None, problem="This code is not valid, was used, or is older than ten minutes."
            )
        return self._welcome(RedirectResponse("/", 303), approver)

    async def sign_in_options(self, request: Request) -> Response:
        return JSONResponse(self.passkeys.sign_in_options(self.now()))

    async def sign_in_with_passkey(self, request: Request) -> Response:
        credential = await _json(request)
        key, _, count = self.passkeys.answer(credential, self.keys(), self.now(), "sign in")
        if key.approver not in self.votes.people:
            raise ApprovalError(f"`{key.approver}` is not an approver any more")
        self._count(key, count)
        return self._welcome(JSONResponse({"go": "/"}), key.approver)

    def _welcome(self, response: Response, approver: str) -> Response:
        token = self.sessions.open(approver, self.now())
        age = LIFETIME // 1_000_000
        response.set_cookie(COOKIE, token, max_age=age, httponly=True, samesite="strict", path="/")
        return response

    async def sign_out(self, request: Request) -> Response:
        self.signed_in(request)
        self.sessions.close(request.cookies.get(COOKIE))
        response = JSONResponse({"go": "/sign-in"})
        response.delete_cookie(COOKIE, path="/")
        return response

    # Passkeys

    async def passkey_options(self, request: Request) -> Response:
        viewer = self.signed_in(request)
        name = self.votes.people[viewer.approver]
        known = [key for key in self.keys() if key.approver == viewer.approver]
        return JSONResponse(self.passkeys.registration(viewer.approver, name, known, self.now()))

    async def enrol_passkey(self, request: Request) -> Response:
        viewer = self.signed_in(request)
        new = self.passkeys.register(await _json(request), viewer.approver, self.now())
        enrol(self.votes.writer, Approver(viewer.approver, self.votes.people[viewer.approver]), new)
        return JSONResponse({"go": "/"})

    def _count(self, key: ApproverKey, count: int) -> None:
        details = key.details | {"count": count}
        self.votes.writer.run(lambda tx: tx.store.note_key_use(key.id, details))

    # Deciding

    async def decide_options(self, request: Request) -> Response:
        """A statement to sign: its SHA-256 is the passkey's challenge."""
        viewer, said = self.signed_in(request), await _json(request)
        verdict = said.get("verdict")
        if verdict not in ("approve", "deny"):
            raise ApprovalError("a verdict is approve or deny")
        statement, _ = self.votes.prepare(
            request.path_params["id"],
            viewer.approver,
            verdict,
            str(said.get("rationale", "")),
            _terms(said.get("terms")),
        )
        if not (mine := self.passkeys_of(viewer)):
            raise ApprovalError("you have no passkey yet", "enrol one first")
        challenge = hashlib.sha256(statement.text()).digest()
        return JSONResponse(self.passkeys.ask(challenge, mine, self.now(), "decide", statement))

    async def decide(self, request: Request) -> Response:
        viewer, credential = self.signed_in(request), await _json(request)
        key, statement, count = self.passkeys.answer(credential, self.keys(), self.now(), "decide")
        about: VoteStatement = statement
        if about.approver != viewer.approver or key.approver != viewer.approver:
            raise ApprovalError("that passkey is somebody else's")
        if about.approval != request.path_params["id"]:
            raise ApprovalError("that was signed for another request")
        approval = self.votes.cast(about, key.id, evidence(credential))
        self._count(key, count)
        return JSONResponse({"state": str(approval.state), "go": "/"})

    async def revoke(self, request: Request) -> Response:
        viewer, said = self.signed_in(request), await _json(request)
        self.votes.revoke(request.path_params["id"], viewer.approver, str(said.get("rationale", "")))
        return JSONResponse({"go": "/"})

    # The application

    def app(self) -> Starlette:
        routes = [
            Route("/", self.show_list),
            Route("/history", self.history),
            Route("/sign-in", self.sign_in_page),
            Route("/sign-in", self.sign_in_with_code, methods=["POST"]),
            Route("/sign-in/options", self.sign_in_options, methods=["POST"]),
            Route("/sign-in/passkey", self.sign_in_with_passkey, methods=["POST"]),
            Route("/sign-out", self.sign_out, methods=["POST"]),
            Route("/passkeys/options", self.passkey_options, methods=["POST"]),
            Route("/passkeys", self.enrol_passkey, methods=["POST"]),
            Route("/requests/{id}", self.show),
            Route("/requests/{id}/state", self.state),
            Route("/requests/{id}/options", self.decide_options, methods=["POST"]),
            Route("/requests/{id}/decide", self.decide, methods=["POST"]),
            Route("/revoke/{id}", self.revoke, methods=["POST"]),
            Mount("/static", StaticFiles(directory=HERE / "static")),
        ]
        app = Starlette(routes=routes, exception_handlers={GuardError: _refused, HTTPException: _failed})
        app.add_middleware(SameOriginMiddleware, origin=self.origin)
        return app


class SameOriginMiddleware:
    """Answers to one name only (against DNS rebinding), takes changes from its own pages only (against forgery), and
    sends the headers that keep other pages from framing or reading it."""

    def __init__(self, app: Any, origin: str) -> None:
        self._app = app
        self._origin = origin.encode()
        self._host = origin.partition("://")[2].encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])

        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] += [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            await send(message)

        refused: Response | None = None
        if headers.get(b"host") != self._host:
            refused = Response(f"this is {self._origin.decode()}", 421)
        elif scope["method"] not in ("GET", "HEAD") and headers.get(b"origin") != self._origin:
            refused = Response("this change did not come from one of our pages", 403)
        await (refused or self._app)(scope, receive, with_headers)


def _terms(said: Any) -> GrantTerms | None:
    """Raises: ApprovalError."""
    if said is None:
        return None
    try:
        return GrantTerms(int(said["more"]), int(said["seconds"]), tuple(str(name) for name in said["free"]))
    except (KeyError, TypeError, ValueError):
        raise ApprovalError("a grant needs a number of calls, a time, and a list of free arguments") from None


async def _json(request: Request) -> Json:
    """Raises: HTTPException."""
    try:
        said = await request.json()
    except ValueError:
        said = None
    if not isinstance(said, dict):
        raise HTTPException(400, "an object was expected")
    return said


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, GuardError)
    return JSONResponse({"problem": error.message, "hint": error.hint}, 409)


async def _failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if request.method == "GET" and "text/html" in request.headers.get("accept", ""):
        return Response(error.detail, error.status_code)
    return JSONResponse({"problem": error.detail, "hint": ""}, error.status_code)
