"""HTTP POST requests that the guard sends on its own account, for notifiers, witnesses and receivers of events.

No redirect is followed, and no error repeats an address or a secret. What is sent, and whether a failed request is
repeated, is up to the caller.
"""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from mcp_guard.core.errors import ConfigError
from mcp_guard.secrets import read_network, read_secret
from mcp_guard.settings import NetworkSettings

if TYPE_CHECKING:
    import httpx2 as httpx

    from mcp_guard.network import Network

TIMEOUT_SECONDS = 10
MAX_RESPONSE_BYTES = 1 << 20
MAX_RETRY_AFTER = 24 * 3600


class DeliveryError(Exception):
    """A message was not delivered. The text says why and never contains an address or a secret.

    `retry_after`: the seconds that the receiver wants to be left alone for.
    """

    def __init__(self, problem: str, retry_after: float = 0) -> None:
        super().__init__(problem)
        self.retry_after = retry_after


class InvalidRequestError(DeliveryError):
    """The configured address or a header cannot be used in an HTTP request, so that a repetition fails too."""


@dataclass(frozen=True, slots=True)
class Destination:
    """A configured notifier or witness. A secret in `options` is a `SecretReference`, which is read on use.

    `base_dir` is the folder that relative paths are taken from.
    """

    options: Mapping[str, Any]
    environment: Mapping[str, str]
    base_dir: Path
    network_settings: NetworkSettings = field(default_factory=NetworkSettings)

    @property
    def network(self) -> "Network":
        """How it is reached. Raises: DeliveryError."""
        return find_network(self.network_settings, self.base_dir, self.environment)

    def secret(self, name: str) -> str:
        """Raises: DeliveryError."""
        try:
            return read_secret(self.options[name], self.base_dir, self.environment)
        except ConfigError as error:
            raise DeliveryError(f"`{name}`: {error.message}") from None


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """`content_type` is in lower case, without parameters; `body` is cut off at `max_response_bytes` of `post`.

    The body of an answer other than success is empty if it cannot be read: the status alone tells what happened.
    """

    status: int
    content_type: str
    body: bytes
    redirect: str = ""
    """The scheme and host to which a redirect leads."""
    retry_after: float = 0
    """Seconds (RFC 9110 §10.2.3), at most a day; 0 if the receiver says nothing, or gives a date."""

    def __str__(self) -> str:
        """The status, and what to do about a redirect."""
        redirect = f", a redirect to `{self.redirect}`; change the address to its target" if self.redirect else ""
        return f"HTTP {self.status}{redirect}"

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300


def find_network(settings: NetworkSettings, base_dir: Path, environment: Mapping[str, str]) -> "Network":
    """The proxy and the certificates for requests. Raises: DeliveryError."""
    try:
        return read_network(settings, base_dir, environment)
    except ConfigError as error:
        raise DeliveryError(error.message) from None


def post_json(url: str, body: bytes, headers: Mapping[str, str], network: "Network") -> None:
    """Raises: DeliveryError unless the receiver answers with success (2xx)."""
    check_success(post(url, body, {"content-type": "application/json", **headers}, network))


def check_success(response: HttpResponse) -> None:
    """Raises: DeliveryError unless it is one (2xx)."""
    if not response.is_success:
        raise as_error(response)


def as_error(response: HttpResponse) -> DeliveryError:
    return DeliveryError(f"the receiver answered {response}", response.retry_after)


def post(
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    network: "Network",
    *,
    max_response_bytes: int = MAX_RESPONSE_BYTES,
) -> HttpResponse:
    """The response, whatever its status.

    Raises: InvalidRequestError if the address or a header is malformed; DeliveryError if there is no response.
    """
    import httpx2 as httpx

    from mcp_guard.network import explain

    if not url.startswith(("http://", "https://")):
        raise InvalidRequestError("the address begins with neither http:// nor https://")
    if any(re.search(r"[\x00-\x08\x0a-\x1f\x7f]", text) for text in (url, *headers.values())) or " " in url:
        raise InvalidRequestError("the address or a header contains a space or a control character")
    try:
        with (
            network.client(timeout=TIMEOUT_SECONDS) as http,
            http.stream("POST", url, content=body, headers={"accept-encoding": "identity", **headers}) as response,
        ):
            return _read(response, max_response_bytes)
    except (httpx.InvalidURL, httpx.LocalProtocolError, httpx.UnsupportedProtocol, ValueError) as error:
        raise InvalidRequestError(f"the address or a header is invalid ({type(error).__name__})") from None
    except httpx.HTTPError as error:
        raise DeliveryError(f"the receiver could not be reached ({explain(error)})") from None


def _read(response: "httpx.Response", max_bytes: int) -> HttpResponse:
    """The response with as much of its body as is wanted."""
    import httpx2 as httpx

    content_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    body, deadline = bytearray(), time.monotonic() + TIMEOUT_SECONDS
    try:
        for piece in response.iter_raw():
            body += piece
            if len(body) >= max_bytes or time.monotonic() > deadline:
                break
    except httpx.HTTPError:
        if response.is_success:
            raise
        body.clear()
    wait = response.headers.get("retry-after", "").strip()
    retry_after = min(float(wait), MAX_RETRY_AFTER) if wait.isascii() and wait.isdecimal() and len(wait) < 10 else 0
    return HttpResponse(
        response.status_code, content_type, bytes(body[:max_bytes]), _redirect_host(response), retry_after
    )


def _redirect_host(response: "httpx.Response") -> str:
    """Where a redirect leads, without its path: that of an address of Slack's is a secret."""
    from mcp_guard.network import redirect_target

    parts = urlsplit(redirect_target(response))
    return f"{parts.scheme}://{parts.netloc}" if parts.netloc else ""
