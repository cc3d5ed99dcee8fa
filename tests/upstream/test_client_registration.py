"""Who the guard is as a client where a person signs in."""

import httpx2 as httpx
import pytest

from mcp_guard.settings import OAuthGrant, OAuthSettings
from mcp_guard.upstream.oauth.discovery import Endpoints, NoToken
from mcp_guard.upstream.oauth.registration import ClientRegistration, client_document, document_url
from mcp_guard.upstream.oauth.token_endpoint import ClientCredentials

URL, REDIRECT = "https://far.example/mcp", "https://guard.example/upstreams/callback/far"
NOBODY = OAuthSettings("", grant=OAuthGrant.AUTHORIZATION_CODE)
AT = Endpoints("https://far.example/token", "https://far.example/authorize", "https://far.example")


async def client_id(settings: OAuthSettings, at: Endpoints, document: str = "") -> str:
    async with httpx.AsyncClient() as http:
        client = ClientRegistration(REDIRECT, document, credentials=ClientCredentials("own"))
        return (await client.find(http, URL, settings, at)).settings.client_id


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
