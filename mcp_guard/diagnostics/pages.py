"""Whether the pages answer at `web.url` as a browser would ask, with which certificate, and by which clock."""

import http.client
import ssl
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from mcp_guard.core.errors import GuardError
from mcp_guard.core.model import DAY, SECOND, Micros
from mcp_guard.core.visible_text import visible_line
from mcp_guard.settings import WebSettings

SECONDS = 4.0
"""How long an answer is waited for."""
CERTIFICATE_DAYS = 14
"""How long before its end a certificate is to be renewed."""
CLOCK_SECONDS = 5
"""How far clocks may differ."""
OURS = b'data-page="sign-in"'
START = "start mcp-guard serve, or mcp-guard web; then check the name in DNS, the proxy in front of it and the firewall"
HEADERS = "have the proxy pass on the headers `Host` and `Origin` as they are: docs/howto/approve-from-a-phone.md"


@dataclass(frozen=True, slots=True)
class PagesState:
    """What was found. `failure` and `hint` are empty if the pages answer. `expires` is the end of the certificate, None
    without one; `ahead` is by how many seconds the clock of whoever answered is ahead of this one's."""

    url: str
    failure: str = ""
    hint: str = ""
    expires: Micros | None = None
    ahead: int = 0

    def days_left(self, now: Micros) -> int | None:
        """Of the certificate; negative once it has expired."""
        return None if self.expires is None else (self.expires - now) // DAY


def inspect_pages(web: WebSettings | None, now: Micros) -> PagesState | None:
    """None without `[web]`."""
    if web is None:
        return None
    try:
        own = _own_expiry(web)
    except (OSError, ValueError, GuardError) as error:
        return PagesState(web.url, visible_line(str(error)), "check `web.certificate` and `web.key`")
    if own is not None and own <= now:
        return PagesState(web.url, expires=own)  # which is why nothing accepts it
    try:
        return _ask(web.url, now)
    except ssl.SSLCertVerificationError as error:
        hint = "use a certificate for this name that browsers trust, with its chain; of a private CA, ignore this"
        return PagesState(web.url, f"its certificate is not trusted here: {error.verify_message}", hint, own)
    except (OSError, http.client.HTTPException) as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return PagesState(web.url, f"does not answer: {visible_line(why)}", START, own)


def _own_expiry(web: WebSettings) -> Micros | None:
    """Of the certificate that the guard serves with, if it does. Raises: OSError, ValueError, ConfigError."""
    if web.certificate is None or web.key is None:
        return None
    from cryptography.x509 import load_pem_x509_certificate

    from mcp_guard.web.tls import ServedCertificate

    ServedCertificate(web.certificate, web.key)
    return _micros(load_pem_x509_certificate(web.certificate.read_bytes()).not_valid_after_utc)


def _ask(url: str, now: Micros) -> PagesState:
    """Raises: OSError, http.client.HTTPException."""
    parts = urlsplit(url)
    host, expires = parts.hostname or "", None
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    with closing(kind(host, parts.port, timeout=SECONDS)) as connection:
        connection.connect()
        if isinstance(connection.sock, ssl.SSLSocket):
            end = (connection.sock.getpeercert() or {}).get("notAfter")
            expires = int(ssl.cert_time_to_seconds(str(end))) * SECOND if end else None
        connection.request("GET", "/sign-in", headers={"host": parts.netloc})
        page = connection.getresponse()
        text, date = page.read(100_000), page.headers.get("date")
        if page.status == 421:
            return PagesState(url, "whatever is in front of the pages changes the header `Host`", HEADERS, expires)
        if page.status != 200 or OURS not in text:
            return PagesState(url, f"something else answers there (status {page.status})", START, expires)
    with closing(kind(host, parts.port, timeout=SECONDS)) as connection:
        connection.request("POST", "/sign-in", "code=", {"host": parts.netloc, "origin": url})
        if b"origin not allowed" in connection.getresponse().read(10_000):
            return PagesState(url, "whatever is in front of the pages changes the header `Origin`", HEADERS, expires)
    ahead = (_micros(parsedate_to_datetime(date)) - now) // SECOND if date else 0
    return PagesState(url, expires=expires, ahead=ahead)


def _micros(time: datetime) -> Micros:
    return int(time.timestamp()) * SECOND
