"""Sends events to an HTTP receiver, at least once: the cursor moves after the receiver has accepted a batch.

After a crash between the two, the batch is sent again. A receiver recognizes it by the ledger's origin, the sequence
numbers and the times.
"""

import json
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from mcp_guard.core.errors import ConfigError, UpstreamError, reason_of
from mcp_guard.files import replace_file
from mcp_guard.outbound import DeliveryError, InvalidRequestError, post

if TYPE_CHECKING:
    from mcp_guard.network import Network

RETRYABLE_STATUSES = (408, 429, 500, 502, 503, 504)
"""Statuses after which the same request may succeed later (OTLP/HTTP, "Failures", and what gateways answer)."""
MAX_RESPONSE_BYTES = 4096


class RetryableError(Exception):
    """The receiver did not accept the events this time; a later attempt may succeed."""


@dataclass(frozen=True, slots=True)
class Receiver:
    """Where events are sent. `headers` may contain a secret, so no message repeats them."""

    url: str
    content_type: str
    headers: Mapping[str, str]
    network: "Network"

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or "?"

    def send(self, body: bytes) -> str:
        """Returns a warning if the receiver dropped some of the events, else an empty string.

        Raises: RetryableError; UpstreamError if the receiver refuses the request; ConfigError if the address or a
        header cannot be sent.
        """
        headers = {**self.headers, "content-type": self.content_type}
        try:
            response = post(self.url, body, headers, self.network, max_response_bytes=MAX_RESPONSE_BYTES)
        except InvalidRequestError as error:
            raise ConfigError(f"cannot send to `{self.host}`: {error}", "check --to and --headers") from None
        except DeliveryError as error:
            raise RetryableError(f"cannot send to `{self.host}`: {error}") from None
        if response.is_success:
            return _partial_success_warning(response.body)
        if response.status in RETRYABLE_STATUSES:
            raise RetryableError(f"`{self.host}` answered {response}")
        raise UpstreamError(f"`{self.host}` refused the events: {response}", "check --to, --format and --headers")


def _partial_success_warning(body: bytes) -> str:
    """OTLP reports in `partialSuccess` that some records were dropped. Any other answer is nothing to warn of: the
    receiver has accepted the events."""
    try:
        partial = json.loads(body).get("partialSuccess") or {}
        rejected = int(partial.get("rejectedLogRecords", 0))
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        return ""
    if not rejected:
        return ""
    return f"the receiver dropped {rejected} events: {str(partial.get('errorMessage', ''))[:200]}"


def check_url(url: str) -> str:
    """Raises: ConfigError, which does not repeat the address: it may contain a password or a token."""
    try:
        parts = urlsplit(url)
    except ValueError:  # such as an IPv6 address without its closing bracket
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(
            "the address in --to does not begin with http:// or https://, or names no host",
            "use an address such as http://localhost:4318/v1/logs",
        )
    return url


def read_headers(path: Path | None) -> dict[str, str]:
    """Headers from a file with a line `Name: value` for each. The file often holds a token, so only its owner may have
    access.

    Raises: ConfigError.
    """
    if path is None:
        return {}
    try:
        mode, text = path.stat().st_mode, path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot read `{path}`: {why}", "check the path") from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"`{path}` is accessible to other users (mode {stat.S_IMODE(mode):04o})", f"chmod 600 {path}")
    pairs = [line.partition(":") for line in text.splitlines() if line.strip()]
    if malformed := [name for name, colon, _ in pairs if not colon]:
        number = pairs.index((malformed[0], "", "")) + 1
        raise ConfigError(f"`{path}`: line {number} is not `Name: value`", "fix that line")
    return {name.strip(): value.strip() for name, _, value in pairs}


def _json_or_none(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


@dataclass(frozen=True, slots=True)
class Cursor:
    """A file that records how far the events of one ledger have been delivered."""

    path: Path

    def read(self, origin: str) -> int:
        """The sequence number of the last delivered receipt, or -1. Raises: ConfigError."""
        try:
            text = self.path.read_text()
        except FileNotFoundError:
            return -1
        except (OSError, UnicodeDecodeError) as error:
            what = f"cannot read the position in `{self.path}`: {reason_of(error)}"
            raise ConfigError(what, "check the path: --cursor FILE") from None
        match _json_or_none(text):
            case {"origin": str(written_for), "seq": int(seq)}:
                if written_for != origin:
                    what = f"`{self.path}` belongs to another ledger, `{written_for}`"
                    raise ConfigError(what, "use another file: --cursor FILE")
                return seq
            case _:
                what = f"`{self.path}` has no position that this command wrote"
                hint = "name the last receipt that was delivered: --after SEQ; or remove the file, to start over"
                raise ConfigError(what, hint)

    def move(self, origin: str, seq: int) -> None:
        """Record the position; durable on return. Raises: ConfigError."""
        try:
            replace_file(self.path, json.dumps({"origin": origin, "seq": seq}).encode(), 0o666)
        except OSError as error:
            what = f"cannot write the position to `{self.path}`: {reason_of(error)}"
            raise ConfigError(what, "use another file: --cursor FILE") from None

    def check_end(self, seq: int, last: int) -> None:
        """Refuse a position after the ledger's last receipt: the next receipts would never be delivered.

        Raises: ConfigError.
        """
        if seq > last:
            raise ConfigError(
                f"`{self.path}` is at receipt {seq}, but the last one of the ledger is {last}: was a backup restored?",
                "name once the last receipt of the backup: --after SEQ; or remove the file, to send every event again",
            )


def set_back(folder: Path, origin: str, last: int) -> int:
    """Move the ledger's cursors in the folder that are after receipt `last` back to it; returns how many there were.
    Unreadable ones stay. Raises: ConfigError."""
    moved = 0
    for cursor in map(Cursor, sorted(folder.glob("events-*.cursor"))):
        position = last
        with suppress(ConfigError):
            position = cursor.read(origin)
        if position > last:
            cursor.move(origin, last)
            moved += 1
    return moved
