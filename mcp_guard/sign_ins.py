"""Where the sign-ins of users at upstreams are kept: in the state folder, in the keyring or with the ledger."""

from typing import TYPE_CHECKING

from mcp_guard.ledger.place import ledger_place
from mcp_guard.settings import SecretReference, Settings

if TYPE_CHECKING:
    from mcp_guard.shared_secret import SharedSecret
    from mcp_guard.storage.sign_ins import SignIns
    from mcp_guard.upstream.oauth.token_storage import TokenStorage


class SignInStorage:
    """The storage of all sign-ins of one process. It opens nothing before one is needed."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._shared: tuple[SignIns, SharedSecret] | None = None

    def of(self, name: str) -> "TokenStorage":
        """That of one upstream, which users sign in to. Raises: ConfigError, LedgerError."""
        from mcp_guard.upstream.oauth.token_storage import FileTokenStorage

        settings, oauth = self._settings, self._settings.upstreams[name].oauth
        in_keyring = oauth is not None and oauth.in_keyring
        if in_keyring or (shared := self._share()) is None:
            return FileTokenStorage(settings.state_dir / "sign-ins", name, in_keyring)
        from mcp_guard.upstream.oauth.shared_tokens import SharedTokenStorage

        sign_ins, secret = shared
        return SharedTokenStorage(sign_ins, name, secret)

    def prepare(self) -> None:
        """Make what a sign-in needs, if no guard has run yet. Raises: ConfigError, LedgerError."""
        if self._share() is not None:
            from mcp_guard.storage.engines import open_store

            open_store(ledger_place(self._settings), self._settings.unsafe_skip_fsync).close()

    def _share(self) -> "tuple[SignIns, SharedSecret] | None":
        """Raises: ConfigError, LedgerError."""
        if self._shared is None and isinstance(self._settings.database, SecretReference):
            from mcp_guard.shared_secret import read_shared_secret
            from mcp_guard.storage.engines import find_engine

            if (sign_ins := find_engine(ledger_place(self._settings)).open_sign_ins()) is not None:
                self._shared = sign_ins, read_shared_secret(self._settings)
        return self._shared
