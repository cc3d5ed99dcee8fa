"""The inbox as a Starlette application.

Whatever shows or changes something requires the token of a signed-in approver's session, in the `authorization` header.
A page requested without it, as a browser requests it, is a shell without data, whose script fetches the same address
with the token.
"""

import asyncio
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

import jinja2
import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from mcp_guard.core.approval import Approval, ApprovalState, GrantTerms, VoteStatement
from mcp_guard.core.approval_card import earlier_lines, format_minute, recent_lines
from mcp_guard.core.errors import ApprovalError, GuardError
from mcp_guard.core.model import Json
from mcp_guard.core.visible_text import visible_line
from mcp_guard.ledger.approvals.approver_keys import (
    Approver,
    CodeKind,
    NewKey,
    enrol_with_code,
    enrol_with_key,
    keys_in_use,
    voucher,
)
from mcp_guard.ledger.approvals.sign_in_codes import take_code
from mcp_guard.ledger.approvals.votes import Votes
from mcp_guard.storage.background import BackgroundReader
from mcp_guard.storage.rows import ApproverKey
from mcp_guard.web.passkeys import Passkeys, evidence
from mcp_guard.web.sessions import BrowserSession, BrowserSessions
from mcp_guard.web.view import (
    HERE,
    ApprovalCard,
    KeyCard,
    group_cards,
    make_card,
    make_key_card,
    make_pages,
    plain,
    policy_texts,
)

HISTORY_LENGTH = 100
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
SIGNED_OUT = HTTPException(401, "sign in again", {"www-authenticate": "Bearer"})
MAX_BODY_BYTES = 16 * 1024
"""Of any request. A passkey's answer is about 1 KiB, a rationale at most 8."""
BODY_SECONDS = 5
KILL_SERVICE_WORKER = """self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil(self.registration.unregister()));
"""


@dataclass(frozen=True, slots=True)
class Inbox:
    """The pages of one ledger. `origin` is `http://localhost:PORT`, the only host it answers for."""

    votes: Votes
    reader: BackgroundReader
    origin: str
    passkeys: Passkeys
    notifiers: tuple[str, ...] = ()
    """The notifiers that report each new key."""
    assets: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    """The folder of the script and the styles. Another server that had this port before cannot have guessed it, so no
    browser has cached a script of that server under its name."""
    sessions: BrowserSessions = field(default_factory=BrowserSessions)
    pages: jinja2.Environment = field(default_factory=make_pages)

    # The viewer

    def now(self) -> int:
        return self.votes.writer.now()

    async def viewer(self, request: Request) -> BrowserSession | None:
        """The session whose token the request carries; None if it carries none.

        Raises: HTTPException if the session has ended.
        """
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if not token:
            return None
        session = self.sessions.find_session(token, self.now()) if scheme.lower() == "bearer" else None
        if session is None or not await self._is_in_force(session):
            self.sessions.close(token)
            raise SIGNED_OUT
        return session

    async def _is_in_force(self, session: BrowserSession) -> bool:
        """Whether they are still an approver, and none of their keys was removed since they signed in."""
        if session.approver not in self.votes.people:
            return False
        return _count_removed(await self.keys(), session.approver) == session.removed_keys

    async def signed_in(self, request: Request) -> BrowserSession:
        """Raises: HTTPException unless the request carries the token of a session."""
        viewer = await self.viewer(request)
        if viewer is None:
            raise SIGNED_OUT
        return viewer

    async def keys(self) -> list[ApproverKey]:
        return await self.reader.read(lambda store: store.approver_keys())

    def passkeys_among(self, keys: list[ApproverKey], viewer: BrowserSession) -> list[ApproverKey]:
        """The viewer's passkeys in use. Those that were enrolled under another port sign nothing that counts here."""
        return [key for key in keys_in_use(keys, viewer.approver) if key.details.get("origin") == self.origin]

    async def passkeys_of(self, viewer: BrowserSession) -> list[ApproverKey]:
        return self.passkeys_among(await self.keys(), viewer)

    async def key_cards(self, viewer: BrowserSession) -> list[KeyCard]:
        """The viewer's keys, the newest first."""
        keys, enrolments = await self.reader.read(lambda store: (store.approver_keys(), store.enrolments()))
        own = [key for key in reversed(keys) if key.approver == viewer.approver]
        return [make_key_card(key, enrolments[key.id], self.now()) for key in own]

    # Pages

    def page(self, name: str, viewer: BrowserSession | None, status: int = 200, **values: Any) -> HTMLResponse:
        who = self.votes.people.get(viewer.approver, viewer.approver) if viewer else ""
        return HTMLResponse(
            self.pages.get_template(name).render(
                assets=f"/static/{self.assets}", viewer=viewer, who=who, format_minute=format_minute, **values
            ),
            status,
        )

    def cards(self, viewer: BrowserSession, approvals: list[Approval]) -> list[ApprovalCard]:
        now = self.now()
        return [make_card(approval, now, viewer.approver) for approval in approvals]

    def shell(self) -> Response:
        return self._fresh(self.page("shell.html", None))

    def _fresh(self, response: Response, *kinds: str) -> Response:
        """Have the browser forget what it has cached for this origin, and the other kinds (W3C Clear Site Data). None
        of it is ours, so it is from another server that had this port before."""
        response.headers["clear-site-data"] = ", ".join(f'"{kind}"' for kind in ("cache", *kinds))
        return response

    async def sign_in_page(self, _: Request) -> Response:
        return self._fresh(self.page("sign_in.html", None))

    async def show_list(self, request: Request) -> Response:
        is_partial = request.query_params.get("part") == "list"
        viewer = await (self.signed_in(request) if is_partial else self.viewer(request))
        if viewer is None:
            return self.shell()
        requested = await self.reader.read(lambda store: store.approvals([ApprovalState.REQUESTED]))
        cards = [card for card in self.cards(viewer, requested) if card.state == "requested"]
        grants = await self.reader.read(lambda store: store.grants(state="active"))
        active = [grant for grant in grants if self.now() < grant.expires]
        has_passkey = bool(await self.passkeys_of(viewer))
        template = "list_part.html" if is_partial else "list.html"
        new_keys = [] if is_partial else [card for card in await self.key_cards(viewer) if card.is_recent]
        groups, count = group_cards(cards), len(cards)
        return self.page(
            template, viewer, groups=groups, count=count, grants=active, has_passkey=has_passkey, new_keys=new_keys
        )

    async def show_history(self, request: Request) -> Response:
        if (viewer := await self.viewer(request)) is None:
            return self.shell()
        cards = self.cards(viewer, await self.reader.read(lambda store: store.latest_approvals(HISTORY_LENGTH)))
        return self.page("history.html", viewer, cards=[card for card in cards if card.state != "requested"])

    async def show_keys(self, request: Request) -> Response:
        if (viewer := await self.viewer(request)) is None:
            return self.shell()
        return self.page("keys.html", viewer, keys=await self.key_cards(viewer))

    async def show_request(self, request: Request) -> Response:
        if (viewer := await self.viewer(request)) is None:
            return self.shell()
        approval = await self._find_approval(request)
        read = self.reader.read
        return self.page(
            "request.html",
            viewer,
            card=make_card(approval, self.now(), viewer.approver),
            recent=recent_lines(await read(lambda store: store.recent_calls(approval)), approval.subject),
            earlier=earlier_lines(await read(lambda store: store.earlier_requests(approval)), approval.subject),
            deliveries=await read(lambda store: store.deliveries(approval.id)),
            texts=await read(lambda store: policy_texts(store, approval)),
            has_passkey=bool(await self.passkeys_of(viewer)),
            plain=plain,
        )

    async def _find_approval(self, request: Request) -> Approval:
        row = await self.reader.read(lambda store: store.approval(request.path_params["id"]))
        if row is None:
            raise HTTPException(404, "no such request")
        return row[0]

    async def state(self, request: Request) -> Response:
        await self.signed_in(request)
        return JSONResponse({"state": str((await self._find_approval(request)).state)})

    # Sign-in and sign-out

    async def sign_in_with_code(self, request: Request) -> Response:
        form = parse_qs((await request.body()).decode(errors="replace"))
        code = form.get("code", [""])[0]
        keys = await self.keys()
        approver, kind = await take_code(self.reader, self.votes.writer, code) or ("", None)
        if approver not in self.votes.people:
            raise HTTPException(403, "This code is invalid, already used, or older than ten minutes.")
        return self._welcome(approver, keys, kind)

    async def sign_in_options(self, _: Request) -> Response:
        return JSONResponse(self.passkeys.sign_in_options(self.now()))

    async def sign_in_with_passkey(self, request: Request) -> Response:
        credential, keys = await _json(request), await self.keys()
        key, count = await self.passkeys.sign_in(credential, keys, self.now())
        if key.approver not in self.votes.people:
            raise ApprovalError(f"`{key.approver}` is no longer an approver")
        await self._record_use(key, count)
        return self._welcome(key.approver, keys)

    def _welcome(self, approver: str, keys: list[ApproverKey], code: CodeKind | None = None) -> Response:
        """`keys` as they were before the sign-in was checked: if one is removed meanwhile, the session has ended."""
        token = self.sessions.open(approver, self.now(), _count_removed(keys, approver), code)
        return self._fresh(JSONResponse({"token": token}), "storage")  # of an earlier session, and service workers

    async def sign_out(self, request: Request) -> Response:
        await self.signed_in(request)
        self.sessions.close(request.headers["authorization"].partition(" ")[2])
        return JSONResponse({})

    # Passkeys

    async def passkey_options(self, request: Request) -> Response:
        viewer = await self.signed_in(request)
        keys = await self.keys()
        self._enrolment_code(viewer, keys)
        existing = self.passkeys_among(keys, viewer)
        return JSONResponse(self.passkeys.registration(viewer, self._approver(viewer).name, existing, self.now()))

    async def enrol_passkey(self, request: Request) -> Response:
        """Enrol it if the viewer's code permits it. Otherwise the answer is 403 with the request, `vouch`, that one of
        their passkeys must sign first."""
        viewer = await self.signed_in(request)
        new = self.passkeys.register(await _json(request), viewer, self.now())
        keys = await self.keys()
        if (code := self._enrolment_code(viewer, keys)) is not None:
            viewer.code = None  # before anything is waited for: it authorizes one enrolment
            try:
                await enrol_with_code(self.votes.writer, self._approver(viewer), new, code, self.notifiers)
            except GuardError:
                viewer.code = code
                raise
            return JSONResponse({"go": "/keys"})
        text = voucher(self.votes.writer.key.origin, viewer.approver, new)
        vouch = self.passkeys.ask(viewer, text, self.passkeys_among(keys, viewer), self.now(), "vouch", new)
        problem = {"problem": "confirm the new passkey with one that you have", "hint": "", "vouch": vouch}
        return JSONResponse(problem, 403)

    async def vouch_for_passkey(self, request: Request) -> Response:
        viewer, credential = await self.signed_in(request), await _json(request)
        passkeys = await self.passkeys_of(viewer)
        key, new, count = self.passkeys.answer(credential, viewer, passkeys, self.now(), "vouch")
        assert isinstance(new, NewKey)
        approver = self._approver(viewer)
        await enrol_with_key(self.votes.writer, approver, new, key.id, evidence(credential), self.notifiers)
        await self._record_use(key, count)
        return JSONResponse({"go": "/keys"})

    def _enrolment_code(self, viewer: BrowserSession, keys: list[ApproverKey]) -> CodeKind | None:
        """The code that authorizes an enrolment now; None if a passkey of the viewer must. Raises: ApprovalError."""
        code = viewer.enrolment_code(self.now())
        has_key = bool(keys_in_use(keys, viewer.approver))
        if code is not None and (code == "enrolment_code" or not has_key):
            return code
        if self.passkeys_among(keys, viewer):
            return None
        name = viewer.approver
        if has_key:
            hint = f"sign in with a new code that says so: mcp-guard approvers code {name} --enrol"
            raise ApprovalError(f"`{name}` has a key already, so a passkey needs the operator's consent", hint)
        hint = f"sign in with a new one: mcp-guard approvers code {name}"
        raise ApprovalError("the code that you signed in with no longer permits an enrolment", hint)

    def _approver(self, viewer: BrowserSession) -> Approver:
        return Approver(viewer.approver, self.votes.people[viewer.approver])

    async def _record_use(self, key: ApproverKey, count: int) -> None:
        details = key.details | {"count": count}
        await self.votes.writer.submit(lambda tx: tx.store.note_key_use(key.id, details))

    # Decisions

    async def decide_options(self, request: Request) -> Response:
        """Prepare the statement to sign."""
        viewer, body = await self.signed_in(request), await _json(request)
        verdict = body.get("verdict")
        if verdict not in ("approve", "deny"):
            raise ApprovalError("`verdict` must be approve or deny")
        rationale, terms = str(body.get("rationale", "")), _read_terms(body.get("terms"))
        op = self.votes.prepare_op(request.path_params["id"], viewer.approver, verdict, rationale, terms)
        statement = await self.votes.writer.submit(op)
        if not (passkeys := await self.passkeys_of(viewer)):
            hint = "enrol one first: it signs for this address only"
            raise ApprovalError(f"you have no passkey of {self.origin}", hint)
        return JSONResponse(self.passkeys.ask(viewer, statement.text(), passkeys, self.now(), "decide", statement))

    async def decide(self, request: Request) -> Response:
        viewer, credential = await self.signed_in(request), await _json(request)
        keys = await self.keys()
        key, statement, count = self.passkeys.answer(credential, viewer, keys, self.now(), "decide")
        assert isinstance(statement, VoteStatement)
        if statement.approver != viewer.approver or key.approver != viewer.approver:
            raise ApprovalError("the passkey belongs to another approver")
        if statement.approval != request.path_params["id"]:
            raise ApprovalError("the passkey signed for another request")
        approval = await self.votes.writer.submit(self.votes.record_op(statement, key.id, evidence(credential)))
        await self._record_use(key, count)
        return JSONResponse({"state": str(approval.state), "go": "/"})

    async def revoke(self, request: Request) -> Response:
        viewer, body = await self.signed_in(request), await _json(request)
        op = self.votes.revoke_op(request.path_params["id"], viewer.approver, str(body.get("rationale", "")))
        await self.votes.writer.submit(op)
        return JSONResponse({"go": "/"})

    # The application

    def app(self) -> Starlette:
        routes = [
            Route("/", self.show_list),
            Route("/history", self.show_history),
            Route("/keys", self.show_keys),
            Route("/sign-in", self.sign_in_page),
            Route("/sign-in", self.sign_in_with_code, methods=["POST"]),
            Route("/sign-in/options", self.sign_in_options, methods=["POST"]),
            Route("/sign-in/passkey", self.sign_in_with_passkey, methods=["POST"]),
            Route("/sign-out", self.sign_out, methods=["POST"]),
            Route("/passkeys/options", self.passkey_options, methods=["POST"]),
            Route("/passkeys", self.enrol_passkey, methods=["POST"]),
            Route("/passkeys/vouch", self.vouch_for_passkey, methods=["POST"]),
            Route("/requests/{id}", self.show_request),
            Route("/requests/{id}/state", self.state),
            Route("/requests/{id}/options", self.decide_options, methods=["POST"]),
            Route("/requests/{id}/decide", self.decide, methods=["POST"]),
            Route("/revoke/{id}", self.revoke, methods=["POST"]),
            Mount(f"/static/{self.assets}", StaticFiles(directory=HERE / "static")),
        ]
        app = Starlette(
            routes=routes, exception_handlers={GuardError: _answer_guard_error, HTTPException: self._answer_http_error}
        )
        app.add_middleware(BodyMiddleware)
        app.add_middleware(SameOriginMiddleware, origin=self.origin)  # the outer one
        return app

    async def _answer_http_error(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if request.method == "GET" and error.status_code == 404 and (viewer := await self.viewer(request)) is not None:
            return self.page("error.html", viewer, 404, problem=error.detail)
        return JSONResponse({"problem": error.detail, "hint": ""}, error.status_code, error.headers)


def _count_removed(keys: Iterable[ApproverKey], approver: str) -> int:
    return sum(key.approver == approver and key.removed is not None for key in keys)


class SameOriginMiddleware:
    """Protects the pages: it answers for one host only (against DNS rebinding), accepts changes only from the pages
    themselves, forbids other pages to frame or read them, and removes service workers: it has none, so one that asks
    for an update was left by another server that listened on this port."""

    def __init__(self, app: Any, origin: str) -> None:
        self._app = app
        self._origin = origin.encode()
        self._host = origin.partition("://")[2].encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        hosts = [value for name, value in scope["headers"] if name == b"host"]

        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] += [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            await send(message)

        refused: Response | None = None
        if hosts != [self._host]:
            refused = Response(f"host not allowed; this is {self._origin.decode()}", 421)
        elif headers.get(b"service-worker") == b"script":
            refused = Response(KILL_SERVICE_WORKER, media_type="text/javascript")
        elif scope["method"] not in ("GET", "HEAD") and headers.get(b"origin") != self._origin:
            refused = Response("origin not allowed: this change did not come from a page of the inbox", 403)
        await (refused or self._app)(scope, receive, with_headers)


class BodyMiddleware:
    """Reads the body of each change before anything else looks at it: at most `MAX_BODY_BYTES` in `BODY_SECONDS`."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            await self._app(scope, receive, send)
            return
        body, problem = b"", None
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return
                    body += message.get("body", b"")
                    if len(body) > MAX_BODY_BYTES:
                        problem = 413, f"the body must have at most {MAX_BODY_BYTES} bytes"
                        break
                    if not message.get("more_body"):
                        break
        except TimeoutError:
            problem = 408, f"the body did not arrive within {BODY_SECONDS} s"
        if problem is not None:
            status, text = problem
            answer = JSONResponse({"problem": text, "hint": ""}, status, {"connection": "close"})
            await answer(scope, receive, send)
            return
        messages = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def replay() -> Any:
            return next(messages, None) or await receive()

        await self._app(scope, replay, send)


def _read_terms(terms: Any) -> GrantTerms | None:
    """Raises: ApprovalError."""
    if terms is None:
        return None
    try:
        return GrantTerms(int(terms["more"]), int(terms["seconds"]), tuple(str(name) for name in terms["free"]))
    except (KeyError, TypeError, ValueError, OverflowError):
        raise ApprovalError("a grant requires a number of calls, a time limit and a list of free arguments") from None


async def _json(request: Request) -> Json:
    """Raises: HTTPException."""
    try:
        body = orjson.loads(await request.body())
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise HTTPException(400, "the body must be a JSON object")
    return body


async def _answer_guard_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, GuardError)
    return JSONResponse({"problem": visible_line(error.message), "hint": visible_line(error.hint)}, 409)
