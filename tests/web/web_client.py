"""A client of the pages at a real origin that is not a browser."""

import http.client
import json
import socket
import ssl
from contextlib import closing
from dataclasses import dataclass, field, replace
from http.cookies import SimpleCookie
from urllib.parse import urlsplit

from tests.web.inbox_client import Answer, InboxClient


class OwnMachineConnection(http.client.HTTPSConnection):
    """Connects to this machine, whatever the host is called."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext) -> None:
        super().__init__(host, port, timeout=20, context=context)
        self._tls, self._at = context, (host, port)

    def connect(self) -> None:
        connection = socket.create_connection(("127.0.0.1", self._at[1]), timeout=20)
        self.sock = self._tls.wrap_socket(connection, server_hostname=self._at[0])


@dataclass(frozen=True)
class WebClient(InboxClient):
    """Keeps its session in a cookie, as a browser does, also when an answer brings another one."""

    context: ssl.SSLContext = field(default_factory=ssl.create_default_context)
    cookies: dict[str, str] = field(default_factory=dict)
    port: int = 0
    """Where it connects, if that is not the port of the URL: a gateway behind a proxy."""

    def request(self, method: str, path: str, body: str = "") -> Answer:
        url = urlsplit(self.url)
        assert url.hostname is not None
        carried = {"cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())}
        headers = {"host": url.netloc, "origin": self.url, **(carried if self.cookies else {}), **self.headers}
        with closing(OwnMachineConnection(url.hostname, self.port or url.port or 443, self.context)) as connection:
            connection.request(method, path, body or None, headers)
            reply = connection.getresponse()
            text = reply.read().decode()
            for line in reply.headers.get_all("set-cookie") or ():
                for name, morsel in SimpleCookie(line).items():
                    self.cookies.pop(name, None)
                    if morsel.value:
                        self.cookies[name] = morsel.value
        return reply.status, json.loads(text) if "json" in reply.headers.get("content-type", "") else text

    def sign_in(self, code: str) -> "WebClient":
        client = replace(self, cookies={})
        status, answer = client.request("POST", "/sign-in", f"code={code}")
        assert status == 200, answer
        return client
