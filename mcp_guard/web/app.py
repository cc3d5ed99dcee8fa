"""The pages as a Starlette application."""

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from mcp_guard.core.errors import GuardError
from mcp_guard.ledger.approvals.votes import Votes
from mcp_guard.settings import Settings
from mcp_guard.storage.background import BackgroundReader
from mcp_guard.web.console import Console, answer_guard_error
from mcp_guard.web.middleware import BodyMiddleware, SameOriginMiddleware
from mcp_guard.web.pages import PAGES
from mcp_guard.web.passkeys import Passkeys
from mcp_guard.web.view import HERE


def make_console(settings: Settings, votes: Votes, reader: BackgroundReader, passkeys: Passkeys) -> Console:
    """The pages at the origin of the passkeys."""
    navigation = tuple(link for page in PAGES for link in page.NAV)
    return Console(settings, votes, reader, passkeys.origin, passkeys, navigation)


def make_app(console: Console) -> Starlette:
    routes = [route for page in PAGES for route in page.routes(console)]
    static = Mount(f"/static/{console.assets}", StaticFiles(directory=HERE / "static"))
    app = Starlette(
        routes=[*routes, static],
        exception_handlers={GuardError: answer_guard_error, HTTPException: console.answer_http_error},
    )
    app.add_middleware(BodyMiddleware)
    app.add_middleware(SameOriginMiddleware, origin=console.origin)  # the outer one
    return app
