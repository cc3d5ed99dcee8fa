"""One POST of JSON, for the notifiers that need it. Follows no redirect; an error tells nothing of the address."""

import http.client
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

from mcp_guard.notify.message import Undelivered

SECONDS = 10


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def post(url: str, body: bytes, headers: Mapping[str, str]) -> None:
    """Raises: Undelivered unless the answer is a success."""
    if not url.startswith(("http://", "https://")):
        raise Undelivered("its address is neither http nor https")
    request = urllib.request.Request(url, body, {"content-type": "application/json", **headers})  # noqa: S310
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=SECONDS):
            return
    except urllib.error.HTTPError as error:
        raise Undelivered(f"it answered HTTP {error.code}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Undelivered(f"it could not be reached ({type(error).__name__})") from None
