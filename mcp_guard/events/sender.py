"""Sending events to an HTTP receiver, at least once: the cursor moves when the receiver has said that it took a batch.

After a crash between the two that batch is sent again; ledger and sequence number tell that it is the same.
"""

import http.client
import json
import os
import stat
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mcp_guard.core.errors import ConfigError, UpstreamError

SECONDS = 10
AGAIN = (408, 429, 500, 502, 503, 504)
"""Statuses after which the same request may succeed later (OTLP/HTTP, "Failures", and what gateways answer)."""
ANSWER_BYTES = 4096


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


class TryAgain(Exception):
    """The receiver could not take it now."""


@dataclass(frozen=True, slots=True)
class Receiver:
    """Where events go. `headers` may hold a secret, and so stand in no message."""

    url: str
    content_type: str
    headers: Mapping[str, str]

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or "?"

    def send(self, body: bytes) -> str:
        """Returns what the receiver has to say of a part that it did not take. Raises: TryAgain, UpstreamError."""
        headers = {**self.headers, "content-type": self.content_type}
        request = urllib.request.Request(self.url, body, headers)  # noqa: S310 - checked in `check_url`
        try:
            with urllib.request.build_opener(_NoRedirect).open(request, timeout=SECONDS) as answer:
                return _partly(answer.read(ANSWER_BYTES))
        except urllib.error.HTTPError as error:
            if error.code in AGAIN:
                raise TryAgain(f"`{self.host}` answered HTTP {error.code}") from None
            raise UpstreamError(
                f"`{self.host}` refused the events: HTTP {error.code}", "check --to, --format and --headers"
            ) from None
        except (OSError, http.client.HTTPException) as error:
            raise TryAgain(f"`{self.host}` cannot be reached ({type(error).__name__})") from None


def _partly(answer: bytes) -> str:
    """OTLP says in its answer if it dropped some: `partialSuccess`."""
    try:
        said = json.loads(answer).get("partialSuccess") or {}
    except (ValueError, AttributeError):
        return ""
    rejected = said.get("rejectedLogRecords", 0) if isinstance(said, dict) else 0
    return f"the receiver dropped {rejected} events: {str(said.get('errorMessage', ''))[:200]}" if int(rejected) else ""


def check_url(url: str) -> str:
    """Raises: ConfigError."""
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise ConfigError("--to needs an address that begins with http:// or https://", "http://localhost:4318/v1/logs")
    return url


def read_headers(path: Path | None) -> dict[str, str]:
    """`Name: value`, one a line; such a file often holds a token, so only its owner may have access.

    Raises: ConfigError.
    """
    if path is None:
        return {}
    try:
        mode, text = path.stat().st_mode, path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read `{path}`: {error}", "check the path") from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"`{path}` is open to others (mode {stat.S_IMODE(mode):04o})", f"chmod 600 {path}")
    pairs = [line.partition(":") for line in text.splitlines() if line.strip()]
    if bad := [name for name, colon, _ in pairs if not colon]:
        raise ConfigError(f"`{path}`: line {pairs.index((bad[0], '', '')) + 1} is not `Name: value`", "mend that line")
    return {name.strip(): value.strip() for name, _, value in pairs}


@dataclass(frozen=True, slots=True)
class Cursor:
    """A file that says how far the events of one ledger have been handed over."""

    path: Path

    def read(self, origin: str) -> int:
        """The last receipt that was handed over; -1 if none was. Raises: ConfigError."""
        try:
            said = json.loads(self.path.read_text())
            if said["origin"] != origin:
                raise ConfigError(
                    f"`{self.path}` is of another ledger, `{said['origin']}`", "name another: --cursor FILE"
                )
            return int(said["seq"])
        except FileNotFoundError:
            return -1
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"cannot read `{self.path}`: {error}", "remove it, or say --after SEQ") from None

    def move(self, origin: str, seq: int) -> None:
        """Durable on return."""
        draft = self.path.with_name(f"{self.path.name}.new")
        with draft.open("w") as file:
            json.dump({"origin": origin, "seq": seq}, file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self.path)
