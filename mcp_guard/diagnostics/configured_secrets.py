"""Whether each secret of the configuration can be read, for `doctor` and `secrets list`. It returns no value."""

import os
import threading
from concurrent.futures import Future
from pathlib import Path

from mcp_guard.configured_secrets import configured_secrets
from mcp_guard.core.errors import ConfigError
from mcp_guard.diagnostics.snapshot import SecretState
from mcp_guard.secrets import COMMAND_SECONDS, read_configured
from mcp_guard.settings import MIN_SHARED_SECRET, ConfiguredSecret, SecretReference, Settings
from mcp_guard.shared_secret import FILE


def inspect_secrets(settings: Settings, limit: float = COMMAND_SECONDS) -> tuple[SecretState, ...]:
    """Each is read for up to `limit` seconds. Commands are not run, because they may ask the user for something."""
    here = settings.path.parent
    return tuple(
        SecretState(secret, is_read=False) if secret.reference.source == "command" else _read(secret, here, limit)
        for secret in (*configured_secrets(settings), *_created_secret(settings))
    )


def _created_secret(settings: Settings) -> list[ConfiguredSecret]:
    """What takes the place of `ledger.shared_secret`, once a guard has created it."""
    path = settings.state_dir / FILE
    if settings.shared_secret is not None or not path.exists():
        return []
    return [ConfiguredSecret("ledger.shared_secret", SecretReference("file", str(path)), MIN_SHARED_SECRET)]


def _read(secret: ConfiguredSecret, here: Path, limit: float) -> SecretState:
    """Read in a thread, which is left behind if it takes longer: a keyring may wait for somebody to unlock it."""
    outcome: Future[SecretState] = Future()

    def read() -> None:
        try:
            read_configured(secret, here, os.environ)
            outcome.set_result(SecretState(secret))
        except ConfigError as error:
            outcome.set_result(SecretState(secret, failure=error.message, hint=error.hint))
        except Exception as error:
            outcome.set_exception(error)

    threading.Thread(target=read, daemon=True).start()
    try:
        return outcome.result(limit)
    except TimeoutError:
        failure = f"the {secret.reference.source} gave no secret within {limit:g} s"
        return SecretState(secret, failure=failure, hint="unlock the keyring; a file has to be a regular one")
