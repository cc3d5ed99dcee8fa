"""Asking a token endpoint (RFC 6749 §4.4, §4.1.3, §6; RFC 7636; RFC 8707). Nothing is asked twice by itself."""

import base64
import re
import time
from urllib.parse import quote

import httpx2 as httpx

from mcp_guard.settings import OAuthSettings
from mcp_guard.upstream.oauth.discovery import MOST_BYTES, Endpoints, NoToken, is_safe
from mcp_guard.upstream.oauth.keeping import Tokens

EARLY_SECONDS = 30.0


async def ask(
    http: httpx.AsyncClient, endpoints: Endpoints, said: OAuthSettings, secret: str, form: dict[str, str]
) -> Tokens:
    """One request to the token endpoint. Raises: NoToken, which holds no token and nothing that the server wrote."""
    if not is_safe(endpoints.token):
        raise NoToken("the token endpoint is neither https nor on this machine")
    body = {**form, "resource": endpoints.resource, **({"scope": said.scope} if said.scope else {})}
    headers = {"accept": "application/json"}
    if secret and not endpoints.posts_secret:
        pair = f"{quote(said.client_id, safe='')}:{quote(secret, safe='')}"
        headers["authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
    else:
        body |= {"client_id": said.client_id} | ({"client_secret": secret} if secret else {})
    try:
        response = await http.post(endpoints.token, data=body, headers=headers)
    except httpx.HTTPError as error:
        raise NoToken(f"the token endpoint cannot be reached: {type(error).__name__}") from None
    return read(response, endpoints, form.get("refresh_token", ""))


def read(response: httpx.Response, endpoints: Endpoints, refresh: str) -> Tokens:
    """The tokens in an answer; `refresh` is the refresh token that stays good if there is no other."""
    try:
        found = response.json() if len(response.content) <= MOST_BYTES else None
    except ValueError:
        found = None
    found = found if isinstance(found, dict) else {}
    if response.status_code != 200:
        said = str(found.get("error", ""))
        code = f" (`{said}`)" if re.fullmatch(r"[a-z_]{1,40}", said) else ""
        raise NoToken(f"the token endpoint answered with HTTP status {response.status_code}{code}")
    access, kind = found.get("access_token"), str(found.get("token_type", "")).lower()
    if not isinstance(access, str) or not re.fullmatch(r"[\x21-\x7e]+", access) or kind != "bearer":
        raise NoToken("the token endpoint gave no bearer token")
    lasts, new = found.get("expires_in"), found.get("refresh_token")
    renew_at = 0.0
    if isinstance(lasts, int | float) and lasts > 0:
        renew_at = time.time() + lasts - min(EARLY_SECONDS, lasts / 4)
    refresh = new if isinstance(new, str) and new else refresh
    return Tokens(access, refresh, renew_at, endpoints.token, endpoints.resource, endpoints.posts_secret)
