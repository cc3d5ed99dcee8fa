"""One POST, for notifiers and witnesses that need it. Follows no redirect; an error tells nothing of the address."""

import http.client
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcp_guard.core.errors import ConfigError
from mcp_guard.upstream.secrets import read_secret

SECONDS = 10
MOST_BYTES = 1 << 20
"""Of an answer."""


class Undelivered(Exception):
    """The message did not get there. The text says why and never holds an address or a secret."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the configuration says of one notifier; secrets are read on use."""

    values: dict[str, Any]
    environment: dict[str, str]
    here: Path

    def secret(self, name: str) -> str:
        """Raises: Undelivered."""
        try:
            return read_secret(self.values[name], self.here, self.environment)
        except ConfigError as error:
            raise Undelivered(f"`{name}`: {error.message}") from None


@dataclass(frozen=True, slots=True)
class Answer:
    """`type` is the content type without its parameters, in lower case."""

    status: int
    type: str
    body: bytes


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def post(url: str, body: bytes, headers: Mapping[str, str]) -> None:
    """Raises: Undelivered unless the answer is a success."""
    status = exchange(url, body, {"content-type": "application/json", **headers}).status
    if not 200 <= status < 300:
        raise Undelivered(f"it answered HTTP {status}")


def exchange(url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
    """Raises: Undelivered unless there is an answer, of whatever status."""
    if not url.startswith(("http://", "https://")):
        raise Undelivered("its address is neither http nor https")
    request = urllib.request.Request(url, body, dict(headers))  # noqa: S310
    try:
        try:
            with urllib.request.build_opener(_NoRedirect).open(request, timeout=SECONDS) as answer:
                return Answer(answer.status, answer.headers.get_content_type(), answer.read(MOST_BYTES))
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.headers.get_content_type(), error.read(MOST_BYTES))
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Undelivered(f"it could not be reached ({type(error).__name__})") from None
