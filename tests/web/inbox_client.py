"""A client of the inbox that is not a browser: whatever a program on the machine could send it."""

import http.client
import json
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from tests.web.software_passkey import SoftwarePasskey

Json = dict[str, Any]
Answer = tuple[int, Any]


@dataclass(frozen=True)
class InboxClient:
    """Sends these headers with each request."""

    url: str
    headers: dict[str, str] = field(default_factory=dict)

    def request(self, method: str, path: str, body: str = "") -> Answer:
        """The status and the body, parsed if it is JSON."""
        headers = {"host": urlsplit(self.url).netloc, "origin": self.url, **self.headers}
        with closing(http.client.HTTPConnection(headers["host"], timeout=20)) as connection:
            connection.request(method, path, body or None, headers)
            reply = connection.getresponse()
            text = reply.read().decode()
        return reply.status, json.loads(text) if "json" in reply.headers.get("content-type", "") else text

    def get(self, path: str) -> Answer:
        return self.request("GET", path)

    def post(self, path: str, body: Json | None = None) -> Answer:
        return self.request("POST", path, json.dumps(body or {}))

    def sign_in(self, code: str) -> "InboxClient":
        """The client with the session that this code opens."""
        status, answer = self.request("POST", "/sign-in", f"code={code}")
        assert status == 200, answer
        return replace(self, headers={"authorization": f"Bearer {answer['token']}"})

    def enrol(self, passkey: SoftwarePasskey) -> Answer:
        status, options = self.post("/passkeys/options")
        return self.post("/passkeys", passkey.register(options)) if status == 200 else (status, options)

    def decide(self, id: str, passkey: SoftwarePasskey, verdict: str = "approve") -> Answer:
        status, options = self.post(f"/requests/{id}/options", {"verdict": verdict, "rationale": "looks fine"})
        return self.post(f"/requests/{id}/decide", passkey.sign(options)) if status == 200 else (status, options)
