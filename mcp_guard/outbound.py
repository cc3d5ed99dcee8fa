"""HTTP POST requests that the guard sends on its own account, for notifiers, witnesses and receivers of events.

No redirect is followed, and no error repeats an address or a secret. What is sent, and whether a failed request is
repeated, is up to the caller.
"""

import http.client
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcp_guard.core.errors import ConfigError
from mcp_guard.upstream.secrets import read_secret

TIMEOUT_SECONDS = 10
MAX_RESPONSE_BYTES = 1 << 20


class DeliveryError(Exception):
    """A message was not delivered. The text says why and never contains an address or a secret."""


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

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def post_json(url: str, body: bytes, headers: Mapping[str, str]) -> None:
    """Raises: DeliveryError unless the receiver answers with success (2xx)."""
    response = post(url, body, {"content-type": "application/json", **headers})
    if not response.is_success:
        raise DeliveryError(f"the receiver answered HTTP {response.status}")


def post(
    url: str, body: bytes, headers: Mapping[str, str], *, max_response_bytes: int = MAX_RESPONSE_BYTES
) -> HttpResponse:
    """The response, whatever its status.

    Raises: InvalidRequestError if the address or a header is malformed; DeliveryError if there is no response.
    """
    if not url.startswith(("http://", "https://")):
        raise InvalidRequestError("the address begins with neither http:// nor https://")
    try:
        request = urllib.request.Request(url, body, dict(headers))  # noqa: S310 - the scheme is checked above
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=TIMEOUT_SECONDS) as answer:
            return HttpResponse(answer.status, answer.headers.get_content_type(), answer.read(max_response_bytes))
    except urllib.error.HTTPError as error:
        with error:
            answer_body = _read_leniently(error, max_response_bytes)
            return HttpResponse(error.code, error.headers.get_content_type(), answer_body)
    except OSError as error:  # first, since an SSLCertVerificationError is a ValueError too
        raise _unreachable(error) from None
    except (http.client.InvalidURL, ValueError) as error:
        raise InvalidRequestError(f"the address or a header is invalid ({type(error).__name__})") from None
    except http.client.HTTPException as error:
        raise _unreachable(error) from None


def _read_leniently(answer: urllib.error.HTTPError, max_bytes: int) -> bytes:
    try:
        return answer.read(max_bytes)
    except (OSError, http.client.HTTPException):
        return b""


def _unreachable(error: Exception) -> DeliveryError:
    return DeliveryError(f"the receiver could not be reached ({type(error).__name__})")
