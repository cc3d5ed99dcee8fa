"""Who the guard is as a client where a person signs in."""

import asyncio
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx2 as httpx
import pytest

from mcp_guard.network import Network
from mcp_guard.settings import OAuthGrant, OAuthSettings
from mcp_guard.upstream.oauth.discovery import Endpoints, NoToken
from mcp_guard.upstream.oauth.registration import ClientRegistration, client_document, document_url
from mcp_guard.upstream.oauth.token_endpoint import ClientCredentials
from mcp_guard.upstream.oauth.token_storage import FileTokenStorage

URL, REDIRECT = "https://far.example/mcp", "https://guard.example/upstreams/callback/far"
NOBODY = OAuthSettings("", grant=OAuthGrant.AUTHORIZATION_CODE)
AT = Endpoints("https://far.example/token", "https://far.example/authorize", "https://far.example")


async def client_id(settings: OAuthSettings, at: Endpoints, document: str = "") -> str:
    async with httpx.AsyncClient() as http:
        client = ClientRegistration(REDIRECT, document, credentials=ClientCredentials("own"))
        return (await client.find(http, Network(), URL, settings, at)).settings.client_id


async def test_configured_client_comes_first_then_the_document() -> None:
    document = document_url("https://guard.example")
    assert document == "https://guard.example/oauth/client-metadata.json"
    takes = Endpoints(AT.token, AT.authorization, AT.issuer, takes_client_documents=True)
    assert await client_id(OAuthSettings("mine"), takes, document) == "mine"
    assert await client_id(NOBODY, takes, document) == document
    assert await client_id(OAuthSettings("", registration="document"), AT, document) == document
    with pytest.raises(NoToken, match="registers no clients automatically"):
        await client_id(NOBODY, takes)
    with pytest.raises(NoToken, match="registers no clients automatically"):
        await client_id(OAuthSettings("", registration="dynamic"), takes, document)


async def test_a_registration_endpoint_elsewhere_is_not_trusted() -> None:
    elsewhere = Endpoints(AT.token, AT.authorization, AT.issuer, registration="https://evil.example/register")
    with pytest.raises(NoToken, match="is not trusted"):
        await client_id(NOBODY, elsewhere)


def test_the_document_is_that_of_its_own_url() -> None:
    document = client_document("https://guard.example", ["far"])
    assert document["client_id"] == document_url("https://guard.example")
    assert REDIRECT in document["redirect_uris"]
    assert document["token_endpoint_auth_method"] == "none"
    assert document_url("http://localhost:8765") == ""


@dataclass
class Registrar:
    """An authorization server at which clients register themselves."""

    url: str = ""
    known: set[str] = field(default_factory=set)
    registered: int = 0
    registers: bool = True
    is_down: bool = False

    @property
    def endpoints(self) -> Endpoints:
        return Endpoints(f"{self.url}/token", f"{self.url}/authorize", self.url, registration=f"{self.url}/register")

    async def find(self, folder: Path, at: Endpoints | None = None) -> str:
        """The client id for a new sign-in, as each process that has this folder finds it."""
        registration = ClientRegistration(REDIRECT, kept=FileTokenStorage(folder, "client"))
        async with httpx.AsyncClient(trust_env=False) as http:
            client = await registration.find(http, Network(), f"{self.url}/mcp", NOBODY, at or self.endpoints)
        begun = await registration.find_begun(NOBODY, at or self.endpoints)
        assert begun == client
        return client.settings.client_id


@pytest.fixture
def registrar() -> Iterator[Registrar]:
    server = Registrar()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            if self.path == "/register" and server.registers:
                server.registered += 1
                id = f"client-{server.registered}"
                server.known.add(id)
                self.answer(201, {"client_id": id})
            elif server.is_down:
                self.answer(503, {})
            else:
                is_known = any(f"client_id={id}" in body.split("&") for id in server.known)
                self.answer(400, {"error": "invalid_grant" if is_known else "invalid_client"})

        def answer(self, status: int, members: dict[str, str]) -> None:
            body = json.dumps(members).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        server.url = f"http://127.0.0.1:{listening.server_port}"
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield server
        listening.shutdown()


async def test_a_registration_is_kept_until_the_server_has_forgotten_it(registrar: Registrar, tmp_path: Path) -> None:
    assert [await registrar.find(tmp_path) for _ in range(3)] == ["client-1"] * 3
    registrar.known.clear()
    registrar.is_down = True
    assert await registrar.find(tmp_path) == "client-1"  # an outage says nothing of the client
    registrar.is_down = False
    assert [await registrar.find(tmp_path) for _ in range(2)] == ["client-2"] * 2
    registrar.known.clear()
    registrar.registers = False
    with pytest.raises(NoToken, match="does not register the guard"):
        await registrar.find(tmp_path)
    assert registrar.registered == 2


async def test_processes_that_find_the_registration_forgotten_make_one(registrar: Registrar, tmp_path: Path) -> None:
    for number in (1, 2):
        assert {*await asyncio.gather(*(registrar.find(tmp_path) for _ in range(4)))} == {f"client-{number}"}
        registrar.known.clear()


async def test_a_registration_is_for_its_token_endpoint_only(registrar: Registrar, tmp_path: Path) -> None:
    assert await registrar.find(tmp_path) == "client-1"
    moved = replace(registrar.endpoints, token=f"{registrar.url}/moved")
    registration = ClientRegistration(REDIRECT, kept=FileTokenStorage(tmp_path, "client"))
    with pytest.raises(NoToken, match="no longer registered"):
        await registration.find_begun(NOBODY, moved)
    assert await registrar.find(tmp_path, moved) == "client-2"
