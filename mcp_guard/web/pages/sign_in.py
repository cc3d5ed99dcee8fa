"""Sign-in by one-time code or passkey, and sign-out."""

from dataclasses import dataclass
from urllib.parse import parse_qs

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mcp_guard.core.errors import ApprovalError
from mcp_guard.ledger.approvals.approver_keys import CodeKind
from mcp_guard.ledger.approvals.sign_in_codes import take_code
from mcp_guard.storage.rows import ApproverKey
from mcp_guard.web.console import Console, NavigationLink, carried_token, count_removed, read_json
from mcp_guard.web.roles import EVERYONE

NAV: tuple[NavigationLink, ...] = ()


def routes(console: Console) -> list[Route]:
    pages = _SignInPages(console)
    return [
        Route("/sign-in", pages.show),
        Route("/sign-in", pages.sign_in_with_code, methods=["POST"]),
        Route("/sign-in/options", pages.sign_in_options, methods=["POST"]),
        Route("/sign-in/passkey", pages.sign_in_with_passkey, methods=["POST"]),
        Route("/sign-out", pages.sign_out, methods=["POST"]),
    ]


@dataclass(frozen=True, slots=True)
class _SignInPages:
    console: Console

    async def show(self, _: Request) -> Response:
        return self.console.fresh(self.console.page("sign_in.html", None))

    async def sign_in_with_code(self, request: Request) -> Response:
        console = self.console
        form = parse_qs((await request.body()).decode(errors="replace"))
        code = form.get("code", [""])[0]
        keys = await console.keys()
        approver, kind = await take_code(console.reader, console.writer, code) or ("", None)
        if approver not in console.votes.people:
            raise HTTPException(403, "This code is invalid, already used, or older than ten minutes.")
        return self._welcome(approver, keys, kind)

    async def sign_in_options(self, _: Request) -> Response:
        return JSONResponse(self.console.passkeys.sign_in_options(self.console.now()))

    async def sign_in_with_passkey(self, request: Request) -> Response:
        console = self.console
        credential, keys = await read_json(request), await console.keys()
        key, count = await console.passkeys.sign_in(credential, keys, console.now())
        if key.approver not in console.votes.people:
            raise ApprovalError(f"`{key.approver}` is no longer an approver")
        await console.record_use(key, count)
        return self._welcome(key.approver, keys)

    def _welcome(self, approver: str, keys: list[ApproverKey], code: CodeKind | None = None) -> Response:
        """`keys` as they were before the sign-in was checked: if one is removed meanwhile, the session has ended."""
        console = self.console
        roles = console.roles_of(approver)
        token = console.sessions.open(approver, console.now(), count_removed(keys, approver), code, roles)
        return console.fresh(JSONResponse({"token": token}), "storage")  # of an earlier session, and service workers

    async def sign_out(self, request: Request) -> Response:
        await self.console.allowed(request, *EVERYONE)
        self.console.sessions.close(carried_token(request) or "")
        return JSONResponse({})
