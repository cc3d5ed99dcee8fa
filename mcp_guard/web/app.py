"""The pages as a Starlette application."""

import hashlib
import os
import secrets

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from mcp_guard.core.errors import ConfigError, GuardError
from mcp_guard.core.model import SECOND
from mcp_guard.extras import lacks
from mcp_guard.identity.dpop import ProofMemory
from mcp_guard.ledger.approvals.votes import Votes
from mcp_guard.ledger.place import ledger_place
from mcp_guard.ledger.receipt_search import ReceiptSearch
from mcp_guard.secrets import read_network, read_secret
from mcp_guard.server_log import note
from mcp_guard.settings import Settings
from mcp_guard.shared_secret import read_shared_secret
from mcp_guard.sign_ins import SignInStorage
from mcp_guard.storage.background import BackgroundReader
from mcp_guard.storage.engines import find_engine
from mcp_guard.storage.items import Items
from mcp_guard.web.carrier import CarrierMiddleware, uses_cookie
from mcp_guard.web.console import Console
from mcp_guard.web.middleware import BodyMiddleware, SameOriginMiddleware, ShareMiddleware
from mcp_guard.web.oidc import OidcClient
from mcp_guard.web.oidc_attempts import ProviderSignIns, SealedAttempts
from mcp_guard.web.pages import FROM_ELSEWHERE, PAGES
from mcp_guard.web.pages.oidc import CALLBACK
from mcp_guard.web.passkeys import Challenges, Passkeys
from mcp_guard.web.search import LedgerSearch
from mcp_guard.web.sessions import BrowserSessions, SessionLifetimes
from mcp_guard.web.upstream_sign_ins import UpstreamSignIns
from mcp_guard.web.view import HERE

REALM_BYTES = 16


def make_console(
    settings: Settings, votes: Votes, reader: BackgroundReader, items: Items, answered: ProofMemory, origin: str
) -> Console:
    """The pages at this origin. `answered` remembers for all gateways which challenges were."""
    secret = read_shared_secret(settings)
    is_local = not uses_cookie(origin)
    realm = secrets.token_hex(REALM_BYTES) if is_local else origin
    limits = SessionLifetimes()
    if settings.web is not None:
        limits = SessionLifetimes(int(settings.web.session_seconds * SECOND), int(settings.web.idle_seconds * SECOND))
    return Console(
        settings=settings,
        votes=votes,
        reader=reader,
        items=items,
        sessions=BrowserSessions(items, secret.derive("web-session"), realm, limits),
        passkeys=Passkeys(origin, Challenges(secret.derive("sign-in"), answered), settings.origin),
        proofs=answered,
        provider=_provider_sign_ins(settings, origin, SealedAttempts(secret.derive("oidc"), answered)),
        search=LedgerSearch(ReceiptSearch(find_engine(ledger_place(settings)), settings.state_dir), reader),
        upstream_sign_ins=UpstreamSignIns(
            settings, origin, SignInStorage(settings, note), SealedAttempts(secret.derive("upstream-sign-in"), answered)
        ),
        navigation=tuple(link for page in PAGES for link in page.NAV),
        assets=secrets.token_urlsafe(REALM_BYTES) if is_local else digest_of_assets(),
    )


def _provider_sign_ins(settings: Settings, origin: str, attempts: SealedAttempts) -> ProviderSignIns | None:
    """Raises: ConfigError if the extra `oidc` is not installed."""
    web, here = settings.web, settings.path.parent
    if web is None or web.provider is None:
        return None
    try:
        import authlib.oidc.core  # noqa: F401 - found out at the start, not by whoever signs in first
    except ImportError as error:
        missing = lacks("`[web.oidc]`", "oidc", error)
        raise ConfigError(missing.what, missing.hint) from None
    reference = web.client_secret
    client = OidcClient(
        web.provider,
        f"{origin}{CALLBACK}",
        secret=lambda: read_secret(reference, here, os.environ) if reference else "",
        network=lambda: read_network(settings.network, here, os.environ),
    )
    return ProviderSignIns(client, attempts)


def digest_of_assets() -> str:
    """The same at every gateway of this version. On loopback nobody can guess the folder, so that no browser has cached
    a script under its name of another server that had the port before."""
    files = sorted((HERE / "static").iterdir())
    return hashlib.sha256(b"".join(file.name.encode() + file.read_bytes() for file in files)).hexdigest()[:22]


def make_app(console: Console) -> SameOriginMiddleware:
    routes = [route for page in PAGES for route in page.routes(console)]
    static = Mount(f"/static/{console.assets}", StaticFiles(directory=HERE / "static"))
    app = Starlette(
        routes=[*routes, static],
        exception_handlers={GuardError: console.answer_guard_error, HTTPException: console.answer_http_error},
    )
    app.router.redirect_slashes = False  # it would name the scheme between a proxy and here
    app.add_middleware(ShareMiddleware, origin=console.origin, find_session=console.find_session)
    app.add_middleware(CarrierMiddleware, origin=console.origin, seconds=console.sessions.limits.lifetime // SECOND)
    app.add_middleware(BodyMiddleware, limits=FROM_ELSEWHERE)
    # Around everything, so that also the answer to what nobody has caught has its headers.
    return SameOriginMiddleware(app, console.origin, FROM_ELSEWHERE)
