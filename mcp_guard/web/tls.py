"""The certificate that the pages are served with, where no proxy ends TLS in front of them."""

import ssl
import stat
from dataclasses import dataclass, field
from pathlib import Path

from mcp_guard.core.errors import ConfigError


@dataclass(slots=True)
class ServedCertificate:
    """A certificate and its key, in files, which whoever renews them replaces."""

    certificate: Path
    key: Path
    context: ssl.SSLContext = field(init=False)
    _read: tuple[int, int] = field(init=False)

    def __post_init__(self) -> None:
        """Raises: ConfigError."""
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_alpn_protocols(["http/1.1"])
        self._read = self._times()
        self._load()

    def reload_if_changed(self) -> bool:
        """New connections get what the files have now. Raises: ConfigError; connections get the last one that could be
        read."""
        times = self._times()
        if times == self._read:
            return False
        self._read = times
        self._load()
        return True

    def _times(self) -> tuple[int, int]:
        try:
            return self.certificate.stat().st_mtime_ns, self.key.stat().st_mtime_ns
        except OSError as error:
            path = error.filename
            raise ConfigError(
                f"cannot read `{path}`: {error.strerror}", "check `web.certificate` and `web.key`"
            ) from None

    def _load(self) -> None:
        mode = self.key.stat().st_mode
        if mode & (stat.S_IRWXO | stat.S_IWGRP):
            problem = f"`{self.key}` is accessible to other users (mode {stat.S_IMODE(mode):04o})"
            raise ConfigError(problem, f"chmod 600 {self.key}")
        try:
            self.context.load_cert_chain(self.certificate, self.key, password=_no_password)
        except (OSError, ssl.SSLError, ValueError) as error:
            problem = f"`{self.certificate}` and `{self.key}` are not a certificate and its key: {error}"
            raise ConfigError(
                problem, "check `web.certificate` and `web.key`: PEM files, the key without a passphrase"
            ) from None


def _no_password() -> str:
    """OpenSSL would ask for it on the terminal."""
    return ""
