"""Sign-in by one-time code or passkey, and sign-out, here or everywhere."""

from dataclasses import dataclass
from urllib.parse import parse_qs

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mcp_guard.core.errors import ApprovalError
from mcp_guard.core.model import Json
from mcp_guard.ledger.approvals.approver_keys import CodeKind
from mcp_guard.ledger.approvals.sign_in_codes import take_code
from mcp_guard.notify.push import forget_devices
from mcp_guard.storage.rows import ApproverKey
from mcp_guard.web.carrier import carried_token, give_token
from mcp_guard.web.console import Console, NavigationLink, count_removed, read_json
from mcp_guard.web.id_token import SignInFailed
from mcp_guard.web.roles import EVERYONE
from mcp_guard.web.sessions import BrowserSession, Person

NAV: tuple[NavigationLink, ...] = ()


def routes(console: Console) -> list[Route]:
    pages = _SignInPages(console)
    return [
        Route("/sign-in", pages.show),
        Route("/sign-in", pages.sign_in_with_code, methods=["POST"]),
        Route("/sign-in/options", pages.sign_in_options, methods=["POST"]),
        Route("/sign-in/passkey", pages.sign_in_with_passkey, methods=["POST"]),
        Route("/sign-out", pages.sign_out, methods=["POST"]),
        Route("/sign-out/everywhere", pages.sign_out_everywhere, methods=["POST"]),
    ]


@dataclass(frozen=True, slots=True)
class _SignInPages:
    console: Console

    async def show(self, _: Request) -> Response:
        return self.console.sign_in_page()

    async def sign_in_with_code(self, request: Request) -> Response:
        console = self.console
        form = parse_qs((await request.body()).decode(errors="replace"))
        code = form.get("code", [""])[0]
        keys = await console.keys()
        approver, kind = await take_code(console.reader, console.writer, code) or ("", None)
        if approver not in console.votes.people:
            raise HTTPException(403, "This code is invalid, already used, or older than ten minutes.")
        if kind != "enrolment_code":
            self._check_local_sign_in()
        return await self._welcome(request, Person(approver), keys, kind)

    async def sign_in_options(self, _: Request) -> Response:
        return JSONResponse(self.console.passkeys.sign_in_options(self.console.now()))

    async def sign_in_with_passkey(self, request: Request) -> Response:
        console = self.console
        self._check_local_sign_in()
        credential, keys = await read_json(request), await console.keys()
        key, count = await console.passkeys.sign_in(credential, keys, console.now())
        if key.approver not in console.votes.people:
            raise ApprovalError(f"`{key.approver}` is no longer an approver")
        await console.record_use(key, count)
        return await self._welcome(request, Person(key.approver), keys)

    def _check_local_sign_in(self) -> None:
        """Raises: HTTPException."""
        web = self.console.settings.web
        if web is not None and not web.local_sign_in:
            raise HTTPException(403, "Sign in with your organization's account: web.local_sign_in is false.")

    async def _welcome(
        self, request: Request, person: Person, keys: list[ApproverKey], code: CodeKind | None = None
    ) -> Response:
        token = await welcome(self.console, request, person, keys, code)
        go = {"go": "/keys"} if code == "enrolment_code" else {}  # what such a code is for
        answer = JSONResponse(go | ({"token": token} if self.console.is_local else {}))
        return self.console.fresh(answer, "storage")  # of an earlier session, and service workers

    async def sign_out(self, request: Request) -> Response:
        console = self.console
        viewer = await console.allowed(request, *EVERYONE)
        await console.sessions.close(viewer, console.now())
        give_token(request, "")
        return JSONResponse(await self._sign_out_there(viewer))

    async def _sign_out_there(self, viewer: BrowserSession) -> Json:
        """Where the browser goes to sign out at the identity provider as well, if that is where it signed in."""
        provider = self.console.provider
        if provider is None or not viewer.person.issuer:
            return {}
        try:
            url = await provider.client.logout_url(f"{self.console.origin}/sign-in")
        except SignInFailed as failure:  # here they are signed out nevertheless
            return {"notice": f"You are signed out here, and maybe not there: {failure.message}."}
        return {"go": url} if url else {}

    async def sign_out_everywhere(self, request: Request) -> Response:
        console = self.console
        viewer = await console.allowed(request, *EVERYONE)
        count = await console.sessions.close_all(viewer.person.owner, console.now())
        if viewer.approver:
            await console.writer.submit(lambda tx: tx.store.forget_sign_ins(viewer.approver))
            await forget_devices(console.items, viewer.approver, console.now())
        give_token(request, "")
        return JSONResponse({"sessions": count})


async def welcome(
    console: Console, request: Request, person: Person, keys: list[ApproverKey], code: CodeKind | None = None
) -> str:
    """Open a session for somebody who has just signed in, in place of one that their browser has; returns its token.
    `keys` are as they were before the sign-in was checked: if one is removed meanwhile, the session has ended."""
    now = console.now()
    carried = carried_token(request, console.origin)
    if carried is not None and (earlier := await console.sessions.find(carried, now)) is not None:
        await console.sessions.close(earlier, now)
    token = await console.sessions.open(person, now, count_removed(keys, person.approver), code)
    if not console.is_local:
        give_token(request, token)
    return token
