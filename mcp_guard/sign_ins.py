"""Where the sign-ins of people at upstreams are kept: in the state folder, in the keyring or with the ledger."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mcp_guard.core.errors import UpstreamError
from mcp_guard.core.people import OWN_NAMES, Identity, canonical_identity
from mcp_guard.ledger.place import ledger_place
from mcp_guard.settings import SecretReference, Settings
from mcp_guard.trouble import TroubleReport
from mcp_guard.upstream.user import UpstreamUser

if TYPE_CHECKING:
    from mcp_guard.shared_secret import SharedSecret
    from mcp_guard.storage.sign_ins import HeldSignIn, SignIns
    from mcp_guard.upstream.oauth.registration import ClientRegistration
    from mcp_guard.upstream.oauth.token_endpoint import ClientCredentials
    from mcp_guard.upstream.oauth.token_storage import TokenStorage

REGISTRATION = "urn:mcp-guard:client"
"""In place of an issuer of users: what is kept is the guard's own registration."""


class SignInStorage:
    """The storage of all sign-ins of one process. It opens nothing before one is needed."""

    def __init__(self, settings: Settings, note: Callable[[str], None] = lambda _: None) -> None:
        self._settings = settings
        self._report = TroubleReport(note, "sign-ins at upstreams cannot be read or written")
        self._shared: tuple[SignIns, SharedSecret] | None = None

    def of(self, name: str, user: UpstreamUser | None = None) -> "TokenStorage":
        """That of one upstream: this user's, or the one that all sessions use. Raises: ConfigError, LedgerError."""
        return self.of_guard(name) if user is None else self.of_user(name, Identity(user.issuer, user.name))

    def of_guard(self, name: str) -> "TokenStorage":
        """Raises: ConfigError, LedgerError."""
        from mcp_guard.upstream.oauth.token_storage import FileTokenStorage

        settings, oauth = self._settings, self._settings.upstreams[name].oauth
        in_keyring = oauth is not None and oauth.in_keyring
        if in_keyring or not self._has_database:
            return FileTokenStorage(settings.state_dir / "sign-ins", name, in_keyring, self._report)
        from mcp_guard.upstream.oauth.shared_tokens import SharedTokenStorage

        return SharedTokenStorage(*self._share(name))

    def of_user(self, name: str, user: Identity) -> "TokenStorage":
        """Raises: ConfigError, LedgerError."""
        from mcp_guard.upstream.oauth.shared_tokens import SharedTokenStorage

        settings = self._settings
        page, where = f"{settings.pages}/upstreams", "with the ledger" if self._has_database else "in the state folder"
        user = canonical_identity(settings.people, user)
        return SharedTokenStorage(*self._share(name), user, page, f"{where}, sealed")

    def client_registration(self, name: str, redirect: str, credentials: "ClientCredentials") -> "ClientRegistration":
        """Who the guard is where people sign in to this upstream. Raises: ConfigError, LedgerError."""
        from mcp_guard.upstream.oauth.registration import ClientRegistration, document_url
        from mcp_guard.upstream.oauth.shared_tokens import SharedTokenStorage

        kept = SharedTokenStorage(*self._share(name), Identity(REGISTRATION, redirect))
        return ClientRegistration(redirect, document_url(self._settings.pages), kept, credentials)

    async def forget(self, user: str) -> list[str]:
        """Remove the sign-ins of everybody who is called so by the launcher or an issuer. Returns the upstreams.

        Raises: ConfigError, LedgerError, UpstreamError.
        """
        from mcp_guard.upstream.oauth.discovery import NoToken

        serve, forgotten = self._settings.serve, list[str]()
        issuers = (OWN_NAMES, *(str(issuer["issuer"]) for issuer in (serve.issuers if serve else ())))
        for name, upstream in self._settings.upstreams.items():
            if not upstream.signs_users_in:
                continue
            try:
                for issuer in issuers:
                    async with self.of_user(name, Identity(issuer, user)).locked() as held:
                        forgotten += [name] if await held.remove() else []
            except NoToken as error:
                hint = f"mcp-guard upstreams logout {name} --user {user}"
                raise UpstreamError(f"`{user}` is still signed in to `{name}`: {error}", hint) from None
        return forgotten

    def prepare(self) -> None:
        """Make what a sign-in needs, if no guard has run yet. Raises: ConfigError, LedgerError."""
        if self._has_database:
            from mcp_guard.storage.engines import open_store

            open_store(ledger_place(self._settings), self._settings.unsafe_skip_fsync).close()

    @property
    def _has_database(self) -> bool:
        return isinstance(self._settings.database, SecretReference)

    def _share(self, name: str) -> "tuple[SignIns, str, SharedSecret]":
        """Raises: ConfigError, LedgerError."""
        if self._shared is None:
            from mcp_guard.shared_secret import read_shared_secret
            from mcp_guard.storage.engines import find_engine

            sign_ins = find_engine(ledger_place(self._settings)).open_sign_ins(self._settings.state_dir)
            self._shared = _ReportedSignIns(sign_ins, self._report), read_shared_secret(self._settings)
        return self._shared[0], name, self._shared[1]


@dataclass(frozen=True, slots=True)
class _ReportedSignIns:
    """Implements `SignIns` and reports failures to the operator."""

    sign_ins: "SignIns"
    report: TroubleReport

    @asynccontextmanager
    async def locked(self, upstream: str) -> "AsyncIterator[HeldSignIn]":
        with self.report.watching():
            async with self.sign_ins.locked(upstream) as held:
                yield held

    async def read(self, upstream: str) -> bytes:
        with self.report.watching():
            return await self.sign_ins.read(upstream)
